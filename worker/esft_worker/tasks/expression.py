"""Reads arithmetic expressions as a model writes them, without ever running them as code.

The text comes from a language model, so it may be anything: `9**9**9`, ten thousand parentheses, a number of
a million digits. There is no power operator here and a text is bounded in length, so no value can have more
digits than the text; the parser (Dijkstra's shunting yard) does not recurse, so no nesting is too deep.

Values are exact rationals, not floats: 8/(3-8/3) is 24 and not 23.999. Rejected: `eval` without builtins (it
still computes `9**9**9`) and `ast.parse` (how deep it recurses depends on the version of Python, and it takes
what is not meant, such as `1_0`).
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MAX_LENGTH: Final = 1000
"""Characters. Far above any sensible answer: four numbers of two digits need 17."""

_ALPHABET: Final = re.compile(r"[0-9+\-*/() ]*")
_SYMBOL: Final = re.compile(r"[0-9]+|[-+*/()]")
_NEGATE: Final = "negate"
_PRECEDENCE: Final = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, _NEGATE: 3}


@dataclass(frozen=True, slots=True)
class Expression:
    """A well-formed expression: its numbers and operators in reverse Polish notation."""

    postfix: tuple[int | str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers in the order they are written."""
        return tuple(item for item in self.postfix if isinstance(item, int))

    def value(self) -> Fraction | int | None:
        """Compute the exact value, an integer where nothing is divided; None where it divides by zero."""
        stack: list[Fraction | int] = []
        for item in self.postfix:
            if isinstance(item, int):
                stack.append(item)
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

    Precedence and unary signs are those of school and of Python; so is that no number has a leading zero.

    Returns:
        The expression; None where the text is not one, or is longer than `MAX_LENGTH`.
    """
    if len(text) > MAX_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    parser = _Parser()
    if all(parser.accept(symbol) for symbol in _SYMBOL.findall(text)):
        return parser.finish()
    return None


class _Parser:
    """The shunting yard: operands go to the output at once, operators wait for their right operand."""

    def __init__(self) -> None:
        self._output: list[int | str] = []
        self._waiting: list[str] = []
        self._operand_next = True

    def accept(self, symbol: str) -> bool:
        """Take the next symbol; False where it cannot stand there."""
        return self._operand(symbol) if self._operand_next else self._operator(symbol)

    def finish(self) -> Expression | None:
        """Give the expression; None where it is incomplete."""
        if self._operand_next or "(" in self._waiting:
            return None
        return Expression(postfix=(*self._output, *reversed(self._waiting)))

    def _operand(self, symbol: str) -> bool:
        if symbol.isdigit():
            self._output.append(int(symbol))
            self._operand_next = False
            return symbol == "0" or not symbol.startswith("0")
        if symbol in "(-":
            self._waiting.append(_NEGATE if symbol == "-" else symbol)
            return True
        return symbol == "+"

    def _operator(self, symbol: str) -> bool:
        if symbol == ")":
            self._release(minimum=1)
            return bool(self._waiting) and self._waiting.pop() == "("
        if symbol not in "+-*/":
            return False
        self._release(minimum=_PRECEDENCE[symbol])
        self._waiting.append(symbol)
        self._operand_next = True
        return True

    def _release(self, *, minimum: int) -> None:
        """Move the waiting operators of at least that precedence to the output."""
        while self._waiting and _PRECEDENCE[self._waiting[-1]] >= minimum:
            self._output.append(self._waiting.pop())


def _apply(operator: str, left: Fraction | int, right: Fraction | int) -> Fraction | int:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return Fraction(left) / right
