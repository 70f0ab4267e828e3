"""Whatever happens in whatever order, the loop comes to rest and what it leaves makes sense."""

from collections.abc import Callable
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from operator_situations import condition
from operator_world import World


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
