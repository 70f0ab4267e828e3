"""One `esft run` to its end, and what it left: what the benchmarks of whole runs share."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOB = Path("examples") / "countdown-tiny.yaml"
WARM_UP = 2  # generations left out: the first wait for the slowest worker's start and compile kernels


@dataclass(frozen=True)
class FinishedRun:
    """Summary of a run, and the lines of its history that trained and neither warmed up nor evaluated."""

    summary: dict[str, Any]
    trained: list[dict[str, Any]]


def esft_run(
    job: Path, *, workers: int, settings: Sequence[str], output: Path, cores: int | None = None
) -> FinishedRun:
    """Run a job on the first so many cores, or on all there are."""
    command = [sys.executable, "-m", "esft_cli", "run", str(job)]
    command += ["--workers", str(workers), "--output", str(output)]
    for setting in settings:
        command += ["--set", setting]
    allowed = set(sorted(os.sched_getaffinity(0))[:cores])
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
    )
    history = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    trained = [line for line in history if line["fitness"] is not None and line["evaluation"] is None]
    return FinishedRun(json.loads((output / "summary.json").read_text()), trained[WARM_UP:])
