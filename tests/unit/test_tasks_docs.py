"""The task that docs/tasks.md teaches with has to work as it stands there."""

import re
import sys
import types
from pathlib import Path

import pytest

from esft.errors import SpecError
from esft_worker.tasks import Grade, Split, load_examples, load_task
from esft_worker.tasks.countdown import CountdownOptions

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture
def _taught(text, monkeypatch):
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = types.ModuleType("my_tasks")
    exec(compile(source, "docs/tasks.md", "exec"), vars(module))  # noqa: S102 - our own page
    monkeypatch.setitem(sys.modules, "my_tasks", module)


@pytest.mark.usefixtures("_taught")
def test_the_example_works():
    task = load_task("my_tasks:Reverse", {"length": 4})
    examples = load_examples(task, train=Split("train", 50), test=Split("test", 20))
    assert len(examples.train) == 50
    assert len(examples.test) == 20
    assert not {example.prompt for example in examples.train} & {example.prompt for example in examples.test}
    example = examples.train[0]
    answer = example.data["answer"]
    assert task.grade(example, f" {answer}\n") == Grade(1.0, 1.0)
    assert task.grade(example, answer[:2]) == Grade(0.5, 0.0)
    assert task.grade(example, "") == Grade(0.0, 0.0)


@pytest.mark.usefixtures("_taught")
def test_the_quoted_message_is_the_real_one(text):
    with pytest.raises(SpecError) as error:
        load_task("my_tasks:Reverse", {"length": 51})
    message = str(error.value).removesuffix(".")
    assert f"`{message}`" in " ".join(text.split())


def test_the_table_of_options_is_current(text):
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", text, re.MULTILINE))
    rows = {name: default for name, default in rows.items() if name != "grade_timeout_seconds"}
    fields = CountdownOptions.model_fields.values()
    assert rows == {
        str(field.alias): str(list(field.default) if isinstance(field.default, tuple) else field.default)
        for field in fields
    }
