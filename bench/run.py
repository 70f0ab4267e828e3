"""What a whole run costs: the queue's share of the demo, and what a second worker brings: `python bench/run.py`.

Runs examples/countdown-tiny.yaml with one worker and with two, shortened to a number of generations. Both have the
model already, and what is compared is the time between the opening and the commit of generations, so that neither
start-up nor the model's making counts. Meaningful only where each worker has a core of its own.
"""

import argparse
import json
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
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
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
        "digest": summary["digest"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The queue's share of a run, and what a second worker brings."
    )
    parser.add_argument("--generations", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, two = (
            run(workers=workers, generations=options.generations, output=Path(folder) / str(workers))
            for workers in (1, 2)
        )
    speed_up = two["members_per_second"] / one["members_per_second"]
    share = two["queue_seconds"] / two["wall_seconds"]
    print(f"members/s: {one['members_per_second']:.1f} with 1 worker, {two['members_per_second']:.1f} with 2")
    print(f"two workers over one: {speed_up:.2f}")
    print(
        f"queue: {100 * share:.2f}% of the wall time ({two['queue_seconds']:.2f} of {two['wall_seconds']:.1f} s)"
    )
    print("stages of 2 workers, s: " + ", ".join(f"{k} {v:.1f}" for k, v in two["stage_seconds"].items()))
    write(
        "run",
        [
            {"operation": "members per second", "workers_1": one, "workers_2": two, "ratio": speed_up},
            {
                "operation": "queue",
                "queue_seconds": two["queue_seconds"],
                "wall_seconds": two["wall_seconds"],
            },
        ],
    )


if __name__ == "__main__":
    main()
