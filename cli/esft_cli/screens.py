"""Where a run is shown: a terminal, a file, a program that reads JSON."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from esft.errors import EXIT_FINISHED
from esft.status.snapshot import Snapshot
from esft.status.words import SUSPENDED
from esft.wording import duration, score_change
from esft_cli.view import changes, page, panel

if TYPE_CHECKING:
    from esft_local.run import Ended
    from esft_local.summary import Summary

_FILE_WIDTH: Final = 160  # where there is no terminal whose width would count
_DRAWING_SECONDS: Final = 0.25  # at least, between two pictures
_LINE_SECONDS: Final = 2.0  # likewise between two lines of a phase: generations may take less
_NOW_SECONDS: Final = 10.0  # likewise, of what is going on before the first generation has closed


class LiveScreen(AbstractContextManager["LiveScreen"]):
    """A panel that is drawn anew in place, and left on the terminal unless it is `transient`."""

    def __init__(
        self, console: Console, *, transient: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=transient)
        self._clock = clock
        self._drawn_at = float("-inf")
        self._waiting: Snapshot | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting is not None:
            self._draw(self._waiting)
        self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Draw it, or later if the last picture is too new."""
        self._waiting = snapshot
        if self._clock() - self._drawn_at >= _DRAWING_SECONDS:
            self._draw(snapshot)

    def say(self, text: str) -> None:
        """Print above the panel."""
        self._console.print(text, highlight=False, markup=False)

    def _draw(self, snapshot: Snapshot) -> None:
        self._waiting, self._drawn_at = None, self._clock()
        if snapshot.live is not None and self._console.options.ascii_only:
            snapshot = snapshot.model_copy(update={"live": snapshot.live.model_copy(update={"curve": ()})})
        drawn = panel(snapshot, now=datetime.now(UTC), height=self._console.size.height)
        self._live.update(drawn, refresh=True)


class LineScreen(AbstractContextManager["LineScreen"]):
    """Plain lines for what has changed; how far the run is, every two seconds at most, and at the end."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last: Snapshot | None = None
        self._waiting: Snapshot | None = None
        self._line_at = self._now_at = float("-inf")
        self._now = ""

    def __exit__(self, *_: object) -> None:
        if self._waiting is not None:
            self._write(self._waiting)

    def update(self, snapshot: Snapshot) -> None:
        """Write what is new, or later if it is no more than progress and the last line is too new."""
        self._waiting = snapshot
        is_turn = self._last is None or self._last.phase != snapshot.phase
        if is_turn or self._clock() - self._line_at >= _LINE_SECONDS:
            self._write(snapshot)
        progress, live = snapshot.status.progress, snapshot.live
        if live is None or not live.now or (progress is not None and progress.generation):
            return
        if live.now != self._now and self._clock() - self._now_at >= _NOW_SECONDS:
            self._now, self._now_at = live.now, self._clock()
            self.say(f"  {live.now}")

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _write(self, snapshot: Snapshot) -> None:
        for line in changes(self._last, snapshot):
            self._line_at = self._clock()
            self.say(line)
        self._last, self._waiting = snapshot, None


class JsonScreen(AbstractContextManager["JsonScreen"]):
    """A line of JSON for each change."""

    def __init__(self) -> None:
        self._last = ""

    def __exit__(self, *_: object) -> None:
        """There is nothing to leave."""

    def update(self, snapshot: Snapshot) -> None:
        """Write it unless it is what was written last."""
        line = json.dumps(snapshot.as_dict(), separators=(",", ":"), ensure_ascii=False)
        if line != self._last:
            self._last = line
            typer.echo(line)


Screen = LiveScreen | LineScreen | JsonScreen


def screen_for_watching(*, as_json: bool) -> Screen:
    """A live panel where standard output is a terminal, else lines."""
    return JsonScreen() if as_json else screen_for_working(transient=False)


def screen_for_working(*, transient: bool = True) -> LiveScreen | LineScreen:
    """The same for the session that does the work, which prints a table at its end instead of the panel."""
    console = Console()
    return LiveScreen(console, transient=transient) if console.is_terminal else LineScreen(console)


def show_once(snapshot: Snapshot, *, as_json: bool) -> None:
    """Print a run as it is now."""
    if as_json:
        typer.echo(json.dumps(snapshot.as_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        width = None if console.is_terminal else _FILE_WIDTH
        console.print(page(snapshot, now=datetime.now(UTC)), width=width)


def show_end(ended: "Ended", *, folder: Path, resume_command: str) -> None:
    """Print a session's end: a table on standard output; what went wrong as one line on standard error."""
    console, errors = Console(), Console(stderr=True)
    summary = ended.summary
    if ended.already_finished:
        _say(console, f"{folder}: this run has finished already; nothing to do.")
    if ended.exit_code == EXIT_FINISHED:
        table = _summary_table(summary)
        table.add_row("model", str(folder / "model"))
        if (folder / "fitness.png").exists():
            table.add_row("picture", str(folder / "fitness.png"))
        console.print(table)
    elif summary.phase == SUSPENDED:
        _say(console, f"{summary.message} To go on:\n  {resume_command}")
    else:
        _say(errors, f"error: {summary.message}")
    for note in ended.notes:
        _say(errors, f"note: {note}")


def _summary_table(summary: "Summary") -> Table:
    table = Table(title=Text(summary.name), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("phase", f"{summary.phase}: {summary.message}")
    table.add_row("generation", f"{summary.generations}/{summary.planned}")
    if summary.score is not None:
        score = summary.score
        best = f"; best {score.best:.4f} at generation {score.best_generation}"
        table.add_row("score", score_change(score.base, score.final) + best)
    table.add_row(
        "work",
        f"{summary.members_evaluated} members, {duration(summary.wall_seconds)}, {summary.workers} workers",
    )
    if summary.digest is not None:
        table.add_row("digest", summary.digest)
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
