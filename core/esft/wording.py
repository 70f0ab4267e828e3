"""Numbers as people read them, the same wherever a run is shown: on this machine or in a cluster. Pure."""

from datetime import timedelta
from typing import Final

_LONG_NUMBER: Final = 1e9  # that size and more is written with an exponent


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:04:10."""
    return str(timedelta(seconds=round(seconds)))


def improvement(base: float, final: float) -> str:
    """The difference of two scores, in points (hundredths) where they are fractions: `+12.3 points`."""
    if all(0.0 <= score <= 1.0 for score in (base, final)):
        return f"{100 * (final - base):+.1f} points"
    return f"{final - base:+.4g}"


def score_change(base: float, final: float) -> str:
    """Two held-out scores: `base 0.1000 -> 0.2230 (+12.3 points)`."""
    return f"base {base:.4f} -> {final:.4f} ({improvement(base, final)})"


def for_a_column(value: float) -> str:
    """A number of a few characters, whatever its size: 0.4213."""
    return f"{value:.4f}" if abs(value) < _LONG_NUMBER else f"{value:.4e}"
