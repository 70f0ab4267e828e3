"""From a pydantic model to the structural schema that the API server takes: OpenAPI 3.0, written out in full.

Pydantic writes JSON Schema of 2020, with shared definitions, `anyOf` for optional fields and exclusive bounds as
numbers; a structural schema has none of these. Whatever this module does not know is an error, so that a new kind of
field cannot reach the CRD half translated.

Defaults are whole objects: the API server judges a default by the rules of its object, before it fills in the
defaults below. A default of null cannot be written down, and need not: absent and null mean the same in the spec
wherever null is the default. They stand in the descriptions too, as `kubectl explain` prints nothing but those.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from esft_operator.resource import without_nulls

Schema = dict[str, Any]

_DROPPED = {"title", "examples", "additionalProperties", "default"}
_KEPT = {
    "type",
    "description",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
_EXCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def structural_schema(model: type[BaseModel], path: str, may_be_null: Callable[[str], bool]) -> Schema:
    """The schema of a model.

    Args:
        model: a model whose fields all have descriptions.
        path: where it stands in the resource, as `spec`.
        may_be_null: whether an optional field (`spec.workers.replicas`) keeps a null that is written; of others, the
            API server drops it, or refuses it in a server-side apply.

    Raises:
        ValueError: a field uses something that has no translation.
    """
    document = model.model_json_schema()
    definitions = document.pop("$defs", {})
    return _Translation(definitions, may_be_null).schema(document, path)


def at(schema: Schema, path: str) -> Schema:
    """The schema of a field: `evolution.sigma`; the schema itself for an empty path."""
    for name in filter(None, path.split(".")):
        schema = schema["properties"][name]
    return schema


class _Translation:
    def __init__(self, definitions: Mapping[str, Schema], may_be_null: Callable[[str], bool]) -> None:
        self._definitions = definitions
        self._may_be_null = may_be_null

    def schema(self, source: Schema, path: str) -> Schema:
        source, optional = self._resolved(source)
        result: Schema = {}
        for key, value in source.items():
            result |= self._translated(key, value, path)
        if optional and self._may_be_null(path):
            result["nullable"] = True
        if "default" in result and result["type"] != "object":
            result["description"] += f" Default: {json.dumps(result['default'])}."
        return result

    def _translated(self, key: str, value: Any, path: str) -> Schema:
        result: Schema = {}
        match key:
            case "properties":
                result[key] = {name: self.schema(field, f"{path}.{name}") for name, field in value.items()}
            case "items":
                result[key] = self.schema(value, f"{path}[]")
            case "additionalProperties" if value:
                result["x-kubernetes-preserve-unknown-fields"] = True
            case "default" if value is not None:
                result[key] = without_nulls(value)
            case _ if key in _EXCLUSIVE:
                result = {_EXCLUSIVE[key]: value, key: True}
            case _ if key in _KEPT:
                result[key] = value
            case _ if key not in _DROPPED:
                raise ValueError(f"{path}: esft_operator.crd.schema cannot translate {key!r} of JSON Schema")
        return result

    def _resolved(self, source: Schema) -> tuple[Schema, bool]:
        """Without references and alternatives, the field's own description first; and whether it may be null."""
        optional = False
        if "anyOf" in source:
            alternatives = [option for option in source["anyOf"] if option != {"type": "null"}]
            if len(alternatives) != 1:
                raise ValueError(f"esft_operator.crd.schema cannot translate {source['anyOf']}")
            optional = len(alternatives) < len(source["anyOf"])
            source = alternatives[0] | {key: value for key, value in source.items() if key != "anyOf"}
        if "$ref" in source:
            definition = self._definitions[source["$ref"].rpartition("/")[2]]
            source = definition | {key: value for key, value in source.items() if key != "$ref"}
        return source, optional
