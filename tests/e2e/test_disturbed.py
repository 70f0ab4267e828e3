"""Disturbances that must not change the weights: promises 1, 3 and 5 of docs/design.md."""

import pytest

from e2e.environment import reference_digest, smaller
from e2e.run import STEP_SECONDS, delete_operator_pod, delete_redis_pod

pytestmark = pytest.mark.timeout(1800)


def test_workers_and_operator_deleted(runs, note_digest):
    runs.apply(smaller())
    for generation in (4, 12, 20):
        runs.wait_generation(generation)
        runs.delete_pod(runs.wait_ready_pods(2)[0], kill=generation == 12)
        if generation == 12:
            delete_operator_pod()
    note_digest(runs.wait_end()["digest"], reference_digest("smaller"))


def test_redis_deleted(runs, note_digest):
    runs.apply(smaller())
    for generation in (6, 20):
        runs.wait_generation(generation)
        delete_redis_pod()
    note_digest(runs.wait_end()["digest"], reference_digest("smaller"))


def test_scaled_up_and_down(runs, note_digest):
    runs.apply(smaller())
    for generation, workers in ((4, 3), (16, 1), (28, 2)):
        runs.wait_generation(generation)
        runs.kubectl("scale", "esft/run", f"--replicas={workers}")
        runs.wait_ready_pods(workers)
    note_digest(runs.wait_end()["digest"], reference_digest("smaller"))


def test_suspended_and_resumed(runs, note_digest):
    runs.apply(smaller())
    runs.wait_generation(8)
    runs.patch(suspend=True)
    runs.wait_for(phase="Suspended", seconds=STEP_SECONDS)
    runs.wait_pods(0, seconds=STEP_SECONDS)
    assert 8 <= runs.generation() < 48
    runs.patch(suspend=False)
    runs.wait_for(phase="Running", seconds=STEP_SECONDS)
    note_digest(runs.wait_end()["digest"], reference_digest("smaller"))


def test_generations_raised_while_it_runs_and_after(runs, note_digest):
    runs.apply(smaller(evolution__generations=16))
    runs.wait_generation(6)
    runs.patch(evolution__generations=32)
    assert runs.wait_end()["progress"]["generation"] == 32
    runs.patch(evolution__generations=48)
    runs.wait_for(phase="Running", seconds=STEP_SECONDS)
    note_digest(runs.wait_end()["digest"], reference_digest("smaller"))
