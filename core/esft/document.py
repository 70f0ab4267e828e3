"""Reads an ESFineTune from a YAML file, and says everything that is wrong with it, line by line.

A file may hold other documents (a Secret, a Namespace), which are left alone, but only one ESFineTune: a run
has one name and one result. A path such as `file://./model` is relative to the file's folder, in overrides
too; it means nothing in a cluster, and the API server refuses it.

Limits: 1 MiB, and those of esft.yaml_nodes. Rules about several fields of an object are checked once each of
its fields is right, so correcting a file may take two rounds.
"""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from esft.errors import SpecError
from esft.problems import Location, Problem, dotted, explanations, field_at, model_at, shown, suggestion
from esft.spec import API_VERSION, KIND, ESFineTune
from esft.yaml_nodes import TooLargeError, Values, compose, line_of

MAX_BYTES = 2**20

_RELATIVE = ("file://./", "file://../")
_PATHS: tuple[tuple[str, ...], ...] = (
    ("spec", "model", "source"),
    ("spec", "task", "train", "source"),
    ("spec", "task", "test", "source"),
    ("spec", "checkpoint", "storage", "uri"),
)


class DocumentError(SpecError):
    """A document that cannot be used; its text has one line a problem.

    Attributes:
        source: name of the file, as given.
        problems: all that was found, by line.
    """

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0)))
        super().__init__("\n".join(problem.render(source) for problem in self.problems))


def load(path: Path, overrides: Sequence[str] = ()) -> ESFineTune:
    """Read, override and check the one ESFineTune in a YAML file.

    Args:
        path: the file.
        overrides: `FIELD=VALUE` each; FIELD is dotted, with or without `spec.` before it; VALUE is YAML.

    Raises:
        DocumentError: with everything that is wrong.
    """
    return parse(_read(path), source=str(path), folder=path.absolute().parent, overrides=overrides)


def parse(text: str, *, source: str, folder: Path, overrides: Sequence[str] = ()) -> ESFineTune:
    """Like `load`, from text; `source` is its name in messages, `folder` what relative paths start from."""
    values = Values()
    node = _choose(_documents(text, source), source)
    try:
        content: dict[str, Any] = values.make(node, ())
        for override in overrides if not values.problems else ():
            _apply(override, content, values)
    except TooLargeError as error:
        raise _about_file(source, str(error), "make it smaller") from error
    if values.problems:
        raise DocumentError(source, values.problems)
    _check_kind(content, source, values)
    _make_absolute(content, folder)
    try:
        return ESFineTune.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [values.problem(*explanation) for explanation in explanations(error, ESFineTune)]
        raise DocumentError(source, problems) from error


def _read(path: Path) -> str:
    source = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _about_file(source, "there is no such file", "check the path") from error
    except IsADirectoryError as error:
        raise _about_file(source, "is a directory", "name the YAML file in it") from error
    except OSError as error:
        fix = "check the file and its permissions"
        raise _about_file(source, f"cannot be read ({error.strerror})", fix) from error
    if len(raw) > MAX_BYTES:
        raise _about_file(source, f"is larger than {MAX_BYTES // 2**20} MiB", "name the YAML file of a run")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _about_file(source, "is not text in UTF-8", "save the file as UTF-8", line) from error


def _documents(text: str, source: str) -> list[yaml.Node]:
    try:
        return compose(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _about_file(source, "has a character that YAML does not allow", "remove it", line) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "it cannot be parsed"
        fix = "check indentation, colons and quotes on this line and the one before"
        raise _about_file(source, f"is not YAML: {reason}", fix, mark.line + 1 if mark else None) from error
    except TooLargeError as error:
        raise _about_file(source, str(error), "make it flatter") from error


def _choose(nodes: Sequence[yaml.Node], source: str) -> yaml.Node:
    """The one document to use; a lone document is used whatever its kind, to be refused with its line."""
    if not nodes:
        raise _about_file(source, "is empty", f"write a document with `kind: {KIND}`")
    runs = [node for node in nodes if _kind(node) == KIND] if len(nodes) > 1 else list(nodes)
    if not runs:
        kinds = ", ".join(_kind(node) or "none" for node in nodes)
        message = f"has no {KIND}; the kinds of its documents are {kinds}"
        raise _about_file(source, message, f"add a document with `kind: {KIND}`")
    if len(runs) > 1:
        raise _about_file(source, f"has a second {KIND}", "give each run its own file", line_of(runs[1]))
    if not isinstance(runs[0], yaml.MappingNode):
        fix = f"start with `apiVersion: {API_VERSION}`"
        raise _about_file(source, "is not an object with fields", fix, line_of(runs[0]))
    return runs[0]


def _kind(node: yaml.Node) -> str | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "kind" and isinstance(value, yaml.ScalarNode):
                return str(value.value)
    return None


def _check_kind(content: dict[str, Any], source: str, values: Values) -> None:
    """A document of another kind has one problem, not one a field."""
    for key, wanted in (("kind", KIND), ("apiVersion", API_VERSION)):
        if content.get(key) != wanted:
            message = f"must be {wanted}, got {shown(content[key])}" if key in content else "is required"
            raise DocumentError(source, [values.problem((key,), message, f"write `{key}: {wanted}`")])


def _apply(override: str, content: dict[str, Any], values: Values) -> None:
    """Set the field that `FIELD=VALUE` names, making the objects above it where they are absent or null."""

    def refuse(location: Location, message: str, fix: str) -> None:
        values.problems.append(Problem(dotted(location), message, fix, override=override))

    path, equals, text = override.partition("=")
    names = tuple(path.strip().removeprefix("spec.").split("."))
    location: Location = ("spec", *names)
    if not equals or not all(names):
        return refuse((), "is not FIELD=VALUE", "write it like `--set evolution.sigma=0.002`")
    if unknown := _unknown(location):
        return refuse(unknown, "is not a field", suggestion(ESFineTune, unknown))
    try:
        nodes = compose(text)
    except yaml.YAMLError:
        return refuse(location, f"has a value that is not YAML: {text}", "put the value in quotes")
    holder = content
    for depth, name in enumerate(("spec", *names[:-1]), start=1):
        if holder.get(name) is None:
            holder[name] = {}
        if not isinstance(holder[name], dict):
            return refuse(location[:depth], f"is {shown(holder[name])}, not an object", "set it as a whole")
        holder = holder[name]
    values.forget(location)
    values.origins[location] = override
    holder[names[-1]] = values.make(nodes[0], location, override) if nodes else None
    return None


def _unknown(location: Location) -> Location | None:
    """A location up to the first name that the schema does not have; below a free object it has everything."""
    for end in range(1, len(location) + 1):
        here = location[:end]
        if field_at(ESFineTune, here) is None:
            return here
        if end < len(location) and model_at(ESFineTune, here) is None:
            return None if _is_free(here) else location[: end + 1]
    return None


def _is_free(location: Location) -> bool:
    """Whether the schema has an object without a schema of its own at a location."""
    schema = field_at(ESFineTune, location)
    return schema is not None and get_origin(schema.annotation) is dict


def _make_absolute(content: dict[str, Any], folder: Path) -> None:
    for *parents, name in _PATHS:
        holder: Any = content
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        uri = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(uri, str) and uri.startswith(_RELATIVE):
            holder[name] = "file://" + os.path.normpath(folder / uri.removeprefix("file://"))


def _about_file(source: str, message: str, fix: str, line: int | None = None) -> DocumentError:
    return DocumentError(source, [Problem("", message, fix, line=line)])
