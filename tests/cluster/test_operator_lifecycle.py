"""A run from its creation to its end, as `kubectl` would see it: start, suspend, continue, deadlines, deletion."""

import time
from collections.abc import Callable

import redis

from conftest import RedisProcess
from esft.errors import QueueUnavailableError
from kube_parts import wait_until
from operator_parts import RUNNING, Node, OperatorProcess, Runs
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]


def test_a_run_comes_to_its_end(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create()
    runs.wait_for(phase="Running", workers__desired=2, workers__ready=2)
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1, progress__summary="1/3")
    worker.finish()
    status = runs.wait_for(phase="Succeeded", progress__percent=100.0, workers__desired=0)
    assert status["evaluation"]["count"] == 4
    assert status["evaluation"]["lastGeneration"] == 3
    assert status["checkpoint"] == {
        "generation": 3,
        "uri": "pvc://run-checkpoints/checkpoints/generation-000003",
    }
    assert len(status["digest"]) == 16
    assert status["startTime"] <= status["completionTime"]
    final = [each for each in status["conditions"] if each["type"] in {"Complete", "Failed"}]
    assert [(each["type"], each["status"], each["reason"]) for each in final] == [
        ("Complete", "True", "GenerationsDone")
    ]
    generation = runs.get()["metadata"]["generation"]
    assert {each["observedGeneration"] for each in status["conditions"]} == {generation}
    wait_until(lambda: runs.events()[-1:] == ["Completed"], 5, runs.events)
    assert runs.events()[0] == "Started"
    assert set(runs.events()[1:-1]) == {"CheckpointSaved"}
    assert operator.errors() == []


def test_suspend_ends_the_pods_and_resume_goes_on(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create()
    runs.wait_for(phase="Running", workers__ready=2)
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1)
    runs.patch(suspend=True)
    status = runs.wait_for(phase="Suspended", workers__desired=0, workers__ready=0)
    assert "activeSince" not in status
    runs.wait_pods(0)
    assert runs.condition("Suspended")["status"] == "True"
    assert runs.job() is None
    runs.patch(suspend=False)
    runs.wait_for(phase="Running", workers__ready=2)
    worker.finish()
    runs.wait_for(phase="Succeeded")
    assert [each for each in runs.events() if each in {"Suspended", "Resumed"}] == ["Suspended", "Resumed"]


def test_a_finished_run_goes_on_when_generations_are_raised(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create()
    runs.wait_for(phase="Running")
    worker_of().finish()
    before = runs.wait_for(phase="Succeeded")
    job = runs.job().metadata.uid
    runs.patch(evolution__generations=5)
    runs.wait_for(phase="Running", progress__planned=5, workers__ready=2)
    assert runs.condition("Complete") == {}
    assert runs.wait_job().metadata.uid != job
    worker_of().finish()
    after = runs.wait_for(phase="Succeeded", progress__summary="5/5")
    assert after["digest"] != before["digest"]
    assert "Continued" in runs.events()


def test_a_run_that_ended_and_was_raised_while_no_operator_was_there_goes_on(
    operator: OperatorProcess,
    make_operator: Callable[..., OperatorProcess],
    runs: Runs,
    node: Node,
    worker_of: Workers,
) -> None:
    runs.create()
    runs.wait_for(phase="Running", workers__ready=2)
    operator.kill()
    worker = worker_of()
    worker.finish()
    runs.patch(evolution__generations=5)
    restarted = make_operator(ESFT_POLL_SECONDS="2")  # it acts several times before it looks at Redis again
    wait_until(lambda: worker.queue.state().phase == "Running", 20, worker.queue.state)
    worker_of().finish()
    runs.wait_for(phase="Succeeded", progress__summary="5/5")
    assert len(restarted.actions("DeleteJob")) == 1
    assert len(restarted.actions("ReopenRun")) == 1


def test_a_run_fails_when_it_is_active_for_too_long(
    operator: OperatorProcess, runs: Runs, node: Node
) -> None:
    runs.create(activeDeadlineSeconds=2)
    runs.wait_for(phase="Failed")
    assert runs.condition("Failed")["reason"] == "DeadlineExceeded"
    assert "activeDeadlineSeconds (2 s)" in runs.condition("Failed")["message"]


def test_a_deadline_does_not_pass_while_suspended(operator: OperatorProcess, runs: Runs, node: Node) -> None:
    runs.create(activeDeadlineSeconds=3, suspend=True)
    runs.wait_for(phase="Suspended")
    deadline = time.monotonic() + 4
    wait_until(lambda: time.monotonic() > deadline, 10, "the time")
    assert runs.status()["phase"] == "Suspended"
    runs.patch(suspend=False)
    runs.wait_for(phase="Running")
    runs.wait_for(phase="Failed")


def test_a_run_fails_when_no_worker_comes(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(pendingDeadlineSeconds=2)
    runs.wait_for(phase="Pending")
    runs.wait_for(phase="Failed")
    assert runs.condition("Failed")["reason"] == "PendingDeadlineExceeded"


def test_workers_hear_of_a_deadline(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create(activeDeadlineSeconds=4)
    runs.wait_for(phase="Running")
    worker = worker_of()
    runs.wait_for(phase="Failed")
    wait_until(lambda: worker.queue.state().reason == "DeadlineExceeded", 5, worker.queue.state)


def test_a_finished_run_goes_after_its_time_to_live(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers, redis_server: RedisProcess
) -> None:
    runs.create(ttlSecondsAfterFinished=1)
    runs.wait_for(phase="Running")
    worker_of().finish()
    runs.wait_gone()
    with redis.Redis(unix_socket_path=str(redis_server.socket)) as client:
        assert client.keys("*") == []


def test_another_controllers_run_is_left_alone(operator: OperatorProcess, runs: Runs) -> None:
    runs.create("other", managedBy="example.com/other")
    runs.create("ours", managedBy="esfinetune.dev/operator")
    runs.wait_job("ours")
    assert runs.job("other") is None
    assert runs.find("other").get("status") is None
    assert "finalizers" not in runs.find("other")["metadata"]
    runs.delete("other")
    runs.wait_gone("other")


def test_deletion_leaves_nothing(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers, redis_server: RedisProcess
) -> None:
    runs.create()
    runs.wait_for(phase="Running")
    worker_of().generation()
    with redis.Redis(unix_socket_path=str(redis_server.socket)) as client:
        assert client.keys("*")
        runs.delete()
        runs.wait_gone()
        assert client.keys("*") == []
        assert client.acl_users() == ["default"]
    runs.wait_pods(0)
    wait_until(lambda: runs.job() is None, 40, "the Job is collected")
    secrets = runs.core.list_namespaced_secret
    wait_until(lambda: secrets(runs.namespace).items == [], 40, "the Secret is collected")


def test_deletion_ends_though_redis_is_away(
    operator: OperatorProcess, runs: Runs, node: Node, redis_server: RedisProcess
) -> None:
    runs.create()
    runs.wait_for(phase="Running")
    redis_server.stop()
    started = time.monotonic()
    runs.delete()
    runs.wait_gone(seconds=30)
    assert time.monotonic() - started < 30
    wait_until(lambda: "KeysLeftInRedis" in runs.events(), 5, runs.events)


def test_a_re_created_run_starts_afresh(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    first = runs.create()["metadata"]["uid"]
    runs.wait_for(phase="Running")
    worker_of().generation()
    runs.wait_for(progress__generation=1)
    runs.delete()
    runs.wait_gone()
    second = runs.create()["metadata"]["uid"]
    assert first != second
    runs.wait_for(phase="Running", progress__generation=0, workers__ready=2, seconds=60)
    assert runs.job().metadata.owner_references[0].uid == second
    worker_of().finish()
    runs.wait_for(phase="Succeeded")


def test_redis_away_and_back(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers, redis_server: RedisProcess
) -> None:
    runs.create()
    runs.wait_for(phase="Running")
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1)
    redis_server.stop()
    runs.wait_condition("Healthy", status="False", reason="RedisUnavailable")
    assert runs.status()["phase"] == "Running"
    redis_server.start()
    runs.wait_condition("Healthy", status="True")
    worker = wait_until(
        lambda: let_in(worker_of), 10, "the run's user defined again: this Redis has no ACL file"
    )
    worker.finish()
    runs.wait_for(phase="Succeeded")
    events = runs.events()
    assert events.count("RedisUnavailable") == events.count("Recovered") == 1


def let_in(worker_of: Workers) -> SimulatedWorker | None:
    try:
        return worker_of()
    except QueueUnavailableError:
        return None


def test_a_restarted_operator_goes_on_from_the_status(
    make_operator: Callable[..., OperatorProcess], runs: Runs, node: Node, worker_of: Workers
) -> None:
    operator = make_operator()
    runs.create()
    runs.wait_for(phase="Running")
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1)
    operator.kill()
    worker.finish()  # training goes on while the operator is down
    make_operator()
    status = runs.wait_for(phase="Succeeded", progress__summary="3/3")
    assert status["evaluation"]["count"] == 4
    assert runs.events().count("Started") == 1


def test_a_pod_becomes_ready(operator: OperatorProcess, runs: Runs) -> None:
    runs.create()
    runs.wait_for(phase="Pending", workers__desired=2, workers__ready=0)
    pods = runs.wait_pods(2)
    runs.set_pod_status(pods[0], RUNNING)
    runs.wait_for(phase="Running", workers__ready=1)
    assert runs.condition("WorkersReady")["status"] == "False"
    runs.set_pod_status(pods[1], RUNNING)
    runs.wait_condition("WorkersReady", status="True", reason="AllReady")
