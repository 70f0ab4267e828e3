"""Where `esft status` shows a run: a terminal, a file, a program that reads JSON."""

import json
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Protocol, Self

import typer
from rich.console import Console
from rich.live import Live

from esft_cli.cluster.snapshot import Snapshot
from esft_cli.cluster.view import changes, page, panel

_FILE_WIDTH: Final = 160  # where there is no terminal whose width would count


class Screen(Protocol):
    """Shows a run again and again; used as a context manager around that."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was, with the last picture on it."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the run as it is now."""


class LiveScreen:
    """A panel that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        """Draw on a terminal."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw it."""
        drawn = panel(snapshot, now=datetime.now(UTC), height=self._console.size.height)
        self._live.update(drawn, refresh=True)


class LineScreen:
    """Plain lines for what has changed."""

    def __init__(self, console: Console) -> None:
        """Write where there is no terminal."""
        self._console = console
        self._last: Snapshot | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to leave."""

    def show(self, snapshot: Snapshot) -> None:
        """Write what is new."""
        for line in changes(self._last, snapshot):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._last = snapshot


class JsonScreen:
    """A line of JSON for each change."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to leave."""

    def show(self, snapshot: Snapshot) -> None:
        """Write it unless it is what was written last."""
        line = json.dumps(snapshot.as_dict(), separators=(",", ":"), ensure_ascii=False)
        if line != self._last:
            self._last = line
            typer.echo(line)


def screen_for_watching(*, as_json: bool) -> Screen:
    """A live panel where standard output is a terminal, else lines."""
    if as_json:
        return JsonScreen()
    console = Console()
    return LiveScreen(console) if console.is_terminal else LineScreen(console)


def show_once(snapshot: Snapshot, *, as_json: bool) -> None:
    """Print a run as it is now."""
    if as_json:
        typer.echo(json.dumps(snapshot.as_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        width = None if console.is_terminal else _FILE_WIDTH
        console.print(page(snapshot, now=datetime.now(UTC)), width=width)
