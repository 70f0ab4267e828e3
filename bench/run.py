"""What a whole run costs: the queue's share of the demo, and what a second worker brings: `python bench/run.py`.

Runs examples/countdown-tiny.yaml with one worker and with two in turn, shortened to a number of generations. What is
compared is the time between the opening and the commit of generations, so that start-up does not count. The median of
the pairs' ratios is quoted, since the machine's speed drifts. A run has as many cores as workers: what goes with a
worker (its grading process, its share of Redis and the runner) has no core to itself in either.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from finished_run import JOB, FinishedRun, esft_run
from rows import write


def members_per_second(run: FinishedRun) -> float:
    """Over the generations that count."""
    return sum(line["members"] for line in run.trained) / sum(line["seconds"] for line in run.trained)


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
                esft_run(
                    JOB,
                    workers=workers,
                    settings=[f"evolution.generations={options.generations}"],
                    output=Path(folder) / f"{pair}-{workers}",
                    cores=workers,
                )
                for workers in (1, 2)
            )
            speeds = members_per_second(one), members_per_second(two)
            stages = two.summary["stage_seconds"]
            row = {
                "name": "one and two workers",
                "members_per_second_1": round(speeds[0], 2),
                "members_per_second_2": round(speeds[1], 2),
                "ratio": round(speeds[1] / speeds[0], 3),
                "queue_share_2": round(stages["queue"] / 2 / two.summary["wall_seconds"], 5),
                "stage_seconds_2": stages,
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
