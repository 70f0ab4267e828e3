"""What the commands print, with rich."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from esft.errors import EXIT_FINISHED
from esft.wording import duration, score_change
from esft_local.run import Ended
from esft_local.status import LocalStatus
from esft_local.summary import SUSPENDED, Summary
from esft_local.view import LiveView, PlainView, View


def view_for_terminal() -> View:
    """A live panel where standard output is a terminal, else plain lines."""
    console = Console()
    return LiveView(console) if console.is_terminal else PlainView(console)


def show_end(ended: Ended, *, folder: Path, resume_command: str) -> None:
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


def show_status(status: LocalStatus) -> None:
    """Print a run's status as a table."""
    console = Console()
    if status.summary is not None:
        console.print(_summary_table(status.summary))
        return
    table = _table(status.spec.metadata.name)
    data = status.as_dict()
    table.add_row("phase", status.phase + (f": {data['message']}" if data["message"] else ""))
    table.add_row("generation", f"{data['generations']}/{data['planned']}")
    if data["fitness"] is not None:
        table.add_row("fitness", f"mean {data['fitness']['mean']:.4f}, best {data['fitness']['best']:.4f}")
    if data["score"] is not None:
        table.add_row("score", score_change(data["score"]["base"], data["score"]["last"]))
    console.print(table)


def _summary_table(summary: Summary) -> Table:
    table = _table(summary.name)
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


def _table(name: str) -> Table:
    table = Table(title=Text(name), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
