import ast
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_worker.tasks.expression import MAX_LENGTH, parse

LEAVES = st.integers(min_value=0, max_value=10**6).map(str)


def _grow(inner):
    spaces = st.sampled_from(["", " ", "  "])
    binary = st.builds(
        lambda left, before, operator, after, right: f"{left}{before}{operator}{after}{right}",
        inner,
        spaces,
        st.sampled_from("+-*/"),
        spaces,
        inner,
    )
    return st.one_of(
        binary,
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
        inner.map("+{}".format),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=12).filter(lambda text: len(text) <= MAX_LENGTH)


def reference(node: ast.AST) -> Fraction:  # noqa: PLR0911 - one per kind of node
    """Value of a Python syntax tree, in rationals."""
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -reference(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return reference(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return reference(left) + reference(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return reference(left) - reference(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return reference(left) * reference(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return reference(left) / reference(right)
    raise AssertionError(ast.dump(node))


@given(EXPRESSIONS)
def test_value_is_that_of_python_in_rationals(text):
    tree = ast.parse(text, mode="eval").body
    try:
        expected = reference(tree)
    except ZeroDivisionError:
        expected = None
    expression = parse(text)
    assert expression is not None
    assert expression.value() == expected
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert sorted(expression.numbers) == sorted(constants)


@given(st.text(alphabet="0123456789+-*/() ", max_size=12))
def test_accepts_what_python_takes_for_such_an_expression(text):
    try:
        reference(ast.parse(text.strip(), mode="eval").body)
        expected = True
    except ZeroDivisionError:
        expected = True
    except (SyntaxError, AssertionError):
        expected = False
    all_zero = any(digits.startswith("0") and len(digits) > 1 for digits in _numbers_in(text))
    assert (parse(text) is not None) == (expected and not all_zero)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    expression = parse(text)
    if expression is not None:
        expression.value()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/(3-8/3)", 24),
        ("1 + 2 * 3", 7),
        ("(1+2)*3", 9),
        ("10-4-3", 3),
        ("100/10/5", 2),
        ("2*-3", -6),
        ("--4", 4),
        ("-3+5", 2),
        ("  7  ", 7),
        ("((((5))))", 5),
        ("1/3", Fraction(1, 3)),
    ],
)
def test_values(text, value):
    expression = parse(text)
    assert expression is not None
    assert expression.value() == value


@pytest.mark.parametrize("text", ["1/0", "1/(2-2)", "3*(4/0)", "0/0", "1/-0"])
def test_division_by_zero_is_well_formed_and_has_no_value(text):
    expression = parse(text)
    assert expression is not None
    assert expression.value() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "1+",
        "*1",
        "1 2",
        "3(5)",
        "(5)(3)",
        "(1",
        "1)",
        ")1(",
        "2**3",
        "9//2",
        "1.5",
        "1e3",
        "1_0",
        "05",
        "0x1",
        "1,2",
        "a",
        "__import__('os')",
        "1+2\n",
        "\t1",
        "1 = 1",
        "٣+1",
        "2²",
        "1−1",  # noqa: RUF001 - a minus sign, though not an ASCII one
    ],
)
def test_what_is_no_expression(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9" * MAX_LENGTH,
        "9" * 1_000_000,
        "(" * 10_000,
        "(" * 10_000 + "1" + ")" * 10_000,
        "(" * 499 + "1" + ")" * 499,
        "-" * (MAX_LENGTH - 1) + "1",
        "9*" * 499 + "9",
        "1/9+" * 249 + "1",
        "1/" * 499 + "1",
        "9" * 300 + "*" + "9" * 300,
        "1(" * 400,
    ],
)
def test_hostile_text_costs_little(text):
    began = time.process_time()
    for _ in range(10):
        expression = parse(text)
        if expression is not None:
            expression.value()
    assert time.process_time() - began < 0.5


def test_length_is_bounded():
    assert parse("1" + " " * (MAX_LENGTH - 1)) is not None
    assert parse("1" + " " * MAX_LENGTH) is None


def _numbers_in(text):
    digits = "".join(character if character.isdigit() else " " for character in text)
    return digits.split()
