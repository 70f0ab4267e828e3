"""The curve of a run as a picture: fitness of the population, and the held-out score where there is one.

matplotlib is imported when a picture is drawn and not before: the command line starts without it. Its object
interface is used, not pyplot, which keeps figures and a backend in global state.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esft.errors import EsftError
from esft.spec import ESFineTune
from esft.wording import improvement
from esft_local.files import explained
from esft_local.history import HistoryLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 8.0, 4.0, 150
_FITNESS, _SCORE, _QUIET = "#3b6fb6", "#d1603d", "#6b7280"


class PictureError(EsftError):
    """A picture cannot be drawn."""


def picture_title(spec: ESFineTune) -> str:
    """Name and the settings that matter most, for the title."""
    evolution = spec.spec.evolution
    return (
        f"{spec.metadata.name}\n"
        f"{spec.spec.model.source}, {spec.spec.task.name}: population {evolution.population}, "
        f"sigma {evolution.sigma:g}, learning rate {evolution.learning_rate:g}, seed {evolution.seed}"
    )


def draw(history: Sequence[HistoryLine], *, title: str, path: Path) -> None:
    """Draw a history as a PNG of 1200 x 600 pixels.

    Args:
        history: at least one line.
        title: first line large, the rest small.
        path: of the picture; replaced in one step.

    Raises:
        PictureError: there is nothing to draw, or matplotlib is not installed.
        RunFolderError: the file cannot be written.
    """
    panels = _panels(history)
    if not panels:
        raise PictureError(
            "no generation is finished yet, so there is nothing to plot. Fix: wait for the first"
        )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional and slow
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise PictureError(
            f"plotting needs {error.name}, which is not installed. Fix: pip install 'esfinetune[local]'"
        ) from error
    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, drawing in zip(axes, panels, strict=True):
        drawing(panel, history)
        _tidy(panel)
    name, _, settings = title.partition("\n")
    figure.suptitle(name, fontsize=13, fontweight="bold", x=0.01, ha="left")
    figure.text(0.99, 0.965, settings, fontsize=7.5, color=_QUIET, ha="right", va="center")
    temporary = path.with_name(f".{path.name}")
    with explained(path):
        figure.savefig(temporary, format="png")
        temporary.replace(path)


def _panels(history: Sequence[HistoryLine]) -> list[Callable[["Axes", Sequence[HistoryLine]], None]]:
    has_fitness = any(line.fitness is not None for line in history)
    return [*([_draw_fitness] if has_fitness else []), *([_draw_score] if _scores(history) else [])]


def _draw_fitness(axes: "Axes", history: Sequence[HistoryLine]) -> None:
    lines = [(line.generation, line.fitness) for line in history if line.fitness is not None]
    generations = [generation for generation, _ in lines]
    worst = [fitness.worst for _, fitness in lines]
    best = [fitness.best for _, fitness in lines]
    mean = [fitness.mean for _, fitness in lines]
    axes.fill_between(
        generations, worst, best, color=_FITNESS, alpha=0.16, linewidth=0, label="worst to best"
    )
    marker = "o" if len(lines) == 1 else None
    axes.plot(generations, mean, color=_FITNESS, linewidth=1.6, marker=marker, label="mean of the population")
    axes.set_title("Fitness (mean training reward)", fontsize=9.5, loc="left")


def _draw_score(axes: "Axes", history: Sequence[HistoryLine]) -> None:
    generations, values = zip(*_scores(history), strict=True)
    base, final = values[0], values[-1]
    axes.axhline(base, color=_QUIET, linewidth=1, linestyle="--", label=f"base model {base:.3g}")
    axes.plot(generations, values, color=_SCORE, linewidth=1.6, marker="o", markersize=3.5, label="tuned")
    axes.annotate(
        f"{final:.3g} ({improvement(base, final)})",
        (generations[-1], final),
        textcoords="offset points",
        xytext=(0, 7),
        ha="right",
        fontsize=8.5,
        color=_SCORE,
        fontweight="bold",
    )
    axes.margins(y=0.15)
    axes.set_title("Held-out score", fontsize=9.5, loc="left")


def _scores(history: Sequence[HistoryLine]) -> list[tuple[int, float]]:
    """Generation and held-out score of each evaluation that gave a number."""
    return [
        (line.generation, line.evaluation.score)
        for line in history
        if line.evaluation is not None and math.isfinite(line.evaluation.score)
    ]


def _tidy(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.set_xlabel("generation", fontsize=8.5)
    axes.legend(fontsize=7.5, frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
