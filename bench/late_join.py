"""What a worker that joins late pays: replaying the log or reading a checkpoint's masters: `bench/late_join.py`.

A GPT of 100 million parameters in bfloat16, generations of 30 members. Beside each figure stands what the worker
predicts when it chooses. Reading is measured from the disk and again from the system's page cache.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from esft.layout import MASTERS_FILE
from esft_worker.checkpoint import (
    CheckpointState,
    CheckpointStore,
    read_masters,
    seconds_to_read,
)
from esft_worker.weights import Weights
from noise import gpt, random_update
from rows import write

MEMBERS = 30
REPLAYED = (1, 4, 16)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(action: Callable[[], object]) -> float:
    """Wall time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    weights = Weights(
        gpt(torch.bfloat16),
        seed=0,
        antithetic=False,
        include=[".*"],
        exclude=[],
        threads=torch.get_num_threads(),
    )
    rows = []
    for generations in REPLAYED:
        records = [random_update(MEMBERS, generation=generation) for generation in range(generations)]
        predicted = weights.seconds_to_apply(records)
        rows.append(
            {
                "name": f"replay {generations} generations",
                "seconds": round(seconds(lambda records=records: weights.apply(records)), 2),
                "predicted_seconds": round(predicted, 2),
            }
        )
        print(rows[-1], flush=True)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = CheckpointStore(Path(folder)).save(
            CheckpointState(0, weights.digest(), "bench"),
            save_model=lambda _: None,
            masters=weights.masters(),
            log=[],
            writer="bench",
            keep=1,
        )

        def load() -> None:
            weights.load_masters(read_masters(path) or {})

        for name, prepare in (("from disk", forget), ("from the page cache", lambda _: None)):
            prepare(path / MASTERS_FILE)
            predicted = seconds_to_read(path)
            prepare(path / MASTERS_FILE)  # of which that has read some
            rows.append(
                {
                    "name": f"read a checkpoint {name}",
                    "seconds": round(seconds(load), 2),
                    "predicted_seconds": round(predicted, 2),
                }
            )
            print(rows[-1], flush=True)
    write("late_join", rows)


if __name__ == "__main__":
    main()
