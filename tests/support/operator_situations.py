"""Values that the operator decides by, made to order: resources, log entries, what Redis, Jobs and pods say."""

import json
from datetime import UTC, datetime
from typing import Any

from esft.errors import SpecError
from esft.generation import opened
from esft.queue import Entry, RunState
from esft.records import Evaluation, UpdateRecord
from esft.status import Condition, ESFineTuneStatus
from esft_operator.observe.children import Child, JobView, Observed, PodView
from esft_operator.observe.situation import Progress, Resource, Situation
from esft_operator.resource import Run
from esft_operator.settings import WorkerDefaults

UID = "0f5b1e0a-1111-2222-3333-444455556666"
NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
COUNTERS = dict.fromkeys(
    ("reported", "duplicates", "stale", "leases_expired", "backups", "digest_mismatches"), 0
)


def spec(**changes: Any) -> dict[str, Any]:
    """A run of 3 generations; `workers__replicas=2` changes a field, None removes it."""
    made: dict[str, Any] = {
        "model": {"source": "tiny://countdown", "dtype": "float32"},
        "task": {"name": "countdown", "train": {"size": 8}, "test": {"size": 8, "seed": 1}},
        "evolution": {"generations": 3, "population": 4},
        "evaluation": {"everyGenerations": 1},
        "checkpoint": {"everyGenerations": 2},
        "workers": {"minReplicas": 1, "maxReplicas": 2},
    }
    change(made, **changes)
    return made


def change(document: dict[str, Any], **changes: Any) -> None:
    """Change a document in place."""
    for path, value in changes.items():
        holder = document
        *parents, last = path.split("__")
        for parent in parents:
            holder = holder.setdefault(parent, {})
        if value is None:
            holder.pop(last, None)
        else:
            holder[last] = value


def body(**changes: Any) -> dict[str, Any]:
    """A resource as the API server gives it."""
    return {
        "metadata": {
            "name": "tune",
            "namespace": "team",
            "uid": UID,
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": "2026-03-01T12:00:00Z",
        },
        "spec": spec(**changes),
    }


def entry(
    generation: int,
    *,
    score: float | None = None,
    seconds: float = 2.0,
    work: float = 8.0,
    checkpoint: bool = False,
) -> Entry:
    """A log entry of four members; `work` seconds were spent on it."""
    record = UpdateRecord(
        generation=generation,
        sigma=0.001,
        step=0.1,
        exponent=0,
        coefficients=(1, 2, 3, 4),
        fitness=(0.1, 0.2, 0.3, 0.4 + generation),
        evaluation=None if score is None else Evaluation(score=score, reward=score, examples=8),
        checkpoint=checkpoint,
    )
    return Entry(record.to_json(), {"seconds": seconds, "item_milliseconds": work * 1000})


def state(run: Run, generation: int, **fields: Any) -> RunState:
    """A run in Redis at a generation."""
    opening = opened(run.spec, generation, run.policy)
    given: dict[str, Any] = {"phase": "Running", "reason": "", "message": "", "result": None, **fields}
    return RunState(
        measures="",
        opening=opening,
        policy=run.policy.to_json(),
        done=0,
        outstanding=0,
        todo=len(opening.items),
        workers=1,
        counters=COUNTERS,
        **given,
    )


def finished(run: Run, generation: int, **fields: Any) -> RunState:
    """A run that has done all its generations."""
    result = {
        "generation": generation,
        "digest": "0123456789abcdef",
        "evaluation": {"score": 0.5, "reward": 0.5, "examples": 8},
    }
    given: dict[str, Any] = {
        "phase": "Succeeded",
        "reason": "GenerationsDone",
        "message": f"All {generation} generations done.",
        "result": json.dumps(result),
        **fields,
    }
    return state(run, generation, **given)


def pod(name: str = "tune-workers-a", **fields: Any) -> PodView:
    """A worker pod that is starting."""
    given: dict[str, Any] = {
        "ready": False,
        "ended": False,
        "terminating": False,
        "created_at": NOW,
        **fields,
    }
    return PodView(name=name, **given)


def job(run: Run, **fields: Any) -> JobView:
    """The Job that the operator would make."""
    from esft_operator.decide import build  # noqa: PLC0415 - as only those need it who want a Job

    given: dict[str, Any] = {
        "child": Child("job-1", run.uid, terminating=False),
        "template_hash": build.template_hash(run, WorkerDefaults()),
        "parallelism": 2,
        "finished_at": None,
        "failure": None,
        **fields,
    }
    return JobView(**given)


def situation(made: dict[str, Any] | None = None, **fields: Any) -> Situation:
    """A situation of a resource; by default of one that was made this moment."""
    made = body() if made is None else made
    run, error = parsed(made)
    given: dict[str, Any] = {
        "resource": Resource.of(made),
        "run": run,
        "spec_error": error,
        "observed": Observed(),
        "progress": Progress(asked=True),
        "defaults": WorkerDefaults(),
        "now": NOW,
        **fields,
    }
    return Situation(**given)


def parsed(made: dict[str, Any]) -> tuple[Run | None, str | None]:
    try:
        return Run.from_body(made), None
    except SpecError as error:
        return None, str(error)


def condition(status: ESFineTuneStatus | None, kind: str) -> Condition | None:
    """A condition of a status."""
    assert status is not None
    return next((each for each in status.conditions or () if each.type == kind), None)
