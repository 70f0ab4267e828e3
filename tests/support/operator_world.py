"""A run and its world in memory, for tests of what the operator decides: plans are applied as the operator would.

Everything that decides is the real thing; the API server, the Job controller and Redis are reduced to what a plan can
see of them. The real ones are in tests/cluster.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from esft.generation import Terms
from esft.policy import Policy
from esft.queue import Entry, RunState
from esft.status import ESFineTuneStatus
from esft.status.ledger import Ledger
from esft_operator.decide.actions import (
    Action,
    AddFinalizer,
    Apply,
    DeleteJob,
    DeleteResource,
    Event,
    FinishRun,
    GrantAccess,
    RemoveFinalizer,
    RemoveFromRedis,
    ReopenRun,
    SetPolicy,
)
from esft_operator.decide.plan import Plan, plan
from esft_operator.names import FINALIZER
from esft_operator.observe.children import Child, ConfigMapView, JobView, Observed, PodView
from esft_operator.observe.situation import Progress, Resource, Situation
from esft_operator.resource import Run
from operator_situations import NOW, UID, body, change, entry, finished, parsed, pod, situation, state

MOST_ROUNDS = 12


@dataclass
class SimulatedRedis:
    """What a plan can see of Redis, and what workers do in it."""

    is_away: bool = False
    has_user: bool = False
    log: list[Entry] = field(default_factory=list)
    state: RunState | None = None
    mine: list[Entry] = field(default_factory=list)  # what workers remember


class World:
    """One run; `settle` is the operator, the rest is everybody else.

    Attributes:
        events: every Event that was posted.
        statuses: every status that was written.
    """

    def __init__(self, **changes: Any) -> None:
        self.body: dict[str, Any] | None = body(**changes)
        self.now = NOW
        self.redis = SimulatedRedis()
        self.job: JobView | None = None
        self.config_map: ConfigMapView | None = None
        self.claim: Child | None = None
        self.pods: dict[str, PodView] = {}
        self.followed: Progress | None = None
        self.refreshed_for = -1
        self.events: list[Event] = []
        self.statuses: list[ESFineTuneStatus] = []
        self.actions: list[Action] = []
        self._made = 0

    # the operator

    def settle(self) -> Plan:
        """Reconcile until nothing is left to do; the plan at rest."""
        for _ in range(MOST_ROUNDS):
            decided, changed = self._reconcile()
            if not changed:
                return decided
        raise AssertionError(f"the loop does not come to rest: {self.kinds()[-20:]} {self.statuses[-2:]}")

    def _reconcile(self) -> tuple[Plan, bool]:
        if self.body is None:
            return Plan(), False
        refresh = self.refreshed_for != self.body["metadata"]["generation"]
        now = self._situation(refresh=refresh)
        decided = plan(now)
        failure = self._carry_out(decided)
        if failure is None:
            self.refreshed_for = self.body["metadata"]["generation"] if self.body else -1
        else:
            decided = plan(replace(now, failure=failure))
        changed = self._tell(now.resource, decided)
        changed |= self._look()
        return decided, changed or (failure is None and not self._is_at_rest(decided))

    def _is_at_rest(self, decided: Plan) -> bool:
        """Nothing is left to do; a lost run is granted access each time, until a worker has used it."""
        is_lost = self.redis.state is None and self.status.progress is not None
        is_lost = is_lost and self.status.progress.generation > 0
        return decided.actions == (() if not is_lost else (GrantAccess(),)) or not decided.actions

    def _situation(self, *, refresh: bool) -> Situation:
        assert self.body is not None
        made = copy.deepcopy(self.body)
        resource = Resource.of(made)
        observed = Observed(self.job, self.config_map, self.claim, tuple(self.pods.values()))
        return situation(
            made, observed=observed, progress=self._progress(resource), now=self.now, refresh=refresh
        )

    def _progress(self, resource: Resource) -> Progress:
        start = Progress(ledger=Ledger.from_status(resource.status))
        if resource.status.end is not None or resource.deleted_at is not None:
            self.followed = None
            return start
        if self.followed is None:
            self.followed = start
        return self.followed

    def _look(self) -> bool:
        """What the follower does; whether it would tell."""
        before = self.followed
        if before is None:
            return False
        if self.redis.is_away:
            self.followed = replace(before, problem=("RedisUnavailable", "Redis is away"))
        elif self.redis.state is None:
            self.followed = replace(before, problem=None, asked=True, state=None)
        else:
            there, ledger = self.redis.state, before.ledger
            if there.opening.generation < ledger.generation:
                ledger = replace(ledger, generation=there.opening.generation)
            ledger = ledger.followed_by(self.redis.log[ledger.generation :])
            self.followed = Progress(asked=True, state=there, ledger=ledger)
        return self.followed != before

    def _carry_out(self, decided: Plan) -> tuple[str, str] | None:
        for action in decided.actions:
            self.actions.append(action)
            needs_redis = isinstance(
                action, GrantAccess | FinishRun | SetPolicy | ReopenRun | RemoveFromRedis
            )
            if needs_redis and self.redis.is_away:
                if isinstance(action, RemoveFromRedis) and action.otherwise is not None:
                    self.events.append(action.otherwise)
                    continue
                return "RedisUnavailable", "Redis is away"
            self._do(action)
        return None

    def _do(self, action: Action) -> None:  # noqa: C901 - one case an action
        assert self.body is not None
        run, _ = parsed(self.body)
        match action:
            case AddFinalizer():
                self.body["metadata"]["finalizers"] = [FINALIZER]
            case RemoveFinalizer():
                self.body["metadata"]["finalizers"] = []
                if "deletionTimestamp" in self.body["metadata"]:
                    self.body, self.job, self.pods = None, None, {}
            case GrantAccess():
                self.redis.has_user = True
            case Apply():
                self._apply(action)
            case DeleteJob():
                assert self.job is not None
                assert action.uid == self.job.child.uid
                self.job, self.pods = None, {}
            case FinishRun():
                assert self.redis.state is not None
                self.redis.state = replace(
                    self.redis.state, phase="Failed", reason=action.reason, message=action.message
                )
            case SetPolicy() if self.redis.state is not None:
                self.redis.state = replace(self.redis.state, policy=action.policy.to_json())
            case ReopenRun():
                self.followed = None
                self._reopen(run, action.opening.generation)
            case RemoveFromRedis():
                self.redis = SimulatedRedis()
            case DeleteResource():
                self.delete()

    def _reopen(self, run: Run | None, generation: int) -> None:
        before = self.redis.state
        if run is not None and before is not None and before.opening.generation == generation:
            self.redis.state = replace(state(run, generation), policy=before.policy)

    def _apply(self, action: Apply) -> None:
        manifest = action.manifest
        uid = action.owned_uid or f"{manifest['kind']}-{self._number()}"
        child = Child(uid, UID, terminating=False)
        match manifest["kind"]:
            case "Job":
                full = {**manifest, "metadata": {**manifest["metadata"], "uid": uid}}
                seen = JobView.of(full)
                if self.job is not None:
                    seen = replace(seen, finished_at=self.job.finished_at, failure=self.job.failure)
                self.job = seen
                self._control_pods()
            case "ConfigMap":
                self.config_map = ConfigMapView(child, manifest["data"])
            case "PersistentVolumeClaim":
                self.claim = child

    def _tell(self, resource: Resource, decided: Plan) -> bool:
        self.events += decided.events
        if decided.status is None or self.body is None:
            return False
        written = json.loads(decided.status.model_dump_json(by_alias=True, exclude_none=True))
        self.body["status"] = written
        if self.followed is not None and decided.status.workers is not None:
            ledger = self.followed.ledger.wanted(decided.status.workers.desired)
            self.followed = replace(self.followed, ledger=ledger)
        if decided.status == resource.status:
            assert decided.events == (), "an event without a transition"
            return False
        self.statuses.append(decided.status)
        return True

    # the Job controller and the kubelet

    def _control_pods(self) -> None:
        """As many pods as are wanted; those that have ended stay to be seen."""
        if self.job is None or self.job.finished_at is not None:
            return
        living = [name for name, each in self.pods.items() if not each.ended]
        for name in living[self.job.parallelism :]:
            del self.pods[name]
        for _ in range(self.job.parallelism - len(living)):
            name = f"pod-{self._number()}"
            self.pods[name] = pod(name, created_at=self.now)

    def change_pods(self, **fields: Any) -> None:
        """All living pods become so."""
        for name, each in self.pods.items():
            if not each.ended:
                self.pods[name] = replace(each, **fields)
        self._control_pods()

    def finish_job(self, failure: tuple[str, str] | None = None) -> None:
        """The Job completes, or fails."""
        if self.job is not None and self.job.finished_at is None:
            self.change_pods(ready=False, ended=True)
            self.job = replace(self.job, finished_at=self.now, failure=failure)
            self.pods = {name: each for name, each in self.pods.items() if each.ended}

    # users and time

    def change(self, **changes: Any) -> None:
        """Someone changes the specification."""
        assert self.body is not None
        before = copy.deepcopy(self.body["spec"])
        change(self.body["spec"], **changes)
        if self.body["spec"] != before:
            self.body["metadata"]["generation"] += 1

    def delete(self) -> None:
        """Someone deletes the resource."""
        if self.body is not None and "deletionTimestamp" not in self.body["metadata"]:
            self.body["metadata"]["deletionTimestamp"] = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            if not self.body["metadata"].get("finalizers"):
                self.body, self.job, self.pods = None, None, {}

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def restart(self) -> None:
        """The operator starts anew."""
        self.followed, self.refreshed_for = None, -1

    # workers

    def train(self, generations: int = 1, *, score: float | None = 0.5) -> None:
        """Workers close generations, and end the run after the last one."""
        if self.body is None or self.redis.is_away or not self.redis.has_user:
            return
        run, _ = parsed(self.body)
        assert run is not None
        if self.redis.state is None:  # whoever comes first fills it with what it remembers
            self.redis.log = list(self.redis.mine)
            self.redis.state = state(run, len(self.redis.log))
        for _ in range(generations):
            if self.redis.state.finished:
                return
            done, policy = self.redis.state.opening.generation, Policy.from_json(self.redis.state.policy)
            if done >= policy.generations:
                self.redis.state = finished(run, done)
                return
            checkpoint = Terms.of(run.spec, done, policy).checkpoint
            self.redis.log.append(entry(done, score=score, checkpoint=checkpoint))
            self.redis.mine = list(self.redis.log)
            self.redis.state = replace(state(run, done + 1), policy=policy.to_json())

    def lose_redis(self) -> None:
        """Redis comes back with nothing."""
        self.redis = SimulatedRedis(mine=self.redis.mine)

    # what is seen

    @property
    def status(self) -> ESFineTuneStatus:
        """The latest."""
        return self.statuses[-1] if self.statuses else ESFineTuneStatus()

    @property
    def reasons(self) -> list[str]:
        """Of the Events."""
        return [event.reason for event in self.events]

    def kinds(self, since: int = 0) -> list[str]:
        """Names of the actions that were carried out."""
        return kinds_of(self.actions[since:])

    def _number(self) -> int:
        self._made += 1
        return self._made


def kinds_of(actions: Sequence[Action]) -> list[str]:
    """Names of actions, with the kind of what is applied."""
    return [
        f"Apply {action.manifest['kind']}" if isinstance(action, Apply) else type(action).__name__
        for action in actions
    ]
