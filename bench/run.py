"""What a whole run costs: the queue's share of the demo, and what a second worker brings: `python bench/run.py`.

Runs examples/countdown-tiny.yaml with one worker and with two in turn, shortened to a number of generations. What is
compared is the time between the opening and the commit of generations, so that start-up does not count. The median of
the pairs' ratios is quoted, since the machine's speed drifts. A run has as many cores as workers: what goes with a
worker (its grading process, its share of Redis and the runner) has no core to itself in either.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import write

JOB = Path("examples") / "countdown-tiny.yaml"
WARM_UP = 2  # generations left out: the first wait for the slowest worker's start and compile kernels


def run(*, workers: int, generations: int, output: Path) -> dict[str, Any]:
    """Summary and history of one run."""
    command = [
        sys.executable,
        "-m",
        "esft.cli",
        "run",
        str(JOB),
        "--workers",
        str(workers),
        "--output",
        str(output),
    ]
    command += ["--set", f"evolution.generations={generations}"]
    cores = set(sorted(os.sched_getaffinity(0))[:workers])
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    history = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    trained = [line for line in history if line["fitness"] is not None and line["evaluation"] is None][
        WARM_UP:
    ]
    summary = json.loads((output / "summary.json").read_text())
    return {
        "members_per_second": sum(line["members"] for line in trained)
        / sum(line["seconds"] for line in trained),
        "queue_seconds": summary["stage_seconds"]["queue"] / workers,
        "wall_seconds": summary["wall_seconds"],
        "stage_seconds": summary["stage_seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The queue's share of a run, and what a second worker brings."
    )
    parser.add_argument("--generations", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            one, two = (
                run(
                    workers=workers,
                    generations=options.generations,
                    output=Path(folder) / f"{pair}-{workers}",
                )
                for workers in (1, 2)
            )
            row = {
                "name": "one and two workers",
                "members_per_second_1": round(one["members_per_second"], 2),
                "members_per_second_2": round(two["members_per_second"], 2),
                "ratio": round(two["members_per_second"] / one["members_per_second"], 3),
                "queue_share_2": round(two["queue_seconds"] / two["wall_seconds"], 5),
                "stage_seconds_2": two["stage_seconds"],
            }
            rows.append(row)
            print(row, flush=True)
    print(f"two workers over one: {statistics.median(row['ratio'] for row in rows):.2f} (median)")
    print(
        f"queue: {100 * statistics.median(row['queue_share_2'] for row in rows):.2f}% of the wall time (median)"
    )
    write("run", rows)


if __name__ == "__main__":
    main()
