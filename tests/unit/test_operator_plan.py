"""What the operator decides, in a world in memory; tests/cluster asks a real API server the same."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from esft.status.ledger import Ledger
from esft_operator.decide.actions import Apply, FinishRun, ReopenRun, SetPolicy
from esft_operator.decide.plan import DELETION_SECONDS, Plan, plan
from esft_operator.observe.children import Child, Observed
from esft_operator.observe.situation import Progress, Situation
from esft_operator.resource import Run
from operator_world import NOW, World, body, condition, job, kinds_of, pod, situation, state

RUN = Run.from_body(body())
EVERYTHING = ["AddFinalizer", "Apply ConfigMap", "Apply PersistentVolumeClaim", "GrantAccess", "Apply Job"]


@pytest.fixture
def world() -> World:
    """A run that has started."""
    made = World()
    made.settle()
    made.change_pods(ready=True)
    made.settle()
    return made


def job_of(decided: Plan) -> dict[str, Any]:
    (found,) = (
        each.manifest
        for each in decided.actions
        if isinstance(each, Apply) and each.manifest["kind"] == "Job"
    )
    return found


def test_a_new_run_gets_everything_in_order_and_then_nothing_more() -> None:
    decided = plan(situation(refresh=True))
    assert kinds_of(decided.actions) == EVERYTHING
    assert decided.status is not None
    assert decided.status.phase == "Pending"
    world = World()
    world.settle()
    before = len(world.actions), len(world.statuses)
    assert world.settle().actions == ()
    assert (len(world.actions), len(world.statuses)) == before
    assert world.reasons == []


def test_a_run_comes_to_its_end(world: World) -> None:
    for _ in range(4):
        world.train()
        world.settle()
    world.finish_job()
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.status.digest == "0123456789abcdef"
    assert world.status.progress is not None
    assert world.status.progress.summary == "3/3"
    assert world.status.evaluation is not None
    assert world.status.evaluation.count == 4
    assert world.reasons == ["Started", "CheckpointSaved", "CheckpointSaved", "Completed"]
    assert condition(world.status, "Failed") is None


def test_suspended_and_resumed(world: World) -> None:
    world.train()
    since = len(world.actions)
    world.change(suspend=True)
    decided = world.settle()
    assert "DeleteJob" in world.kinds(since)
    assert world.job is None
    assert world.status.phase == "Suspended"
    assert world.status.workers is not None
    assert world.status.workers.desired == 0
    assert decided.actions == ()  # not even access, however long it lasts
    world.change(suspend=False)
    world.settle()
    assert world.job is not None
    assert world.status.phase == "Running"
    assert world.reasons[-2:] == ["Suspended", "Resumed"]


def test_created_suspended() -> None:
    world = World(suspend=True)
    world.settle()
    assert world.kinds()[:3] == EVERYTHING[:3]
    assert "Apply Job" not in world.kinds()
    assert world.status.phase == "Suspended"
    world.change(suspend=False)
    world.settle()
    assert world.redis.has_user
    assert world.status.phase == "Pending"


@pytest.mark.parametrize(
    "changes",
    [
        {"workers__template": {"spec": {"nodeSelector": {"gpu": "h100"}}}},
        {"workers__template": {"metadata": {"labels": {"team": "a"}}}},
    ],
)
def test_what_pods_cannot_change_replaces_the_job(world: World, changes: dict[str, Any]) -> None:
    assert world.job is not None
    before, since = world.job.child.uid, len(world.actions)
    world.change(**changes)
    world.settle()
    assert world.job.child.uid != before
    kinds = world.kinds(since)
    assert kinds.index("DeleteJob") < kinds.index("Apply Job")


POLICY_CHANGES = [
    {"evolution__generations": 5},
    {"evaluation__everyGenerations": 2},
    {"checkpoint__everyGenerations": 1},
    {"checkpoint__keep": 1},
    {"monitoring": {"kl": {"everyGenerations": 1, "prompts": 2}}},
    {"stop__patience": 2},
    {"workers__quorum": 0.5},
    {"workers__claimSize": 2},
    {"workers__leaseSeconds": 30},
]


@pytest.mark.parametrize("changes", POLICY_CHANGES)
def test_what_may_change_is_told_to_the_run_and_replaces_no_pod(changes: dict[str, Any]) -> None:
    world = World()
    world.settle()
    world.train(1)
    world.settle()
    pods, since = dict(world.pods), len(world.actions)
    world.change(**changes)
    world.settle()
    assert world.pods == pods
    told = [action.policy for action in world.actions[since:] if isinstance(action, SetPolicy)]
    assert told == [Run.from_body(world.body).policy]
    assert told[0].version == world.body["metadata"]["generation"]


def test_a_change_that_is_none_of_the_runs_business_is_not_told(world: World) -> None:
    world.train(1)
    world.change(workers__maxReplicas=4)
    world.settle()
    assert "SetPolicy" not in world.kinds()


@pytest.mark.parametrize(
    "changes",
    [
        {"workers__maxReplicas": 4},
        {"workers__replicas": 1},
        {"ttlSecondsAfterFinished": 9},
        {"activeDeadlineSeconds": 900},
        {"pendingDeadlineSeconds": 900},
    ],
)
def test_what_does_not_concern_pods_keeps_the_job(world: World, changes: dict[str, Any]) -> None:
    since = len(world.actions)
    world.change(**changes)
    world.settle()
    assert "DeleteJob" not in world.kinds(since)


@pytest.mark.parametrize(("replicas", "wanted"), [(1, 1), (2, 2)])
def test_parallelism_follows(replicas: int, wanted: int) -> None:
    made = body(workers__replicas=replicas)
    seen = Observed(job=job(RUN, parallelism=7))
    decided = plan(situation(made, observed=seen))
    assert job_of(decided)["spec"]["parallelism"] == wanted


def test_a_job_that_is_going_is_waited_for() -> None:
    for child in (Child("job-1", RUN.uid, terminating=True),):
        seen = Observed(job=job(RUN, child=child, template_hash="other"))
        assert not {"DeleteJob", "Apply Job"} & set(kinds_of(plan(situation(observed=seen)).actions))


def test_a_foreign_job_is_never_deleted() -> None:
    theirs = job(RUN, child=Child("theirs", "someone", terminating=False), template_hash=None)
    for changes in ({}, {"suspend": True}):
        decided = plan(situation(body(**changes), observed=Observed(job=theirs)))
        assert "DeleteJob" not in kinds_of(decided.actions)
        assert all(each.owned_uid is None for each in decided.actions if isinstance(each, Apply))


JOB_OVER = job(RUN, finished_at=NOW - timedelta(seconds=60))


@pytest.mark.parametrize(
    ("progress", "is_replaced"),
    [
        (Progress(asked=True, state=state(RUN, 1), ledger=Ledger(generation=1)), True),
        (Progress(asked=True), True),
        (Progress(), False),  # a restarted operator has not asked Redis yet
        (Progress(problem="Redis is away"), False),
        (Progress(asked=True, problem="Redis is away", state=state(RUN, 1)), False),
    ],
)
def test_a_job_that_is_over_too_early_is_replaced_once_redis_was_asked(
    progress: Progress, *, is_replaced: bool
) -> None:
    decided = plan(situation(observed=Observed(job=JOB_OVER), progress=progress))
    assert ("DeleteJob" in kinds_of(decided.actions)) == is_replaced


def test_a_job_that_ended_this_moment_is_given_time() -> None:
    ended = job(RUN, finished_at=NOW)
    progress = Progress(asked=True, state=state(RUN, 3), ledger=Ledger(generation=3))
    decided = plan(situation(observed=Observed(job=ended), progress=progress))
    assert "DeleteJob" not in kinds_of(decided.actions)
    assert decided.again_at == NOW + timedelta(seconds=15)
    later = plan(situation(observed=Observed(job=ended), progress=progress, now=decided.again_at))
    assert "DeleteJob" in kinds_of(later.actions)


# generations raised


def test_raised_while_it_runs(world: World) -> None:
    world.train()
    world.change(evolution__generations=5)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.summary == "1/5"
    assert "ReopenRun" not in world.kinds()


def test_raised_while_suspended(world: World) -> None:
    world.change(suspend=True, evolution__generations=5)
    world.settle()
    assert world.status.phase == "Suspended"
    world.change(suspend=False)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.planned == 5


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_raised_after_the_end(world: World, *, is_recorded: bool, suspended: bool) -> None:
    world.train(4)
    world.finish_job()
    if is_recorded:
        world.settle()
        assert world.status.phase == "Succeeded"
    world.change(evolution__generations=5, suspend=suspended or None)
    world.settle()
    assert world.status.phase == ("Suspended" if suspended else "Running")
    assert condition(world.status, "Complete") is None
    assert world.status.completion_time is None
    assert world.redis.state is not None
    assert not world.redis.state.finished
    if is_recorded and not suspended:
        assert world.reasons[-1] == "Continued"
    world.change(suspend=None)
    world.settle()
    world.train(9)
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.status.progress is not None
    assert world.status.progress.summary == "5/5"


def test_raised_after_the_end_with_redis_emptied_since(world: World) -> None:
    world.train(4)
    world.settle()
    world.lose_redis()
    world.change(evolution__generations=5)
    world.settle()
    assert world.status.phase == "Running"
    assert world.redis.has_user
    world.train(9)
    world.settle()
    assert world.status.phase == "Succeeded"


@pytest.mark.parametrize("reason", ["TargetScoreReached", "PatienceExhausted"])
def test_raised_after_an_early_end_changes_nothing(world: World, reason: str) -> None:
    world.train(2)
    assert world.redis.state is not None
    world.redis.state = replace(world.redis.state, phase="Succeeded", reason=reason, message="Good enough.")
    world.settle()
    world.change(evolution__generations=9)
    world.settle()
    found = condition(world.status, "Complete")
    assert found is not None
    assert found.reason == reason
    assert "ReopenRun" not in world.kinds()


def test_a_run_is_reopened_where_redis_says_it_ended_not_where_the_log_was_read_to() -> None:
    made = body(evolution__generations=9)
    ended = state(RUN, 3, phase="Succeeded", reason="GenerationsDone")
    decided = plan(situation(made, progress=Progress(asked=True, state=ended, ledger=Ledger(generation=1))))
    (reopened,) = (each for each in decided.actions if isinstance(each, ReopenRun))
    assert reopened.opening.generation == 3


# Redis


def test_access_is_granted_again_when_redis_lost_the_run(world: World) -> None:
    world.train()
    world.settle()
    world.lose_redis()
    since = len(world.actions)
    world._look()  # the follower's next look, which finds nothing
    assert world._reconcile()[0].actions
    assert world.kinds(since) == ["GrantAccess"]
    assert world.redis.has_user
    world.train()
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.generation == 2


def test_a_redis_of_the_users_own_gets_no_user() -> None:
    made = body(redis__urlSecretRef={"name": "mine"})
    for progress in (Progress(asked=True), Progress(problem="the operator may not read it")):
        decided = plan(situation(made, progress=progress, refresh=True))
        assert "GrantAccess" not in kinds_of(decided.actions)
        assert "Apply Job" in kinds_of(decided.actions)


def test_a_run_that_ended_while_no_operator_was_there(world: World) -> None:
    world.train()
    world.settle()
    world.train(9)
    world.finish_job()
    world.advance(3600)
    world.restart()
    since = len(world.actions)
    world.settle()
    assert world.status.phase == "Succeeded"
    assert "DeleteJob" not in world.kinds(since)


def test_the_end_in_redis_comes_before_a_deadline_that_passed_unseen(world: World) -> None:
    world.change(activeDeadlineSeconds=60)
    world.settle()
    world.train(9)
    world.advance(3600)
    world.restart()
    world.settle()
    assert world.status.phase == "Succeeded"


# deletion


@pytest.mark.parametrize("phase", ["new", "Running", "Suspended", "Succeeded", "Failed"])
def test_deletion_leaves_nothing_in_any_phase(world: World, phase: str) -> None:
    match phase:
        case "new":
            world = World()
            world._do(plan(situation()).actions[0])
        case "Suspended":
            world.change(suspend=True)
        case "Succeeded":
            world.train(9)
        case "Failed":
            world.finish_job(("PodFailurePolicy", "exit code 64"))
    if phase != "new":
        world.settle()
        assert world.status.phase == phase
    since = len(world.actions)
    world.delete()
    world.settle()
    assert world.body is None
    assert world.kinds(since)[-2:] == ["RemoveFromRedis", "RemoveFinalizer"]


def deleted(seconds: float, **changes: Any) -> dict[str, Any]:
    made = body(**changes)
    at = (NOW - timedelta(seconds=seconds)).replace(microsecond=0)
    made["metadata"] |= {
        "deletionTimestamp": at.isoformat().replace("+00:00", "Z"),
        "finalizers": ["esfinetune.dev/finalizer"],
    }
    return made


OWN = {"redis__urlSecretRef": {"name": "mine"}}
LIVING = Observed(job=job(RUN), pods=(pod(),))


@pytest.mark.parametrize(
    ("made", "observed", "wanted"),
    [
        (deleted(1), LIVING, ["DeleteJob", "RemoveFromRedis", "RemoveFinalizer"]),
        (deleted(1), Observed(), ["RemoveFromRedis", "RemoveFinalizer"]),
        (deleted(1, **OWN), LIVING, ["DeleteJob"]),  # a worker could write until it ends
        (
            deleted(1, **OWN),
            Observed(pods=(pod(ended=True),)),
            ["RemoveFromRedis", "RemoveFinalizer"],
        ),
        (
            deleted(DELETION_SECONDS + 1, **OWN),
            LIVING,
            ["DeleteJob", "RemoveFromRedis", "RemoveFinalizer"],
        ),
    ],
)
def test_deletion(made: dict[str, Any], observed: Observed, wanted: list[str]) -> None:
    decided = plan(situation(made, observed=observed))
    assert kinds_of(decided.actions) == wanted
    assert decided.status is None


def test_a_deletion_ends_though_redis_is_away(world: World) -> None:
    world.redis.is_away = True
    world.delete()
    world.settle()
    assert world.body is not None
    world.advance(DELETION_SECONDS + 1)
    world.settle()
    assert world.body is None
    assert world.reasons[-1] == "KeysLeftInRedis"


def test_a_deletion_that_no_operator_was_there_to_see_cleans_redis(world: World) -> None:
    world.train()
    world.settle()
    world.delete()
    world.advance(3600)
    world.restart()
    world.settle()
    assert world.body is None
    assert "RemoveFromRedis" in world.kinds()
    assert "KeysLeftInRedis" not in world.reasons


def test_a_deletion_without_our_finalizer_is_not_ours() -> None:
    made = deleted(1)
    made["metadata"]["finalizers"] = ["someone/else"]
    assert plan(situation(made)) == Plan()


# whose it is, and what is refused


def test_another_controllers_run_is_left_alone() -> None:
    assert plan(situation(body(managedBy="example.com/other"))) == Plan()
    assert plan(situation(body(managedBy="esfinetune.dev/operator"))).actions


def test_an_invalid_specification_fails_the_run() -> None:
    made = body(evolution__parameters={"include": ["("]})
    decided = plan(situation(made, refresh=True))
    assert decided.status is not None
    assert decided.status.phase == "Failed"
    found = condition(decided.status, "Failed")
    assert found is not None
    assert found.reason == "InvalidSpec"
    assert "spec.evolution.parameters.include" in found.message
    assert kinds_of(decided.actions) == ["AddFinalizer"]


def test_a_refused_template_can_be_put_right() -> None:
    world = World(workers__template={"spec": {"restartPolicy": "Always"}})
    world.settle()
    assert world.status.phase == "Pending"
    found = condition(world.status, "Healthy")
    assert found is not None
    assert (found.status, found.reason) == ("False", "TemplateRefused")
    assert world.actions == []
    world.change(workers__template={})
    world.settle()
    assert world.job is not None
    assert world.reasons == ["TemplateRefused", "Recovered"]


def test_a_template_refused_later_leaves_the_run_going(world: World) -> None:
    assert world.job is not None
    before = world.job
    world.change(workers__template={"spec": {"restartPolicy": "Always"}})
    world.settle()
    assert world.job == before
    assert world.status.phase == "Running"


def test_storage_that_cannot_work_fails_the_run() -> None:
    world = World(checkpoint__storage={"uri": "s3://bucket/run"})
    world.settle()
    assert world.status.phase == "Failed"
    assert world.reasons == ["Failed"]


# time


def test_a_run_that_is_over_goes_after_its_time_to_live(world: World) -> None:
    world.change(ttlSecondsAfterFinished=30)
    world.train(9)
    world.finish_job()
    decided = world.settle()
    assert decided.again_at is not None
    world.now = decided.again_at
    world.settle()
    assert world.body is None


def test_workers_that_do_not_leave_are_sent_away(world: World) -> None:
    world.train(9)
    decided = world.settle()
    assert world.job is not None
    assert decided.again_at is not None
    world.now = decided.again_at
    world.settle()
    assert world.job is None


@pytest.mark.parametrize(
    ("deadline", "reason", "starts"),
    [
        ("activeDeadlineSeconds", "DeadlineExceeded", True),
        ("activeDeadlineSeconds", "DeadlineExceeded", False),
        ("pendingDeadlineSeconds", "PendingDeadlineExceeded", False),
        ("pendingDeadlineSeconds", None, True),
    ],
)
def test_deadlines_count_active_time_only(deadline: str, reason: str | None, *, starts: bool) -> None:
    world = World(**{deadline: 100})
    world.settle()
    if starts:
        world.change_pods(ready=True)
        world.settle()
        world.train()
    world.advance(60)
    world.change(suspend=True)
    assert world.settle().again_at is None
    world.advance(10_000)
    world.settle()
    world.change(suspend=False)
    decided = world.settle()
    assert world.status.phase in {"Pending", "Running"}
    if reason is None:
        world.advance(10_000)
        world.settle()
        assert world.status.phase == "Running"
        return
    assert decided.again_at is not None
    assert 39 <= (decided.again_at - world.now).total_seconds() <= 41
    world.now = decided.again_at
    world.settle()
    found = condition(world.status, "Failed")
    assert found is not None
    assert found.reason == reason
    if starts:
        (told,) = (each for each in world.actions if isinstance(each, FinishRun))
        assert told.reason == reason


def test_kinds_that_a_cluster_may_not_have() -> None:
    keda = {"minReplicas": 0, "maxReplicas": 6, "replicas": 1, "autoscaling": {"keda": {}}}

    def made(changes: dict[str, Any], **has: bool) -> set[str]:
        now: Situation = situation(body(**changes), refresh=True, **has)
        return set(kinds_of(plan(now).actions)) - set(EVERYTHING)

    pair = {"Apply ScaledObject", "Apply TriggerAuthentication"}
    assert made({"workers": keda}) == set()
    assert made({}, has_pod_monitors=True, has_scaled_objects=True) == {"Apply PodMonitor"}
    assert made({"workers": keda}, has_scaled_objects=True) == pair


class AnythingMayHappen(RuleBasedStateMachine):
    """Users, time, pods, workers, Redis and restarts in any order; the operator settles after each."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(workers__minReplicas=0)
        self.seen = 0
        self.world.settle()

    def teardown(self) -> None:
        """Whatever happened: once Redis is there and everybody lets it, the run can be deleted."""
        self.world.redis.is_away = False
        self.world.delete()
        self.world.settle()
        assert self.world.body is None

    def then_settle(self, step: Callable[[], Any]) -> None:
        step()
        self.world.settle()

    @property
    def is_there(self) -> bool:
        return self.world.body is not None

    @precondition(lambda self: self.is_there)
    @rule(
        changes=st.one_of(
            st.fixed_dictionaries({"suspend": st.booleans()}),
            st.fixed_dictionaries({"workers__replicas": st.sampled_from([None, 0, 1, 2])}),
            st.fixed_dictionaries({"ttlSecondsAfterFinished": st.sampled_from([None, 0, 200])}),
            st.fixed_dictionaries({"activeDeadlineSeconds": st.sampled_from([None, 100, 10_000])}),
            st.fixed_dictionaries({"pendingDeadlineSeconds": st.sampled_from([None, 100])}),
            st.fixed_dictionaries({"checkpoint__everyGenerations": st.sampled_from([1, 2, 3])}),
            st.fixed_dictionaries(
                {
                    "workers__autoscaling": st.sampled_from([None, {"targetGenerationSeconds": 3}]),
                }
            ),
            st.fixed_dictionaries(
                {
                    "workers__template": st.sampled_from(
                        [{}, {"spec": {"hostname": "a"}}, {"spec": {"restartPolicy": "Always"}}]
                    )
                }
            ),
        )
    )
    def someone_changes(self, changes: dict[str, Any]) -> None:
        self.then_settle(lambda: self.world.change(**changes))

    @precondition(lambda self: self.is_there)
    @rule(more=st.integers(1, 3))
    def someone_raises(self, more: int) -> None:
        assert self.world.body is not None
        planned = self.world.body["spec"]["evolution"]["generations"] + more
        self.then_settle(lambda: self.world.change(evolution__generations=planned))

    @rule(seconds=st.sampled_from([0.5, 14, 45, 61, 300]))
    def time_passes(self, seconds: float) -> None:
        self.then_settle(lambda: self.world.advance(seconds))

    @rule(
        fields=st.sampled_from(
            [
                {"ready": True, "problem": None},
                {"ready": False, "problem": ("Unschedulable", "no node")},
                {"ready": False, "problem": ("ImagePullFailed", "no image")},
                {"ready": False, "problem": None},
                {"ready": False, "ended": True, "exit_code": 70, "problem": ("WorkersFailing", "disk")},
                {"ready": False, "ended": True, "exit_code": 143},
            ]
        )
    )
    def pods_change(self, fields: dict[str, Any]) -> None:
        self.then_settle(lambda: self.world.change_pods(**fields))

    @rule(failure=st.sampled_from([None, None, ("PodFailurePolicy", "exit code 64")]))
    def the_job_ends(self, failure: tuple[str, str] | None) -> None:
        self.then_settle(lambda: self.world.finish_job(failure))

    @rule(generations=st.integers(1, 3), score=st.sampled_from([None, 0.25, 0.5]))
    def workers_train(self, generations: int, score: float | None) -> None:
        if self.is_there:
            self.then_settle(lambda: self.world.train(generations, score=score))

    @rule(is_away=st.booleans())
    def redis_goes_or_comes(self, is_away: bool) -> None:
        self.world.redis.is_away = is_away
        self.world.settle()

    @rule()
    def redis_forgets(self) -> None:
        self.then_settle(self.world.lose_redis)

    @rule()
    def the_operator_restarts(self) -> None:
        self.then_settle(self.world.restart)

    @rule()
    def a_child_vanishes(self) -> None:
        self.world.config_map = self.world.job = self.world.claim = None
        self.world.pods = {}
        self.world.settle()

    @invariant()
    def the_loop_is_at_rest(self) -> None:
        written, acted = len(self.world.statuses), len(self.world.actions)
        events = len(self.world.events)
        self.world.settle()
        assert len(self.world.statuses) == written
        assert len(self.world.events) == events
        if not self.world.redis.is_away:  # else what needs it is tried again and again
            assert set(self.world.kinds(acted)) <= {"GrantAccess"}

    @invariant()
    def what_is_there_is_what_should_be(self) -> None:
        if not self.is_there:
            return
        world, status = self.world, self.world.status
        assert world.body is not None
        assert status.workers is not None
        found = condition(status, "Healthy")
        if found is not None and found.reason in {"TemplateRefused", "RedisUnavailable"}:
            return
        assert world.config_map is not None or status.phase in {"Succeeded", "Failed"}
        if status.phase in {"Pending", "Running"}:
            assert world.job is not None
            if world.job.finished_at is None:
                assert world.job.parallelism == status.workers.desired
        elif status.phase == "Suspended":
            assert world.job is None

    @invariant()
    def the_status_makes_sense(self) -> None:
        """Each status that was written, beside the one before it."""
        statuses = self.world.statuses
        for index in range(self.seen, len(statuses)):
            before = statuses[index - 1] if index else None
            check_status(before, statuses[index])
        self.seen = len(statuses)


def check_status(before: Any, after: Any) -> None:
    types = [each.type for each in after.conditions]
    assert len(set(types)) == len(types)
    ends = {"Complete", "Failed"} & set(types)
    assert len(ends) <= 1
    assert {each.observed_generation for each in after.conditions} == {after.observed_generation}
    assert (after.phase == "Succeeded") == ("Complete" in ends)
    assert (after.phase == "Failed") == ("Failed" in ends)
    assert (after.completion_time is not None) == bool(ends)
    assert (after.active_since is None) == (after.phase not in {"Pending", "Running"})
    if after.phase == "Running":
        assert after.start_time is not None
    if before is None:
        return
    assert before.phase != "Failed" or after.phase == "Failed"
    assert before.start_time in {None, after.start_time}
    if before.checkpoint is not None:
        assert after.checkpoint is not None
        assert after.checkpoint.generation >= before.checkpoint.generation
    for each in after.conditions:
        was = condition(before, each.type)
        if was is not None and was.status == each.status:
            assert each.last_transition_time == was.last_transition_time


TestAnythingMayHappen = AnythingMayHappen.TestCase
TestAnythingMayHappen.settings = settings(
    max_examples=30, stateful_step_count=15, deadline=None, phases=(Phase.reuse, Phase.generate)
)


def test_an_invalid_specification_goes_after_its_time_to_live_too() -> None:
    made = body(evolution__parameters={"include": ["("]}, ttlSecondsAfterFinished=60)
    decided = plan(situation(made, refresh=True))
    assert decided.status is not None
    over = {**made, "status": decided.status.as_dict()}
    later = replace(situation(over), now=NOW + timedelta(seconds=61))
    assert "DeleteResource" in kinds_of(plan(later).actions)
