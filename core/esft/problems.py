"""What is wrong with a spec, in sentences for people: the same on a command line and in a resource's status.

Pydantic's own messages say what a parser wanted ("Input should be a valid dictionary or instance of
Checkpoint"); these name the field, what it must be, what it is, and what to write instead, taken from the
schema itself.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]

_MAX_SHOWN = 80
_KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "an object",
    "dict_type": "an object",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_SIZES = {
    "string_too_long": ("at most {max_length} characters long", "shorten it"),
    "string_too_short": ("at least {min_length} characters long", "fill it in"),
    "too_long": ("at most {max_length} entries long", "remove some"),
    "too_short": ("at least {min_length} entries long", "add some"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document.

    Attributes:
        path: field, as `spec.evolution.sigma`; empty when it is about the whole file.
        message: what is wrong, to be read after the path.
        fix: what to do, an imperative without a full stop.
        line: line in the file, from 1; None when unknown.
        override: the `--set` argument at fault, instead of a line.
    """

    path: str
    message: str
    fix: str
    line: int | None = None
    override: str | None = None

    @property
    def sentence(self) -> str:
        """Without its origin: `spec.evolution.sigma: must be greater than 0, got -1. Fix: ...`."""
        subject = f"{self.path}: " if self.path else ""
        return f"{subject}{self.message}. Fix: {self.fix}"

    def render(self, source: str) -> str:
        """One line that starts with the origin: `SOURCE:LINE`, `SOURCE`, or the override."""
        if self.override is not None:
            return f"--set {self.override}: {self.sentence}"
        origin = source if self.line is None else f"{source}:{self.line}"
        return f"{origin}: {self.sentence}"


def problems_of(error: ValidationError, root: type[BaseModel], *, prefix: Location = ()) -> list[Problem]:
    """All problems in a pydantic error, without origins.

    Args:
        error: what validating `root` raised.
        root: the model that was validated.
        prefix: where in the document that model stands, e.g. ("spec",).
    """
    return [
        Problem(path=dotted(prefix + location), message=message, fix=fix)
        for location, message, fix in explanations(error, root)
    ]


def explanations(error: ValidationError, root: type[BaseModel]) -> Iterator[tuple[Location, str, str]]:
    """Location, message and fix of everything in a pydantic error."""
    details = error.errors(include_url=False)
    for detail in details:
        location = detail["loc"]
        if detail["type"] == "rule":
            for violation in detail["ctx"]["violations"]:
                yield (*location, *violation.field.split(".")), violation.message, violation.fix
        elif not _echoes(detail, details):
            yield location, *_explain(detail, root)


def _echoes(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Whether it only says that a list is too short because an entry of it was refused."""
    location = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in details
    )


def _explain(detail: ErrorDetails, root: type[BaseModel]) -> tuple[str, str]:
    """Message and fix of one pydantic error."""
    kind, location, value = detail["type"], detail["loc"], detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    name = str(location[-1]) if location else ""
    field = field_at(root, location)
    match kind:
        case "missing":
            message, fix = "is required", _how_to_write(name, field)
        case "extra_forbidden":
            message, fix = "is not a field", suggestion(root, location)
        case "literal_error":
            message, fix = _explain_choice(name, value, field)
        case "string_pattern_mismatch":
            message, fix = f"has the wrong form: {shown(value)}", _how_to_write(name, field)
        case _ if kind in _BOUNDS:
            words, limit = _BOUNDS[kind]
            message = f"must be {words} {_plain_number(context[limit])}, got {shown(value)}"
            fix = f"use a number {_range(field)}"
        case _ if kind in _KINDS:
            message, fix = _explain_type(_KINDS[kind], name, value, field)
        case _ if kind in _SIZES:
            words, fix = _SIZES[kind]
            message = f"must be {words.format(**context)}"
        case _:
            message, fix = detail["msg"], context.get("fix", _how_to_write(name, field))
    return message, fix


def _explain_choice(name: str, value: object, field: FieldInfo | None) -> tuple[str, str]:
    choices = [str(choice) for choice in get_args(field.annotation)] if field else []
    close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    wanted = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices)
    return f"must be {wanted}, got {shown(value)}", f"write `{name}: {close[0] if close else choices[0]}`"


def _explain_type(wanted: str, name: str, value: object, field: FieldInfo | None) -> tuple[str, str]:
    if value is None:
        optional = field is not None and not field.is_required()
        return f"is empty; it must be {wanted}", (
            "remove the line to have the default, or give a value" if optional else _how_to_write(name, field)
        )
    message = f"must be {wanted}, got {shown(value)}"
    if isinstance(value, str) and wanted != "text" and _reads_as_plain_value(value):
        return message, f"remove the quotes: `{name}: {value}`"
    if wanted == "text" and not isinstance(value, dict | list):
        return message, f"put it in quotes: `{name}: {json.dumps(json.dumps(value))}`"
    if wanted == "a list":
        return message, f"write `{name}: [...]`"
    return message, _how_to_write(name, field)


def _reads_as_plain_value(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _range(field: FieldInfo | None) -> str:
    """The bounds of a number, and its default: `greater than 0 and at most 1 (default 0.001)`."""
    words = []
    for bound in field.metadata if field else ():
        match bound:
            case Gt(gt=limit):
                words.append(f"greater than {limit}")
            case Ge(ge=limit):
                words.append(f"at least {limit}")
            case Lt(lt=limit):
                words.append(f"less than {limit}")
            case Le(le=limit):
                words.append(f"at most {limit}")
    default = "" if field is None or field.is_required() else f" (default {shown(field.default)})"
    return " and ".join(words) + default


def _plain_number(value: float) -> float:
    """Without the fraction that pydantic gives to a whole bound."""
    return int(value) if value == int(value) else value


def _how_to_write(name: str, field: FieldInfo | None) -> str:
    if field is None:
        return "correct it"
    meaning = f" ({field.description})" if field.description else ""
    if model := _model_of(field):
        return f"give an object with {', '.join(fields_of(model))}{meaning}"
    if field.examples:
        return f"write `{name}: {shown(field.examples[0], quoted=False)}`{meaning}"
    if not field.is_required() and isinstance(field.default, int | float | str):
        return f"write `{name}: {shown(field.default, quoted=False)}`{meaning}"
    return f"write `{name}`{meaning}"


def suggestion(root: type[BaseModel], location: Location) -> str:
    """What to write instead of a field that does not exist: a near name, or the same name elsewhere."""
    name = to_camel(str(location[-1]))
    parent = model_at(root, location[:-1])
    siblings = list(fields_of(parent)) if parent else []
    if name not in siblings and (elsewhere := [path for path in _paths(root) if path[-1] == name]):
        return f"did you mean `{'.'.join(elsewhere[0])}`?"
    if close := difflib.get_close_matches(name, siblings, n=1):
        return f"did you mean `{close[0]}`?"
    return f"remove it; the fields here are {', '.join(siblings)}" if siblings else "remove it"


def field_at(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """The schema's field at a location; None where there is none, and below free objects and lists."""
    if not location:
        return None
    parent = model_at(root, location[:-1])
    return fields_of(parent).get(str(location[-1])) if parent else None


def model_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model whose fields stand at a location; None where the schema has no object."""
    model: type[BaseModel] | None = root
    for name in location:
        field = fields_of(model).get(str(name)) if model else None
        model = _model_of(field) if field else None
    return model


def models_of(root: type[BaseModel], location: Location = ()) -> Iterator[tuple[Location, type[BaseModel]]]:
    """A model and all models in it with their locations, from the outside in; `location` is the first one's."""
    yield location, root
    for name, field in fields_of(root).items():
        if child := _model_of(field):
            yield from models_of(child, (*location, name))


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by the names they have in documents."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


def _paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in fields_of(model).items():
        yield (name,)
        if child := _model_of(field):
            for path in _paths(child):
                yield name, *path


def dotted(location: Location) -> str:
    """`("spec", "include", 0)` as `spec.include[0]`."""
    text = ""
    for name in location:
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text


def shown(value: object, *, quoted: bool = True) -> str:
    """A value as it would stand in YAML, cut to a readable length."""
    text = (
        value if isinstance(value, str) and not quoted else json.dumps(value, default=str, ensure_ascii=False)
    )
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
