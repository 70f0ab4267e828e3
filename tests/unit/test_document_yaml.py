"""Values as kubectl 1.3x reads them: the table is that of sigs.k8s.io/yaml/goyaml.v2, then through JSON."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.yaml_nodes import Values, compose, resolve_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000),
        ("5.", 5),
        (".5", 0.5),
        ("5.0", 5),
        ("-0.25", -0.25),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("+7", 7),
        ("010", 8),
        ("-010", -8),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b101", 5),
        ("089", 89),
        ("18446744073709551616", 2**64),
        ("1e400", "1e400"),
        ("1e21", 1e21),
        ("0", 0),
        ("-0", 0),
        ("y", True),
        ("Yes", True),
        ("on", True),
        ("TRUE", True),
        ("n", False),
        ("off", False),
        ("yEs", "yEs"),
        ("", None),
        ("~", None),
        ("Null", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("2026-01-02", "2026-01-02"),
        ("12:30:45", "12:30:45"),
        ("1.2.3", "1.2.3"),
        ("3d", "3d"),
        ("50Gi", "50Gi"),
        ("-", "-"),
        ("_1", "_1"),
        ("hf://a/b", "hf://a/b"),
    ],
)
def test_resolves_plain_scalars(text, value):
    resolved = resolve_plain(text)
    assert (resolved, type(resolved)) == (value, type(value))


def values(text: str) -> object:
    made = Values()
    (node,) = compose(text)
    value = made.make(node, ())
    assert made.problems == []
    return value


def test_quotes_and_tags_decide():
    assert values("['1', \"yes\", !!str 5, !!int 5, '']") == ["1", "yes", "5", 5, ""]
    assert values("a: |\n  1e-3\n") == {"a": "1e-3\n"}


def test_keys_are_text():
    assert values("{1: a, yes: b, 010: c, 1.5: d, '2': e, !!str 3: f}") == {
        "1": "a",
        "true": "b",
        "8": "c",
        "1.5": "d",
        "2": "e",
        "3": "f",
    }


def test_every_value_has_its_line():
    made = Values()
    made.make(compose("a:\n  b: 1\n  c:\n    - x\n    - z: 2\n")[0], ())
    assert made.origins == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1): 5,
        ("a", "c", 1, "z"): 5,
    }


def test_a_merged_value_keeps_the_line_where_it_was_written():
    made = Values()
    value = made.make(compose("x: &x\n  k: 1\n  l: 2\nz:\n  <<: *x\n  l: 3\n")[0], ())
    assert value["z"] == {"k": 1, "l": 3}
    assert made.origins["z", "k"] == 2
    assert made.origins["z", "l"] == 6
    assert made.origins["z",] == 4


@given(st.text(max_size=30))
def test_resolving_is_total(text):
    resolve_plain(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_comes_back(number):
    assert resolve_plain(repr(number)) == number
