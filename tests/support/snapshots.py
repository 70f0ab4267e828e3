"""Runs in a cluster as the API server has them, and what is read of them, for tests of what is shown."""

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, RenderableType

from esft.status.snapshot import RunEvent, Worker

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-05-01T11:00:00Z",
    }


def body(phase: str | None = "Running", *conditions: dict[str, Any], **status: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "metadata": {
            "name": "countdown",
            "namespace": "research",
            "uid": "u-1",
            "generation": 1,
            "creationTimestamp": "2026-05-01T10:30:00Z",
        },
        "spec": {},
    }
    if phase is not None:
        made["status"] = {
            "phase": phase,
            "observedGeneration": 1,
            "conditions": list(conditions)
            or [condition("Progressing", "True", "Running", "Members are being evaluated.")],
            "progress": {
                "generation": 12,
                "planned": 500,
                "percent": 2.4,
                "estimatedRemainingSeconds": 3725.0,
                "summary": "12/500",
            },
            "fitness": {"mean": 0.4213, "best": 0.5, "std": 0.0312, "summary": "0.4213"},
            "evaluation": {
                "base": 0.1,
                "last": 0.2,
                "best": 0.21,
                "bestGeneration": 10,
                "lastGeneration": 12,
                "count": 3,
                "summary": "0.2000",
            },
            "workers": {"desired": 3, "ready": 2, "selector": "a=b"},
            "checkpoint": {"generation": 10, "uri": "pvc://countdown-checkpoints/generation-000010"},
            "activeSince": "2026-05-01T11:00:00Z",
            "activeSeconds": 60.0,
            **status,
        }
    return made


def ended(phase: str, kind: str, reason: str) -> dict[str, Any]:
    return body(phase, condition(kind, "True", reason, "a message"))


def pod(name: str, state: str = "ready", **changes: Any) -> Worker:
    made: dict[str, Any] = {"node": "node-1", "created_at": datetime(2026, 5, 1, 11, tzinfo=UTC), **changes}
    return Worker(name=name, state=state, **made)


def event(uid: str = "e-1", reason: str = "Started", **changes: Any) -> RunEvent:
    made: dict[str, Any] = {"time": datetime(2026, 5, 1, 11, 59, 30, tzinfo=UTC), "type": "Normal"}
    return RunEvent(uid=uid, reason=reason, **{**made, "message": "The first worker is ready.", **changes})


def text_of(shown: RenderableType, *, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
