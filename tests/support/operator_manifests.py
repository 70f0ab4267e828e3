"""A run whose children are built, for tests of what the operator applies."""

from typing import Any

from esft_operator.decide import build
from esft_operator.resource import Manifest, Run
from esft_operator.settings import WorkerDefaults

UID = "0f5b1e0a-1111-2222-3333-444455556666"
DEFAULTS = WorkerDefaults(image="worker:1")
SPEC: dict[str, Any] = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "task": {"name": "countdown", "train": {"size": 200}, "test": {"size": 100, "seed": 1}},
}
SHARED = {"checkpoint": {"storage": {"uri": "file:///data/run"}}}


def make_run(
    spec: dict[str, Any] | None = None,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Run:
    metadata = {"name": "tune", "namespace": "team", "uid": UID, "labels": labels, "annotations": annotations}
    return Run.from_body({"metadata": metadata, "spec": SPEC | (spec or {})})


def make_job(spec: dict[str, Any] | None = None, *, parallelism: int = 2, **metadata: Any) -> Manifest:
    return build.job(make_run(spec, **metadata), DEFAULTS, parallelism=parallelism)
