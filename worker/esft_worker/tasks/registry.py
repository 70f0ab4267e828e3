"""Finds the task that a spec names, and builds its options and examples.

A task is named by an entry point of the group `esfinetune.tasks` (the built-in ones are entry points too, so
there is one way to find a task), or by "package.module:Class" for code that is merely importable. What comes
from outside is checked here, once, so that the rest of the worker can rely on it.
"""

import difflib
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from esft.errors import EsftError, SpecError
from esft.problems import dotted
from esft.spec import DataSpec, TaskSpec
from esft_worker.tasks.base import Example, Examples, Message, Split, SplitName, Task, TaskError

ENTRY_POINT_GROUP: Final = "esfinetune.tasks"

_LONGEST_DESCRIPTION: Final = 300
_LONGEST_TIMEOUT_SECONDS: Final = 86_400


def build_task(spec: TaskSpec) -> tuple[Task[Any], Examples]:
    """Build the task of a spec and its examples.

    Raises:
        SpecError: one of them cannot be made.
    """
    task = load_task(spec.name, spec.options)
    test = None if spec.test is None else _split("test", spec.test)
    return task, load_examples(task, train=_split("train", spec.train), test=test)


def load_task(name: str, options: Mapping[str, Any]) -> Task[Any]:
    """Build a task from `spec.task.name` and `spec.task.options`.

    Args:
        name: an entry point's name, or "package.module:Class".
        options: the task's options as they stand in the YAML file.

    Raises:
        SpecError: there is no such task, it cannot be imported, or an option is wrong; the message starts
            with the field.
    """
    task_class = _task_class(name, _entry_point(name))
    validated = _validated(task_class.options_model, options)
    try:
        return task_class(validated)
    except EsftError:
        raise
    except Exception as error:  # code from outside can raise anything
        raise TaskError(f"spec.task: {name} raised {describe(error)} when it was built.") from error


def load_examples(task: Task[Any], *, train: Split, test: Split | None) -> Examples:
    """Build a task's examples; the training split is told of the test split, to keep clear of it.

    Raises:
        SpecError: a split cannot be made, or comes out empty.
        TaskError: the task's own code raised, or made something other than examples.
    """
    held_out = () if test is None else _examples(task, test, held_out=())
    return Examples(train=_examples(task, train, held_out=held_out), test=held_out)


def describe(error: BaseException) -> str:
    """Put an exception in one short line: its type and its message."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= _LONGEST_DESCRIPTION else f"{line[: _LONGEST_DESCRIPTION - 3]}..."


def _split(name: SplitName, data: DataSpec) -> Split:
    return Split(name=name, size=data.size, seed=data.seed, source=data.source)


def _entry_point(name: str) -> EntryPoint:
    if ":" in name:
        return EntryPoint(name=name, value=name, group=ENTRY_POINT_GROUP)
    found = {point.value: point for point in entry_points(group=ENTRY_POINT_GROUP, name=name)}
    if not found:
        known = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})
        raise SpecError(
            f"spec.task.name: there is no task {name!r}{_did_you_mean(name, known)}. "
            f'Fix: use one of {", ".join(known)}, or "package.module:Class" for a task of your own.'
        )
    if len(found) > 1:
        raise SpecError(
            f"spec.task.name: several installed packages offer a task {name!r}. "
            f"Fix: write the one you mean in full: {' or '.join(sorted(found))}."
        )
    return next(iter(found.values()))


def _task_class(name: str, point: EntryPoint) -> type[Task[Any]]:
    module_name, _, class_name = point.value.partition(":")
    if not module_name or not class_name:
        raise SpecError(f'spec.task.name: {name!r} is not of the form "package.module:Class".')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # code from outside can raise anything on import
        raise SpecError(
            f"spec.task.name: importing {module_name} for task {name!r} failed: {describe(error)}. "
            "Fix: install the package that holds it where the worker runs."
        ) from error
    task_class = getattr(module, class_name, None)
    if task_class is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise SpecError(
            f"spec.task.name: {module_name} has no class {class_name}{_did_you_mean(class_name, classes)}."
        )
    if not (inspect.isclass(task_class) and issubclass(task_class, Task)):
        raise SpecError(f"spec.task.name: {point.value} is not a subclass of esft_worker.tasks.Task.")
    if inspect.isabstract(task_class):
        missing = " and ".join(sorted(task_class.__abstractmethods__))
        raise SpecError(f"spec.task.name: {point.value} does not define {missing}.")
    timeout = task_class.grade_timeout_seconds
    if not (isinstance(timeout, int | float) and 0 < timeout <= _LONGEST_TIMEOUT_SECONDS):
        raise SpecError(
            f"spec.task.name: {point.value} has grade_timeout_seconds {timeout!r}. "
            f"Fix: give it a number above 0 and at most {_LONGEST_TIMEOUT_SECONDS}."
        )
    return task_class


def _validated(model: type[BaseModel], options: Mapping[str, Any]) -> BaseModel:
    """Validate as JSON, where a list is the only sequence: strict models can then have tuples."""
    try:
        text = json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"spec.task.options: {error}. Fix: use only strings, numbers, booleans, lists and mappings."
        ) from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        known = [info.alias or key for key, info in model.model_fields.items()]
        problems = [
            _problem(detail["loc"], detail["type"], detail["msg"], known) for detail in error.errors()
        ]
        raise SpecError(" ".join(problems)) from error


def _problem(location: tuple[int | str, ...], kind: str, message: str, known: Sequence[str]) -> str:
    path = dotted(("spec", "task", "options", *location))
    if kind == "extra_forbidden" and len(location) == 1:
        suggestion = _did_you_mean(str(location[0]), known)
        return f"{path}: unknown option{suggestion}. Known: {', '.join(known) or 'none'}."
    return f"{path}: {message[:1].lower()}{message[1:]}."


def _examples(task: Task[Any], split: Split, *, held_out: Sequence[Example]) -> tuple[Example, ...]:
    where, maker = f"spec.task.{split.name}", f"{type(task).__name__}.examples"
    try:
        examples = tuple(task.examples(split, held_out=held_out))
    except EsftError:
        raise
    except Exception as error:  # code from outside can raise anything
        raise TaskError(f"{where}: {maker} raised {describe(error)}.") from error
    if not examples:
        raise SpecError(f"{where}: there are no examples. Fix: ask for at least one.")
    for index, example in enumerate(examples):
        if not (isinstance(example, Example) and _is_prompt(example.prompt)):
            raise TaskError(
                f"{where}: {maker} gave something else at {index} than an Example whose prompt is a "
                "non-empty text or a non-empty tuple of Message."
            )
    return examples


def _is_prompt(prompt: object) -> bool:
    if isinstance(prompt, tuple):
        return bool(prompt) and all(isinstance(message, Message) for message in prompt)
    return isinstance(prompt, str) and bool(prompt)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
