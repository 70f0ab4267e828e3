"""Ctrl-C and SIGTERM as something that a loop asks about, not an exception in the middle of a write."""

import signal
from types import FrameType
from typing import Any, Self

from esft.errors import EXIT_DRAINED, EXIT_INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Counts SIGINT and SIGTERM inside its `with` block; after the second one they act as they did before."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return bool(self._received)

    @property
    def hurry(self) -> bool:
        """Whether to stop at once, without waiting for anything."""
        return len(self._received) > 1

    @property
    def exit_code(self) -> int:
        """What a process that stops because of the first signal exits with."""
        return EXIT_DRAINED if self._received[:1] == [signal.SIGTERM] else EXIT_INTERRUPTED

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)
        if self.hurry:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
