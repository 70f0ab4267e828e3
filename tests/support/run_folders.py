"""Folders of local runs with what workers would have left in them, for tests without workers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esft.document import parse
from esft.queue import Entry
from esft.records import Evaluation, UpdateRecord
from esft.spec import ESFineTune
from esft_local.folder import RunFolder

TELEMETRY = {
    "seconds": 2.0,
    "item_milliseconds": 3000.0,
    "workers": 2.0,
    "leases_expired": 1.0,
    "backups": 0.0,
}


def spec_of(**evolution: Any) -> ESFineTune:
    document = {
        "apiVersion": "esfinetune.dev/v1alpha1",
        "kind": "ESFineTune",
        "metadata": {"name": "small"},
        "spec": {
            "model": {"source": "tiny://countdown"},
            "task": {"name": "countdown", "train": {"size": 8}, "test": {"size": 4, "seed": 1}},
            "evolution": {"generations": 4, "population": 2, **evolution},
        },
    }
    return parse(json.dumps(document), source="job.yaml", folder=Path("/"))


def entry(generation: int, *, score: float | None = None, checkpoint: bool = False) -> Entry:
    record = UpdateRecord(
        generation=generation,
        sigma=0.1,
        step=0.5,
        exponent=-24,
        coefficients=(1, -1),
        fitness=(0.25, 0.75),
        evaluation=None if score is None else Evaluation(score=score, reward=score, examples=4),
        checkpoint=checkpoint,
    )
    return Entry(record.to_json(), TELEMETRY)


@contextmanager
def opened(path: Path, spec: ESFineTune | None = None) -> Iterator[RunFolder]:
    with RunFolder.open(path, spec or spec_of(), new_uid=lambda: "uid-1") as folder:
        folder.begin()
        yield folder
