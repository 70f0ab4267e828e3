import sys

import pytest

from esft.errors import EXIT_SPEC, SpecError
from esft.spec import DataSpec, TaskSpec
from esft_worker.tasks import (
    Example,
    Examples,
    Grade,
    Message,
    Split,
    Task,
    TaskError,
    TaskOptions,
    build_task,
    load_examples,
    load_task,
)
from esft_worker.tasks.countdown import Countdown

TRAIN = Split("train", size=2)


class Options(TaskOptions):
    how_many: int = 2


class Echo(Task[Options]):
    """Says its prompt again."""

    options_model = Options

    def examples(self, split, *, held_out=()):
        size = split.size or 0
        taken = {example.prompt for example in held_out}
        prompts = (f"say {number}" for number in range(size + len(taken)))
        return [Example(prompt) for prompt in prompts if prompt not in taken][:size]

    def grade(self, example, completion):
        right = float(completion == example.prompt)
        return Grade(reward=right, score=right)


class Half(Task[TaskOptions]):
    def examples(self, split, *, held_out=()):
        return []


class Raises(Echo):
    def examples(self, split, *, held_out=()):
        raise KeyError("answer")


class Complains(Echo):
    def examples(self, split, *, held_out=()):
        raise SpecError("spec.task.train.source: is missing")


class Listed(Echo):
    def examples(self, split, *, held_out=()):
        return [Example([Message("user", "lists are not hashable")])]


class Silent(Echo):
    def examples(self, split, *, held_out=()):
        return [Example("")]


class Impatient(Echo):
    grade_timeout_seconds = 0


class Unbuildable(Echo):
    def __init__(self, options):
        raise OSError("no disk")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_tasks", sys.modules[__name__])


def test_by_name():
    assert type(load_task("countdown", {})) is Countdown


def test_by_module_and_class():
    task = load_task("my_tasks:Echo", {"howMany": 3})
    assert task.options.how_many == 3
    assert task.grade(Example("say 1"), "say 1") == Grade(reward=1.0, score=1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "countdwn",
            r"there is no task 'countdwn' \(did you mean 'countdown'\?\)\. Fix: use one of countdown",
        ),
        ("no_such_module:Task", "importing no_such_module for task .* failed: ModuleNotFoundError"),
        ("my_tasks:Ecko", r"my_tasks has no class Ecko \(did you mean 'Echo'\?\)"),
        ("my_tasks:Options", "is not a subclass of esft_worker.tasks.Task"),
        ("my_tasks:TRAIN", "is not a subclass of esft_worker.tasks.Task"),
        ("my_tasks:Half", "does not define grade"),
        ("my_tasks:Impatient", "has grade_timeout_seconds 0"),
        ("my_tasks:", 'is not of the form "package.module:Class"'),
        (":Echo", 'is not of the form "package.module:Class"'),
    ],
)
def test_names_that_do_not_work(name, message):
    with pytest.raises(SpecError, match=rf"^spec\.task\.name: .*{message}"):
        load_task(name, {})


def test_a_module_that_fails_to_import(tmp_path, monkeypatch):
    (tmp_path / "broken_task.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="No module named 'nothing_of_that_name'"):
        load_task("broken_task:Task", {})


def test_a_task_that_cannot_be_built():
    with pytest.raises(TaskError, match=r"^spec\.task: my_tasks:Unbuildable raised OSError: no disk"):
        load_task("my_tasks:Unbuildable", {})


def test_options_that_are_not_json():
    with pytest.raises(SpecError, match=r"^spec\.task\.options: .*set.* Fix: use only strings"):
        load_task("my_tasks:Echo", {"howMany": {1}})


def test_train_is_told_of_test():
    examples = load_examples(load_task("my_tasks:Echo", {}), train=TRAIN, test=Split("test", size=3))
    assert [example.prompt for example in examples.of("test")] == ["say 0", "say 1", "say 2"]
    assert [example.prompt for example in examples.of("train")] == ["say 3", "say 4"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Raises", TaskError, r"Raises\.examples raised KeyError: 'answer'"),
        ("Listed", TaskError, r"Listed\.examples gave something else at 0"),
        ("Silent", TaskError, r"Silent\.examples gave something else at 0"),
        ("Complains", SpecError, r"spec\.task\.train\.source: is missing"),
    ],
)
def test_examples_that_do_not_work(name, kind, message):
    with pytest.raises(kind, match=message):
        load_examples(load_task(f"my_tasks:{name}", {}), train=TRAIN, test=None)


def test_no_examples():
    with pytest.raises(SpecError, match=r"^spec\.task\.test: there are no examples"):
        load_examples(load_task("my_tasks:Echo", {}), train=TRAIN, test=Split("test", size=0))


def test_fingerprint_sees_prompts_order_and_split():
    one, two = Example("one"), Example("two")
    chat = Example((Message("user", "one"),))
    variants = [
        Examples((one, two)),
        Examples((two, one)),
        Examples((one,), (two,)),
        Examples((chat, two)),
        Examples((Example((Message("system", "one"),)), two)),
    ]
    assert len({examples.fingerprint for examples in variants}) == len(variants)
    assert Examples((Example("one", {"answer": 1}), two)).fingerprint == variants[0].fingerprint
    assert len(variants[0].fingerprint) == 16


@pytest.mark.parametrize("test", [None, Split("test", 5, seed=1)])
def test_a_spec_is_built_as_it_says(test):
    data = None if test is None else DataSpec(size=test.size, seed=test.seed)
    spec = TaskSpec(name="countdown", options={"numbers": [3]}, train=DataSpec(size=TRAIN.size), test=data)
    task, examples = build_task(TaskSpec.model_validate(spec.model_dump(mode="json")))
    assert examples == load_examples(load_task("countdown", {"numbers": [3]}), train=TRAIN, test=test)
    assert type(task) is Countdown


def test_a_task_error_fails_the_run():
    assert TaskError.exit_code == EXIT_SPEC
