"""What `esft run` shows: a live panel on a terminal, plain lines elsewhere, the same information in both."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esft.wording import duration
from esft_local.history import HistoryLine, score_of

_PLAIN_SECONDS = 2.0
_PLAIN_ACTIVITY_SECONDS = 10.0
_RECENT = 10
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment, as far as people care.

    Attributes:
        name: of the run.
        planned: generations asked for.
        generation: the open one; equals `planned` when only the final weights are left to measure.
        done: items of the open generation that are reported, of `items`.
        history: a line for each generation so far.
        alive: worker processes that run, of `workers`.
        elapsed_seconds: of this session.
        activity: what is going on, where there is something to say.
    """

    name: str
    planned: int
    generation: int
    done: int
    items: int
    history: Sequence[HistoryLine]
    alive: int
    workers: int
    elapsed_seconds: float
    activity: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the latest generations; None before one was measured."""
        recent = _recent_seconds(self.history)
        if not recent:
            return None
        open_part = self.done / self.items if self.items else 0.0
        return max(0.0, self.planned - self.generation - open_part) * statistics.fmean(recent)

    @property
    def members_per_second(self) -> float | None:
        """Over the latest generations; None before one was measured."""
        lines = [line for line in self.history[-_RECENT:] if line.seconds]
        seconds = sum(line.seconds or 0.0 for line in lines)
        return sum(line.members for line in lines) / seconds if seconds else None


class View(Protocol):
    """Shows snapshots; used as a context manager around the run."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the run as it is now."""

    def say(self, text: str) -> None:
        """Tell people something once."""


class LiveView:
    """A panel that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Show the run as it is now."""
        self._live.update(panel(snapshot, unicode=not self._console.options.ascii_only))

    def say(self, text: str) -> None:
        """Print above the panel."""
        self._console.print(text, highlight=False, markup=False)


class PlainView:
    """One line a generation, or the latest one every two seconds when they come faster.

    Before the first generation, what the workers are doing, every ten seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: Snapshot | None = None
        self._shown_at = -_PLAIN_ACTIVITY_SECONDS
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None and self._last.history:
            self._show(plain_line(self._last))

    def update(self, snapshot: Snapshot) -> None:
        """Print a line if there is news and the last one is old enough."""
        self._last = snapshot
        interval = _PLAIN_SECONDS if snapshot.history else _PLAIN_ACTIVITY_SECONDS
        if snapshot.elapsed_seconds - self._shown_at < interval:
            return
        line = plain_line(snapshot) if snapshot.history else snapshot.activity
        if line and line != self._shown:
            self._shown_at = snapshot.elapsed_seconds
            self._show(line)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _show(self, line: str) -> None:
        if line != self._shown:
            self._shown = line
            self.say(line)


def panel(snapshot: Snapshot, *, unicode: bool) -> RenderableType:
    """The live panel."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column()
    for label, content in _rows(snapshot, unicode=unicode):
        rows.add_row(label, content)
    progress = snapshot.generation + (snapshot.done / snapshot.items if snapshot.items else 0.0)
    bar = ProgressBar(total=snapshot.planned, completed=min(progress, snapshot.planned))
    stacked = Table.grid(expand=True)
    stacked.add_row(bar)
    stacked.add_row(rows)
    return Panel(stacked, title=Text(f"esft run: {snapshot.name}"), title_align="left")


def plain_line(snapshot: Snapshot) -> str:
    """The latest committed generation as one line."""
    line = next(line for line in reversed(snapshot.history))
    parts = [f"generation {min(line.generation + 1, snapshot.planned)}/{snapshot.planned}"]
    if line.fitness is not None:
        parts.append(f"fitness {line.fitness.mean:.4f} (best {line.fitness.best:.4f})")
    parts.extend(filter(None, [_score_text(snapshot.history), _speed_text(snapshot)]))
    parts.append(f"{snapshot.alive}/{snapshot.workers} workers")
    if snapshot.seconds_left:
        parts.append(f"about {duration(snapshot.seconds_left)} left")
    return ", ".join(parts)


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """The latest values as bars between their least and their greatest."""
    shown = list(values)[-width:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if not high > low:
        return _BARS[0] * len(shown)
    return "".join(
        _BARS[min(len(_BARS) - 1, int((value - low) / (high - low) * len(_BARS)))] for value in shown
    )


def _rows(snapshot: Snapshot, *, unicode: bool) -> Iterable[tuple[str, str]]:
    left = snapshot.seconds_left
    yield (
        "generation",
        f"{snapshot.generation}/{snapshot.planned}   {snapshot.done}/{snapshot.items} items   "
        f"{duration(snapshot.elapsed_seconds)} elapsed" + (f", about {duration(left)} left" if left else ""),
    )
    fitness = [line.fitness for line in snapshot.history if line.fitness is not None and line.fitness.valid]
    if fitness:
        curve = "   " + sparkline([each.mean for each in fitness]) if unicode else ""
        yield "fitness", f"mean {fitness[-1].mean:.4f}, best {fitness[-1].best:.4f}{curve}"
    score = _score_text(snapshot.history)
    if score:
        yield "held out", score.removeprefix("score ")
    speed = _speed_text(snapshot)
    yield "workers", f"{snapshot.alive}/{snapshot.workers} alive" + (f", {speed}" if speed else "")
    if snapshot.activity:
        yield "now", snapshot.activity


def _score_text(history: Sequence[HistoryLine]) -> str:
    score = score_of(history)
    if score is None:
        return ""
    return f"score {score.base:.4f} -> {score.final:.4f} (best {score.best:.4f})"


def _speed_text(snapshot: Snapshot) -> str:
    speed = snapshot.members_per_second
    return "" if speed is None else f"{speed:.2f} members/s"


def _recent_seconds(history: Sequence[HistoryLine]) -> list[float]:
    return [line.seconds for line in history[-_RECENT:] if line.seconds is not None]
