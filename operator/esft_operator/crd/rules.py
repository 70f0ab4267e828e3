"""The rules that the API server checks, as x-kubernetes-validations: those of the spec, and what may not change.

The first come from the table in esft.spec.rules, the second from IMMUTABLE and RISING: one for each field, so that
the refusal names the field.

Absent and null are the same to `has()`, and not the same to `==`: an object with optional fields is never compared
as a whole, or taking the line `size: null` out of a file would be refused as a change.
"""

from collections.abc import Iterator

from esft.spec import IMMUTABLE, RISING, Metadata, rules_by_path
from esft_operator.crd.schema import Schema, at

Validation = dict[str, str]


def add_rules(resource: Schema) -> None:
    """Put all rules where they belong in the resource's schema."""
    for path, validation in (("", _name_is_short()), *_agreeing(), *_unchanging(resource)):
        at(resource, path).setdefault("x-kubernetes-validations", []).append(validation)


def _name_is_short() -> Validation:
    """The bounds of the name: a schema can state none of its own on metadata."""
    name = Metadata.model_json_schema()["properties"]["name"]
    longest, pattern = name["maxLength"], name["pattern"]
    return {
        "rule": f"self.metadata.name.size() <= {longest} && self.metadata.name.matches('{pattern}')",
        "message": f"metadata.name must be at most {longest} lower-case letters, digits and -, as names of pods are "
        "made from it. Fix: choose a shorter or simpler name",
    }


def _agreeing() -> Iterator[tuple[str, Validation]]:
    for path, rule in rules_by_path():
        broken = rule.without_values()
        text = f"{broken.message}. Fix: {broken.fix}"
        yield path, _validation(path, broken.field, rule.cel, text, rule.reason)


def _unchanging(resource: Schema) -> Iterator[tuple[str, Validation]]:
    for section in IMMUTABLE:
        parent, _, name = f"spec.{section}".rpartition(".")
        yield from _field_stays(parent, name, at(resource, f"{parent}.{name}"))


def _field_stays(parent: str, name: str, field: Schema) -> Iterator[tuple[str, Validation]]:
    """Rules on the object that holds the field, since a rule on an optional field does not see it come and go."""
    path = f"{parent}.{name}"
    if path in RISING:
        text = "may only rise. Fix: set the old value or more; to end a run early, suspend or delete it"
        yield parent, _validation(parent, name, f"self.{name} >= oldSelf.{name}", text, "FieldValueForbidden")
        return
    inner = field.get("properties", {})
    if field.get("nullable"):
        same = f"has(self.{name}) == has(oldSelf.{name})"
        yield _stays(parent, name, same if inner else f"{same} && (!has(self.{name}) || {_equal(name)})")
    elif not inner:
        yield _stays(parent, name, _equal(name))
    for child, schema in inner.items():
        yield from _field_stays(path, child, schema)


def _equal(name: str) -> str:
    return f"self.{name} == oldSelf.{name}"


def _stays(parent: str, name: str, cel: str) -> tuple[str, Validation]:
    text = (
        "cannot change once the resource exists. Fix: set the old value again, or make a resource of another name for "
        "another run"
    )
    return parent, _validation(parent, name, cel, text, "FieldValueForbidden")


def _validation(path: str, field: str, cel: str, text: str, reason: str) -> Validation:
    """An entry about a field (`replicas`) of the object at a path (`spec.workers`)."""
    message = f"{path}.{field} {text}".removeprefix("spec.")
    return {"rule": cel, "message": message, "fieldPath": f".{field}", "reason": reason}
