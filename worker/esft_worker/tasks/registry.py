"""Finds the task that a spec names, and builds its options and examples.

A task is named by an entry point of the group `esfinetune.tasks` (the built-in ones are entry points too, so there is
one way to find a task), or by "package.module:Class" for code that is merely importable. What comes from outside is
checked here, once, so that the rest of the worker can rely on it.
"""

import difflib
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from esft.errors import EsftError, SpecError
from pydantic import BaseModel, ValidationError

from esft_worker.tasks.base import Example, Examples, Split, Task, TaskError

ENTRY_POINT_GROUP = "esfinetune.tasks"


def load_task(name: str, options: Mapping[str, Any]) -> Task[Any]:
    """Build a task from `spec.task.name` and `spec.task.options`.

    Args:
        name: an entry point's name, or "package.module:Class".
        options: the task's options as they stand in the YAML file.

    Raises:
        SpecError: there is no such task, it cannot be imported, or an option is wrong; the message starts with
            the field.
    """
    task_class = _find(name)
    return task_class(_validated(task_class.options_model, options))


def load_examples(task: Task[Any], *, train: Split, test: Split | None) -> Examples:
    """Build a task's examples; the training split is told of the test split, to keep clear of it.

    Raises:
        SpecError: a split cannot be made, or comes out empty.
        TaskError: the task's own code raised, or made something other than examples.
    """
    held_out = () if test is None else _examples(task, test, held_out=())
    return Examples(train=_examples(task, train, held_out=held_out), test=held_out)


def _find(name: str) -> type[Task[Any]]:
    if ":" in name:
        return _task_class(name, EntryPoint(name=name, value=name, group=ENTRY_POINT_GROUP))
    found = {point.value: point for point in entry_points(group=ENTRY_POINT_GROUP, name=name)}
    if not found:
        known = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})
        raise SpecError(
            f"spec.task.name: there is no task {name!r}{_did_you_mean(name, known)}. Known: {', '.join(known)}; "
            'for a task of your own write "package.module:Class".'
        )
    if len(found) > 1:
        raise SpecError(
            f"spec.task.name: several installed packages offer a task {name!r} ({', '.join(sorted(found))}). "
            'Write the one you mean as "package.module:Class".'
        )
    return _task_class(name, next(iter(found.values())))


def _task_class(name: str, point: EntryPoint) -> type[Task[Any]]:
    module_name, _, class_name = point.value.partition(":")
    if not module_name or not class_name:
        raise SpecError(f'spec.task.name: {name!r} is not of the form "package.module:Class".')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # code from outside can raise anything on import
        raise SpecError(
            f"spec.task.name: cannot import {module_name!r} for task {name!r}: {describe(error)}. "
            "Install the package that holds it where the worker runs."
        ) from error
    task_class = getattr(module, class_name, None)
    if task_class is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise SpecError(
            f"spec.task.name: module {module_name!r} has no {class_name!r}{_did_you_mean(class_name, classes)}."
        )
    if not (inspect.isclass(task_class) and issubclass(task_class, Task)):
        raise SpecError(f"spec.task.name: {point.value!r} is not a subclass of esft_worker.tasks.Task.")
    if inspect.isabstract(task_class):
        missing = ", ".join(sorted(task_class.__abstractmethods__))
        raise SpecError(f"spec.task.name: {point.value!r} is incomplete; it has to define {missing}.")
    return task_class


def _validated(model: type[BaseModel], options: Mapping[str, Any]) -> BaseModel:
    """Validate as JSON: there a list is the only sequence, so that strict models can still have tuples."""
    try:
        text = json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"spec.task.options: {error}. Only strings, numbers, booleans, lists and mappings can be options."
        ) from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        known = [info.alias or key for key, info in model.model_fields.items()]
        problems = [
            _problem(detail["loc"], detail["type"], detail["msg"], known) for detail in error.errors()
        ]
        raise SpecError("; ".join(problems)) from error


def _problem(location: tuple[int | str, ...], kind: str, message: str, known: Sequence[str]) -> str:
    path = "spec.task.options" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
    )
    if kind == "extra_forbidden" and len(location) == 1:
        listed = ", ".join(known) if known else "none"
        return f"{path}: unknown option{_did_you_mean(str(location[0]), known)}. Known: {listed}"
    return f"{path}: {message[:1].lower()}{message[1:]}"


def _examples(task: Task[Any], split: Split, *, held_out: Sequence[Example]) -> tuple[Example, ...]:
    where = f"spec.task.{split.name}"
    try:
        examples = tuple(task.examples(split, held_out=held_out))
    except EsftError:
        raise
    except Exception as error:  # code from outside can raise anything
        raise TaskError(f"{where}: {type(task).__name__}.examples raised {describe(error)}") from error
    if not examples:
        raise SpecError(f"{where}: gives no examples. Ask for at least one.")
    for index, example in enumerate(examples):
        if not (isinstance(example, Example) and _is_prompt(example.prompt)):
            raise TaskError(
                f"{where}: example {index} of {type(task).__name__} is not an Example whose prompt is a text "
                "or a tuple of messages with role and content."
            )
    return examples


def _is_prompt(prompt: object) -> bool:
    if isinstance(prompt, str):
        return bool(prompt)
    return (
        isinstance(prompt, tuple)
        and bool(prompt)
        and all(isinstance(message, Mapping) and {"role", "content"} == message.keys() for message in prompt)
    )


def describe(error: BaseException) -> str:
    """Put an exception in one line of at most 300 characters: its type and its message."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= 300 else line[:297] + "..."


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
