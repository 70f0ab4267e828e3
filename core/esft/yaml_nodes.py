"""Reads YAML as kubectl does, so that a file means the same to both, and keeps the line of every value.

A file goes to `kubectl apply` as well as to `esft run`, so a scalar must mean the same to both. kubectl
reads YAML 1.1 as go-yaml does: `1e-3` is a number, `y` is true, a date is text, and 5.0 reaches the server as
5. PyYAML's own rules differ in each of these, and its constructors drop the lines and let duplicate keys
pass, so values are made here, from PyYAML's nodes.

Limits: 100,000 values, aliases written out (so that a few lines cannot grow into gigabytes), and 64 levels.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from esft.errors import SpecError
from esft.problems import Location, Problem, dotted

MAX_VALUES = 100_000
MAX_DEPTH = 64

_MAX_NUMBER_LENGTH = 256
_JSON_INTEGER_LIMIT = 1e21

_PLAIN = "!plain"
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_PLAIN, *(_TAG + name for name in ("null", "bool", "int", "float"))}
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class TooLargeError(SpecError):
    """A document beyond this module's limits."""


class _Loader(yaml.BaseLoader):
    """Composes nodes only; a plain scalar without a tag gets one of our own, for `resolve_plain`."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}  # noqa: RUF012


def compose(text: str) -> list[yaml.Node]:
    """The documents in a text, but for empty ones.

    Raises:
        yaml.YAMLError: it is not YAML.
        TooLargeError: it is nested too deeply even to be parsed.
    """
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except RecursionError as error:
        raise TooLargeError("is nested too deeply") from error
    return [node for node in nodes if node is not None and not (node.tag == _PLAIN and node.value == "")]


def resolve_plain(text: str) -> bool | float | str | None:
    """Value of a plain (unquoted) scalar, as kubectl reads it and then writes it into JSON.

    Source: `resolve` in sigs.k8s.io/yaml/goyaml.v2, and Go's encoding/json, which writes 5.0 as 5.
    """
    if text in _WORDS:
        return _WORDS[text]
    plain = text.replace("_", "")
    if text[0] not in "+-.0123456789" or len(plain) > _MAX_NUMBER_LENGTH:
        return text
    if _OCTAL.fullmatch(plain):
        return int(plain, 8)
    if _INTEGER.fullmatch(plain):
        return int(plain, 0)
    if _FLOAT.fullmatch(plain) and math.isfinite(number := float(plain)):
        return int(number) if number.is_integer() and abs(number) < _JSON_INTEGER_LIMIT else number
    return text


def line_of(node: yaml.Node) -> int:
    """Line that a node starts on, from 1."""
    return int(node.start_mark.line) + 1


@dataclass(slots=True)
class Values:
    """Makes plain values of nodes; keeps where each stands and what is wrong with them.

    Attributes:
        origins: line of each value (of its key, in an object), or the `--set` argument that it comes from.
        problems: what was found so far; the values concerned are null.
    """

    origins: dict[Location, int | str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _made: int = 0

    def problem(self, location: Location, message: str, fix: str) -> Problem:
        """A problem with the origin of a location, or of the nearest value that holds it."""
        nearest = location
        while nearest and nearest not in self.origins:
            nearest = nearest[:-1]
        origin = self.origins.get(nearest)
        if isinstance(origin, str):
            return Problem(dotted(location), message, fix, override=origin)
        return Problem(dotted(location), message, fix, line=origin)

    def make(self, node: yaml.Node, location: Location, origin: int | str | None = None) -> Any:
        """Plain value of a node: dict, list, str, int, finite float, bool or None.

        Args:
            node: from `compose`.
            location: of the value in the document.
            origin: its line, or `--set` argument; None: the node's line. An argument holds for all that is below, too.

        Raises:
            TooLargeError: beyond the limits.
        """
        origin = line_of(node) if origin is None else origin
        self.origins[location] = origin
        self._made += 1
        if self._made > MAX_VALUES:
            raise TooLargeError(f"has more than {MAX_VALUES} values")
        if len(location) > MAX_DEPTH:
            raise TooLargeError(f"is nested more than {MAX_DEPTH} levels deep")
        override = origin if isinstance(origin, str) else None
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._object(node, location, override)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.make(item, (*location, index), override) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location)
        self._note(location, f"has the unsupported YAML tag {node.tag}", "remove the tag")
        return None

    def forget(self, location: Location) -> None:
        """Drop the origins of a value that is about to be replaced, and of all below."""
        self.origins = {
            known: origin for known, origin in self.origins.items() if known[: len(location)] != location
        }

    def _note(self, location: Location, message: str, fix: str) -> None:
        self.problems.append(self.problem(location, message, fix))

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> bool | float | str | None:
        if node.tag == _TAG + "str":
            return str(node.value)
        if node.tag not in _SCALAR_TAGS:
            self._note(location, f"has the unsupported YAML tag {node.tag}", "remove the tag")
            return None
        value = resolve_plain(node.value)
        if isinstance(value, float) and not math.isfinite(value):
            self._note(location, f"must be a finite number, got {node.value}", "give a finite number")
            return None
        return value

    def _object(self, node: yaml.MappingNode, location: Location, override: str | None) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        written: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            line = line_of(key_node)
            if key is None:
                self._note(location, f"has a key on line {line} that is not text", "use a name as key")
            elif key == "<<" and key_node.tag == _PLAIN:
                for source in self._sources(value_node, location):
                    merged = {**self._merged(source, location, override), **merged}
            elif key in written:
                self.problems.append(self._repeated((*location, key), line, override))
            else:
                written[key] = self.make(value_node, (*location, key), override or line)
        return {**merged, **written}

    def _repeated(self, location: Location, line: int, override: str | None) -> Problem:
        path, fix = dotted(location), "keep one of the two"
        if override is not None:
            return Problem(path, "is given twice", fix, override=override)
        return Problem(path, f"is given twice, first on line {self.origins[location]}", fix, line=line)

    def _sources(self, node: yaml.Node, location: Location) -> Iterator[yaml.MappingNode]:
        """The mappings that a merge key names; of several, the first to have a key wins (YAML 1.1)."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else (node,):
            if isinstance(source, yaml.MappingNode):
                yield source
            else:
                self._note(
                    location, f"merges something on line {line_of(node)} that is no object", "remove it"
                )

    def _merged(self, node: yaml.MappingNode, location: Location, override: str | None) -> dict[str, Any]:
        known = self.origins
        self.origins = {}
        values: dict[str, Any] = self.make(node, location, override) or {}
        self.origins |= known
        return values


def _key(node: yaml.Node) -> str | None:
    """A key as text, since JSON has no other; None for a key that is a collection or null."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    value = resolve_plain(node.value) if node.tag in _SCALAR_TAGS else str(node.value)
    if value is None:
        return None
    return json.dumps(value) if isinstance(value, int) else str(node.value)
