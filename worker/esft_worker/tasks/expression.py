"""Arithmetic expressions as a model writes them, read without ever running them as code.

The text comes from a language model, so it may be anything: `9**9**9`, ten thousand parentheses, a number of a
million digits. There is no power operator here and a text is bounded in length, so no value can have more digits
than the text; the parser (Dijkstra's shunting yard) does not recurse, so nesting is bounded by the length as well.

Values are exact rationals, not floats: 8/(3-8/3) is 24, whatever the order of evaluation. Rejected: `eval` with empty
builtins (still computes `9**9**9`, still reaches attributes) and `ast.parse` (its recursion limit depends on the
version of Python, and it accepts what the task does not mean, such as `1_0`).
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MAX_LENGTH: Final = 1000
"""Characters. Far above any sensible answer: four numbers of two digits need 17."""

_ALPHABET: Final = re.compile(r"[0-9+\-*/() ]*")
_TOKEN: Final = re.compile(r"[0-9]+|[-+*/()]")
_NEGATE: Final = "negate"
_PRECEDENCE: Final = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, _NEGATE: 3}


@dataclass(frozen=True, slots=True)
class Expression:
    """A well-formed expression.

    Attributes:
        numbers: its numbers in the order they are written.
        postfix: the numbers and operators in reverse Polish notation.
    """

    numbers: tuple[int, ...]
    postfix: tuple[int | str, ...]

    def value(self) -> Fraction | None:
        """Compute the exact value; None where it divides by zero."""
        stack: list[Fraction] = []
        for item in self.postfix:
            if isinstance(item, int):
                stack.append(Fraction(item))
            elif item == _NEGATE:
                stack.append(-stack.pop())
            else:
                right, left = stack.pop(), stack.pop()
                if item == "/" and not right:
                    return None
                stack.append(_apply(item, left, right))
        return stack[0]


def parse(text: str) -> Expression | None:
    """Read an expression of natural numbers, `+ - * /`, parentheses and spaces.

    Precedence and the unary signs are those of school and of Python. A number has no leading zero, as in Python.

    Returns:
        The expression; None where the text is not one, or is longer than `MAX_LENGTH`.
    """
    if len(text) > MAX_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    output: list[int | str] = []
    operators: list[str] = []
    operand_next = True
    for token in _TOKEN.findall(text):
        if operand_next:
            if token[0] in "0123456789":
                if token[0] == "0" and len(token) > 1:
                    return None
                output.append(int(token))
                operand_next = False
            elif token == "-":
                operators.append(_NEGATE)
            elif token == "(":
                operators.append(token)
            elif token != "+":
                return None
        elif token == ")":
            while operators and operators[-1] != "(":
                output.append(operators.pop())
            if not operators:
                return None
            operators.pop()
        elif token in "+-*/":
            while operators and _PRECEDENCE[operators[-1]] >= _PRECEDENCE[token]:
                output.append(operators.pop())
            operators.append(token)
            operand_next = True
        else:
            return None
    if operand_next or "(" in operators:
        return None
    output.extend(reversed(operators))
    return Expression(
        numbers=tuple(item for item in output if isinstance(item, int)),
        postfix=tuple(output),
    )


def _apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left / right
