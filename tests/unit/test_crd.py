"""The CRD as text: current, complete, bounded. What the API server makes of it: tests/cluster/test_crd.py."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from crd import MANIFEST, ROOT, TEMPLATE, definition, render
from esft.spec import IMMUTABLE, RISING, ESFineTuneSpec
from esft_operator.crd.schema import at, structural_schema

RESOURCE: dict[str, Any] = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def schemas(schema: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]")


OWN = {path: schema for path, schema in schemas(RESOURCE) if path.startswith(("spec", "status"))}
VALIDATIONS = [
    (path, entry)
    for path, schema in schemas(RESOURCE)
    for entry in schema.get("x-kubernetes-validations", ())
]


@pytest.mark.parametrize("path", [MANIFEST, TEMPLATE], ids=str)
def test_the_files_are_current(path):
    assert (ROOT / path).read_text(encoding="utf-8") == render()[path], "run: make crd"


def test_the_chart_installs_the_same():
    """Read as Helm would: with what the template language escapes put back."""
    _, guard, *lines, end = render()[TEMPLATE].splitlines()
    assert (guard, end) == ("{{- if .Values.crds.install }}", "{{- end }}")
    document = yaml.safe_load("\n".join(lines).replace('{{ "{{" }}', "{{"))
    assert document["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert document == yaml.safe_load(render()[MANIFEST]) == definition()
    assert re.findall(r"{{(?! \"{{\" }})", "\n".join(lines)) == []


@pytest.mark.parametrize("path", OWN)
def test_every_field_teaches_and_is_bounded(path):
    schema = OWN[path]
    kind = schema["type"]
    assert schema.get("description") or path.endswith("[]")
    assert not {"title", "examples", "anyOf", "$ref", "additionalProperties"} & schema.keys()
    if kind == "string":
        assert "maxLength" in schema or "enum" in schema
    if kind == "array":
        assert "maxItems" in schema
    if kind == "object":
        assert "properties" in schema or schema["x-kubernetes-preserve-unknown-fields"]


@pytest.mark.parametrize("path", [path for path, schema in OWN.items() if "pattern" in schema])
def test_patterns_mean_the_same_to_both(path):
    r"""Go's \w, \d and \b are ASCII, pydantic's are not; Go has no look-around."""
    pattern = OWN[path]["pattern"]
    assert not re.search(r"\\[wWdDbB]|\(\?", pattern)
    assert pattern.startswith("^")
    assert pattern.endswith("$")


@pytest.mark.parametrize(("path", "entry"), VALIDATIONS)
def test_a_rule_names_its_field_and_the_fix(path, entry):
    field = f"{path}{entry['fieldPath']}" if path else "metadata.name"
    assert entry["message"].startswith(f"{field.removeprefix('spec.')} ")
    assert ". Fix: " in entry["message"]
    assert not path or at(RESOURCE, field)


def fields_below(path: str) -> Iterator[str]:
    """The fields at and below a path that hold values, free objects included."""
    schema = at(RESOURCE, path)
    if not schema.get("properties"):
        yield path
    for name in schema.get("properties", {}):
        yield from fields_below(f"{path}.{name}")


def test_every_immutable_field_has_its_rule():
    guarded = {f"{path}{entry['fieldPath']}" for path, entry in VALIDATIONS if "oldSelf" in entry["rule"]}
    wanted = {field for section in IMMUTABLE for field in fields_below(f"spec.{section}")}
    assert wanted <= guarded
    assert wanted >= RISING
    assert not any(
        "oldSelf" in entry["rule"] for path, entry in VALIDATIONS if path.startswith("spec.workers")
    )


def test_defaults_are_whole_objects_without_nulls():
    defaults = {path: schema["default"] for path, schema in OWN.items() if "default" in schema}
    assert "null" not in json.dumps(defaults)
    assert defaults["spec.checkpoint.storage"] == {
        "volumeClaim": {"size": "50Gi", "accessMode": "ReadWriteMany"}
    }
    optional = {name for name, field in ESFineTuneSpec.model_fields.items() if not field.is_required()}
    assert (
        len([path for path in defaults if path.count(".") == 1]) == len(optional) - 4
    )  # those that are null


def test_a_field_that_has_no_translation_is_an_error():
    class Odd(BaseModel):
        """Odd."""

        either: int | str = Field(description="Either.")

    with pytest.raises(ValueError, match="cannot translate"):
        structural_schema(Odd, "spec", lambda _: True)

    class Unknown(BaseModel):
        """Unknown."""

        step: int = Field(description="Step.", multiple_of=5)

    with pytest.raises(ValueError, match=r"spec\.step: .* 'multipleOf'"):
        structural_schema(Unknown, "spec", lambda _: True)
