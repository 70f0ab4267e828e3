"""What is shown of a run, in a cluster or not: a table, a live panel, or a line for each change. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esft.status import words
from esft.status.snapshot import RunEvent, Snapshot, Worker
from esft.wording import duration, score_change

_STYLES: Final = {
    words.RUNNING: "green",
    words.SUCCEEDED: "bold green",
    words.FAILED: "bold red",
    words.SUSPENDED: "yellow",
    "ready": "green",
    "failed": "red",
}
_MOST_ENDED: Final = 3  # workers that have left: the latest ones tell enough
_BARS: Final = "▁▂▃▄▅▆▇█"
_FIXED_ROWS: Final = 18  # of a panel: frame, bar, what the status says, headings


def page(snapshot: Snapshot, *, now: datetime) -> RenderableType:
    """The whole of it, for a terminal or a file; `now` is for ages."""
    return Group(Text(_title(snapshot), style="bold"), *_sections(snapshot, now=now, room=None))


def panel(snapshot: Snapshot, *, now: datetime, height: int) -> RenderableType:
    """The same in a frame with a bar, to be drawn anew in place: as many workers and Events as there is room for."""
    bar = Table.grid(expand=True)
    bar.add_row(ProgressBar(total=1.0, completed=_done(snapshot)))
    return Panel(
        Group(bar, *_sections(snapshot, now=now, room=height - _FIXED_ROWS - _MOST_ENDED)),
        title=Text(_title(snapshot)),
        title_align="left",
    )


def changes(before: Snapshot | None, after: Snapshot) -> Iterator[str]:
    """Lines for what is new: how far the run is, what needs attention, Events; the first time no Events."""
    line = summary_line(after)
    if before is None or summary_line(before) != line:
        yield line
    known = [] if before is None else _attention(before)
    yield from (f"  {text}" for text in _attention(after) if text not in known)
    if before is not None:
        seen = {(event.uid, event.count) for event in before.events}
        yield from (
            f"  {event.reason}: {_one_line(event.message)}"
            for event in after.events
            if (event.uid, event.count) not in seen
        )
    notes = () if before is None else before.notes
    yield from (f"  note: {note}" for note in after.notes if note not in notes)


def summary_line(snapshot: Snapshot) -> str:
    """A run in one line."""
    status = snapshot.status
    reason = snapshot.reason[0]
    parts = [f"{snapshot.name}: {snapshot.phase}" + (f" ({reason})" if reason != snapshot.phase else "")]
    if status.progress is not None:
        parts.append(f"generation {status.progress.summary} ({status.progress.percent:.1f}%)")
    if status.fitness is not None:
        parts.append(f"fitness {status.fitness.mean:.4f} (best {status.fitness.best:.4f})")
    if status.evaluation is not None:
        score = status.evaluation
        parts.append(f"score {score.base:.4f} -> {score.last:.4f} (best {score.best:.4f})")
    parts += _speed(snapshot)
    if status.workers is not None:
        parts.append(f"{status.workers.ready}/{status.workers.desired} workers")
    if status.progress is not None and status.progress.estimated_remaining_seconds:
        parts.append(f"about {duration(status.progress.estimated_remaining_seconds)} left")
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


def _title(snapshot: Snapshot) -> str:
    return snapshot.name + ("" if snapshot.namespace is None else f"  (namespace {snapshot.namespace})")


def _done(snapshot: Snapshot) -> float:
    """Part of the run that is done, counting that of the open generation where it is known."""
    progress, live = snapshot.status.progress, snapshot.live
    if progress is None:
        return 0.0
    of_the_open_one = live.done / live.items if live is not None and live.items else 0.0
    return min(1.0, (progress.generation + of_the_open_one) / progress.planned)


def _speed(snapshot: Snapshot) -> list[str]:
    speed = None if snapshot.live is None else snapshot.live.members_per_second
    return [] if speed is None else [f"{speed:.2f} members/s"]


def _sections(snapshot: Snapshot, *, now: datetime, room: int | None) -> Iterator[RenderableType]:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    for label, content in _rows(snapshot, now):
        rows.add_row(label, content)
    yield rows
    # Half the rows each, and a few at least; a terminal too low for those cuts off the last.
    most = len(snapshot.events) if room is None else min(8, max(3, room // 2))
    workers, more = _shown(snapshot.workers, None if room is None else max(6, room) - most)
    if workers:
        yield Text()
        yield _worker_table(workers, now, in_full=room is None)
    if more:
        yield Text(more, style="dim")
    events = snapshot.events[-most:]
    if events:
        yield Text()
        yield _event_table(events, now, in_full=room is None)
    for note in snapshot.notes:
        yield Text(f"note: {note}", style="yellow")


def _rows(snapshot: Snapshot, now: datetime) -> Iterator[tuple[str, Text]]:
    status, live, (reason, message) = snapshot.status, snapshot.live, snapshot.reason
    why = _one_line(message) if reason == snapshot.phase else _named(snapshot.reason)
    phase = Text(snapshot.phase, style=_STYLES.get(snapshot.phase, ""))
    yield "phase", phase.append(f": {why}" if message else "", style="default not bold")
    if status.progress is not None:
        progress = status.progress
        left = progress.estimated_remaining_seconds
        text = f"{progress.summary}   {progress.percent:.1f}%"
        if live is not None and live.items:
            text += f"   {live.done}/{live.items} items"
        yield "generation", Text(text + (f"   about {duration(left)} left" if left else ""))
    if status.fitness is not None:
        fitness = status.fitness
        curve = "" if live is None else f"   {sparkline(live.curve)}"
        text = f"mean {fitness.mean:.4f}, best {fitness.best:.4f}, std {fitness.std:.4f}"
        yield "fitness", Text(text + curve)
    if status.evaluation is not None:
        score = status.evaluation
        best = f"; best {score.best:.4f} at generation {score.best_generation}"
        yield "score", Text(score_change(score.base, score.last) + best)
    if status.workers is not None:
        ready = f"{status.workers.ready}/{status.workers.desired} ready"
        yield "workers", Text(", ".join([ready, *_speed(snapshot)]))
    if status.checkpoint is not None:
        yield "checkpoint", Text(status.checkpoint.uri)
    if status.digest is not None:
        yield "digest", Text(status.digest)
    yield "age", Text(_ages(snapshot, now))
    if live is not None and live.now:
        yield "now", Text(live.now)
    for text in _attention(snapshot):
        yield "attention", Text(text, style="yellow")


def _attention(snapshot: Snapshot) -> list[str]:
    return [f"{found.type}: {_named((found.reason, found.message))}" for found in snapshot.attention]


def _named(reason: tuple[str, str]) -> str:
    return f"{_one_line(reason[1])} ({reason[0]})"


def _ages(snapshot: Snapshot, now: datetime) -> str:
    age = _age(snapshot.created_at, now)
    active = snapshot.active_seconds(now)
    return f"{age}, active for {duration(active)}" if active else age


def _shown(workers: Sequence[Worker], most: int | None) -> tuple[list[Worker], str]:
    """Those to show, and a sentence about the others."""
    living = [worker for worker in workers if not worker.ended]
    ended = sorted((worker for worker in workers if worker.ended), key=lambda worker: worker.created_at)
    shown = sorted(living, key=lambda worker: (worker.problem is None, worker.name))[:most]
    latest = ended[-_MOST_ENDED:]
    left_out = []
    if len(living) > len(shown):
        left_out.append(f"{len(living) - len(shown)} more workers")
    if len(ended) > len(latest):
        left_out.append(f"{len(ended) - len(latest)} more that have ended")
    return [*shown, *latest], f"and {', '.join(left_out)}" if left_out else ""


def _worker_table(workers: Sequence[Worker], now: datetime, *, in_full: bool) -> Table:
    table = _table("WORKER", "STATE", "NODE", "AGE", "PROBLEM")
    for worker in workers:
        table.add_row(
            Text(worker.name, no_wrap=True),
            Text(worker.state, style=_STYLES.get(worker.state, "")),
            Text(worker.node or "-"),
            Text(_age(worker.created_at, now)),
            _sentence(
                "" if worker.problem is None else f"{worker.problem.reason}: {worker.problem.message}",
                in_full=in_full,
            ),
        )
    return table


def _event_table(events: Sequence[RunEvent], now: datetime, *, in_full: bool) -> Table:
    table = _table("AGO", "EVENT", "MESSAGE")
    for event in events:
        times = f" (x{event.count})" if event.count > 1 else ""
        table.add_row(
            Text(_age(event.time, now)),
            Text(event.reason, style="yellow" if event.type == "Warning" else ""),
            _sentence(event.message + times, in_full=in_full),
        )
    return table


def _table(*columns: str) -> Table:
    """Only the last column gives way where there is no room."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1])
    return table


def _sentence(text: str, *, in_full: bool) -> Text:
    """For the last column: cut where it would need a second line, or (`in_full`) folded."""
    line = _one_line(text)
    return Text(line, overflow="fold") if in_full else Text(line, no_wrap=True, overflow="ellipsis")


def _age(since: datetime, now: datetime) -> str:
    """Never below zero: clocks differ."""
    return duration(max(0.0, (now - since).total_seconds()))


def _one_line(text: str) -> str:
    return " ".join(text.split())
