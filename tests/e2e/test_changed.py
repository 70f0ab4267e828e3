"""What may change while a run goes on is told to its workers, which keep their models loaded."""

import pytest

from e2e.environment import reference_digest, smaller

pytestmark = pytest.mark.timeout(1800)

# By the generation that they are made at. All 16 members are 99% of 16, too, and patience is never exhausted.
CHANGES = (
    (4, {"evaluation__everyGenerations": 3, "checkpoint__keep": 1}),
    (8, {"workers__claimSize": 3, "workers__quorum": 0.99}),
    (12, {"evolution__generations": 40, "stop__patience": 1000}),
    (20, {"evolution__generations": 48, "checkpoint__everyGenerations": 7}),
)


def incarnations(runs):
    """The Job and its pods by their uids, and how often each container was started."""
    job = runs.batch.read_namespaced_job("run-workers", runs.namespace)
    starts = {
        pod.metadata.uid: [container.restart_count for container in pod.status.container_statuses]
        for pod in runs.pods()
    }
    return job.metadata.uid, starts


def test_changes_reach_the_workers_that_there_are(runs, note_digest):
    runs.apply(smaller(evolution__generations=16))
    runs.wait_generation(2)
    runs.wait_ready_pods(2)
    before = incarnations(runs)
    for generation, changes in CHANGES:
        runs.wait_generation(generation)
        runs.patch(**changes)
    runs.wait_generation(40)
    assert incarnations(runs) == before
    status = runs.wait_end()
    assert status["progress"]["summary"] == "48/48"
    note_digest(status["digest"], reference_digest("smaller"))
