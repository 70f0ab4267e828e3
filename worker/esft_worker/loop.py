"""The worker's loop: follow the log, take work, give results, and close a generation when its last result is in.

There is no leader. Every worker does all of this; the queue makes each step happen once, and every decision is a pure
function of what was reported, so a worker may be gone at any line of this file and the run ends the same.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from esft.errors import ReplicaDivergedError, RunNotFoundError
from esft.generation import Commit, Extend, Finish, Item, Kind, Terms, close, divergence_due, opening
from esft.policy import Policy
from esft.queue import Claim, ClaimStatus, GenerationResults, ItemResult, RunQueue
from esft.records import UpdateRecord
from esft.spec import ESFineTuneSpec, fingerprint
from esft_worker.engine import Drained
from esft_worker.metrics import Stage, WorkerMetrics
from esft_worker.replica import Replica
from esft_worker.rollouts import Rollouts, Scoring

logger = logging.getLogger(__name__)

WORKER_TTL_MILLISECONDS = 10_000
FINISHED_KEYS_SECONDS = 7 * 24 * 3600
_LONGEST_WAIT_MILLISECONDS = 1_000
_LONGEST_UNREPORTED_SECONDS = 1.0
_MOST_PENDING = 2
_LOG_PAGE = 256


@dataclass(frozen=True, slots=True)
class _Pending:
    """An item whose rollout is done and whose grades are on their way."""

    generation: int
    item: Item
    scoring: Scoring
    milliseconds: int


class Worker:
    """One worker of a run, from joining to the run's end."""

    def __init__(
        self,
        spec: ESFineTuneSpec,
        policy: Policy,
        *,
        name: str,
        queue: RunQueue,
        replica: Replica,
        rollouts: Rollouts,
        metrics: WorkerMetrics,
        should_stop: Callable[[], bool],
    ) -> None:
        """Put a worker together.

        Args:
            spec: the run's, of which only what is immutable counts.
            policy: what a run that Redis does not hold is opened with; else the run's own counts.
            name: unique among the living.
            queue: of the run.
            replica: the weights.
            rollouts: what turns items into results.
            metrics: of this worker.
            should_stop: asked between items and between tokens.
        """
        self._spec = spec
        self._policy = policy
        self._name = name
        self._queue = queue
        self._replica = replica
        self._rollouts = rollouts
        self._metrics = metrics
        self._should_stop = should_stop
        self._terms: dict[int, Terms] = {}  # of the generation that was open at the last claim
        self._pending: deque[_Pending] = deque()
        self._reported_at = time.monotonic()
        self._update_norm = 0.0

    def run(self) -> None:
        """Work until the run is over.

        Raises:
            Drained: the worker was asked to stop; its leases are given back.
            SpecError: the run cannot work as specified.
            ReplicaDivergedError: this worker's weights differ from the others'.
            QueueUnavailableError: Redis stayed away for longer than the client waits.
        """
        self._replica.restore_checkpoint()
        self._join()
        try:
            while self._step():
                self._drain_if_asked()
        except Drained:
            with suppress(RunNotFoundError):
                self._report_graded()
            raise
        finally:
            with suppress(RunNotFoundError):
                self._queue.leave(self._name)

    def _step(self) -> bool:
        """Do one claim's worth of work, or what the queue says instead; False when the run is over."""
        try:
            self._report_graded(most=_MOST_PENDING)
            claim = self._claim()
            match claim.status:
                case ClaimStatus.ITEMS:
                    self._perform(claim)
                case ClaimStatus.WAIT:
                    self._wait(claim.wait_milliseconds)
                case ClaimStatus.COMPLETE:
                    self._close()
                case ClaimStatus.BEHIND if claim.generation < self._replica.generation:
                    self._rewind()
                case ClaimStatus.BEHIND:
                    self._follow_log()
                case ClaimStatus.FINISHED:
                    return False
        except RunNotFoundError:
            logger.warning("Redis lost the run; creating it again from this worker's log")
            self._join()
        return True

    def _drain_if_asked(self) -> None:
        if self._should_stop():
            raise Drained

    def _join(self) -> None:
        """Enter the run; where Redis has none, create it from the log that this worker holds."""
        run = fingerprint(self._spec)
        join = partial(
            self._queue.join, self._name, fingerprint=run, ttl_milliseconds=WORKER_TTL_MILLISECONDS
        )
        try:
            state = join()
        except RunNotFoundError:
            self._create(run)
            state = join()
        self._policy = Policy.from_json(state.policy)

    def _create(self, run: str) -> None:
        """Open this worker's generation on the terms that it had before Redis lost it; else on the policy's."""
        generation = self._replica.generation
        terms = self._terms.get(generation) or Terms.of(self._spec, generation, self._policy)
        self._queue.create(
            fingerprint=run,
            policy=self._policy.to_json(),
            policy_version=self._policy.version,
            log=[record.to_json() for record in self._replica.log],
            opening=opening(self._spec, generation, terms),
        )

    def _claim(self) -> Claim:
        lease_seconds = self._policy.lease_seconds
        with self._metrics.time(Stage.QUEUE):
            claim = self._queue.claim(
                self._name,
                generation=self._replica.generation,
                count=self._policy.claim_size,
                token=uuid4().hex,
                lease_milliseconds=None if lease_seconds is None else lease_seconds * 1000,
            )
        self._policy = Policy.from_json(claim.policy)
        self._terms = {claim.generation: Terms.from_json(claim.parameters)}
        return claim

    def _perform(self, claim: Claim) -> None:
        """Do the claimed items one after the other; grading of one goes on while the next is generated."""
        generation, terms = claim.generation, self._terms[claim.generation]
        for text in claim.items:
            if self._replica.generation != generation:
                return  # closed meanwhile: others had copies of what was left, or it was left out
            item = Item.parse(text)
            start = time.perf_counter()
            match item.kind:
                case Kind.MEMBER | Kind.EVALUATION:
                    self._start_grading()
                    scoring = self._rollouts.perform(item, generation=generation, terms=terms)
                    self._pending.append(_Pending(generation, item, scoring, _milliseconds_since(start)))
                case Kind.CHECKPOINT:
                    result = self._save_checkpoint()
                    self._report([ItemResult(text, result, _milliseconds_since(start))])
                case Kind.DIVERGENCE:
                    result = self._rollouts.divergence(prompts=terms.kl_prompts)
                    self._report([ItemResult(text, result, _milliseconds_since(start))])
            if time.monotonic() - self._reported_at > _LONGEST_UNREPORTED_SECONDS:
                self._report_graded(most=_MOST_PENDING)
            self._drain_if_asked()

    def _save_checkpoint(self) -> str:
        with self._metrics.time(Stage.CHECKPOINT):
            path = self._replica.save_checkpoint(writer=self._name, keep=self._policy.checkpoints_kept)
        logger.info("checkpoint saved", extra={"path": str(path), "generation": self._replica.generation})
        return json.dumps({"path": path.name})

    def _start_grading(self) -> None:
        """Hand the last rollout to the grading process: the queue has been talked to, the model is up next."""
        if self._pending:
            self._pending[-1].scoring.start()

    def _report_graded(self, *, most: int | None = None) -> None:
        """Report what is graded; wait for grades where more than `most` rollouts lack them."""
        graded: list[ItemResult] = []
        while self._pending:
            first = self._pending[0]
            if not first.scoring.done() and (most is None or len(self._pending) <= most):
                break
            self._pending.popleft()
            with self._metrics.time(Stage.GRADE):
                result = first.scoring.result()
            self._metrics.tokens.inc(result.tokens)
            if first.item.kind is Kind.MEMBER:
                self._metrics.members.inc()
            if first.generation == self._replica.generation:  # else the generation was closed without it
                graded.append(ItemResult(str(first.item), result.to_json(), first.milliseconds))
        if graded:
            self._report(graded)

    def _report(self, results: Sequence[ItemResult]) -> None:
        self._reported_at = time.monotonic()
        with self._metrics.time(Stage.QUEUE):
            outcomes = self._queue.report(self._name, generation=self._replica.generation, results=results)
        if outcomes[-1].complete:
            self._close()

    def _close(self) -> None:
        """Turn a complete generation into an update, into more of itself, or into the end of the run."""
        with self._metrics.time(Stage.QUEUE):
            closing = self._queue.results(self._replica.generation)
        if closing is None:
            return  # another worker was first
        self._policy = Policy.from_json(closing.policy)
        match close(self._spec, self._policy, closing, self._replica.log):
            case Commit() as decision:
                self._commit(decision)
            case Extend() as decision:
                self._extend(decision, closing)
            case Finish() as decision:
                self._finish(decision)

    def _commit(self, decision: Commit) -> None:
        """Append the record to the log and apply it; where another worker was first, its record is the one."""
        record = decision.record
        with self._metrics.time(Stage.QUEUE):
            text = self._queue.commit(
                generation=record.generation, record=record.to_json(), opening=decision.opening
            )
        if text is not None:
            self._apply([UpdateRecord.from_json(text)])
            self._agree_on_digest()

    def _apply(self, records: Sequence[UpdateRecord]) -> None:
        with self._metrics.time(Stage.UPDATE):
            self._update_norm = self._replica.apply(records)
        generation = self._replica.generation
        self._metrics.generation.set(generation)
        logger.info("updated", extra={"generation": generation, "update_norm": self._update_norm})

    def _agree_on_digest(self) -> None:
        """Compare these weights with the others'; make them anew where they differ.

        Raises:
            ReplicaDivergedError: they still differ from those of another worker that has made them anew.
        """
        if self._digest_agrees(rebuilt=False):
            return
        logger.error("digest differs; rebuilding the weights", extra={"generation": self._replica.generation})
        self._metrics.rebuilds.inc()
        with self._metrics.time(Stage.UPDATE):
            self._replica.rebuild(self._committed_log())
        if not self._digest_agrees(rebuilt=True):
            raise ReplicaDivergedError(
                f"worker {self._name}: the weights of generation {self._replica.generation} differ from another "
                "worker's, though both rebuilt them. Fix: run all workers on like hardware with the same image; check "
                "this machine's memory."
            )

    def _digest_agrees(self, *, rebuilt: bool) -> bool:
        with self._metrics.time(Stage.UPDATE):
            digest = self._replica.weights.digest()
            measures = self._measures()
        with self._metrics.time(Stage.QUEUE):
            agreed = self._queue.digest(
                self._name,
                generation=self._replica.generation,
                digest=digest,
                rebuilt=rebuilt,
                measures=measures,
            )
        return agreed == digest

    def _measures(self) -> str:
        """What people watch of these weights; the drift takes a pass over them, so it comes with the divergence."""
        measures = {"update_norm": self._update_norm}
        if divergence_due(self._policy, self._replica.generation):
            measures["weight_drift"] = self._replica.weights.drift()
        return json.dumps(measures)

    def _extend(self, decision: Extend, closing: GenerationResults) -> None:
        """Open the last generation again, with members; where another worker was first, its opening is the one."""
        logger.info("more generations are wanted", extra={"generation": decision.opening.generation})
        with self._metrics.time(Stage.QUEUE):
            self._queue.reopen(decision.opening, instead_of=closing.parameters)

    def _finish(self, decision: Finish) -> None:
        """End the run; where another worker was first, its end is the one."""
        result = {
            "generation": self._replica.generation,
            "digest": self._replica.weights.digest(),
            "evaluation": None if decision.evaluation is None else decision.evaluation.to_dict(),
            "kl_divergence": decision.kl_divergence,
        }
        with self._metrics.time(Stage.QUEUE):
            self._queue.finish(
                phase=decision.phase,
                reason=decision.reason,
                message=decision.message,
                result=json.dumps(result),
                ttl_seconds=FINISHED_KEYS_SECONDS,
            )

    def _wait(self, milliseconds: int) -> None:
        """Nothing to claim: wait for grades that are due, else for the next update."""
        milliseconds = min(milliseconds, _LONGEST_WAIT_MILLISECONDS)
        if not self._pending:
            self._follow_log(block_milliseconds=milliseconds)
            return
        self._start_grading()
        with self._metrics.time(Stage.WAIT):
            self._pending[0].scoring.wait(seconds=milliseconds / 1000)

    def _follow_log(self, *, block_milliseconds: int = 0) -> None:
        """Apply every update that was committed since the last look, and compare the digest with the others'."""
        stage = Stage.WAIT if block_milliseconds else Stage.QUEUE
        with self._metrics.time(stage):
            entries = self._queue.updates(
                self._replica.generation, block_milliseconds=block_milliseconds, count=_LOG_PAGE
            )
        while entries:
            self._apply([UpdateRecord.from_json(entry.record) for entry in entries])
            if len(entries) < _LOG_PAGE:
                self._agree_on_digest()
                return
            with self._metrics.time(Stage.QUEUE):
                entries = self._queue.updates(self._replica.generation, count=_LOG_PAGE)

    def _rewind(self) -> None:
        """Redis came back with a shorter log than ours (it lost its last writes): go back to it and compute again."""
        logger.warning(
            "Redis lost updates; going back to its log", extra={"generation": self._replica.generation}
        )
        self._pending.clear()
        with self._metrics.time(Stage.UPDATE):
            self._replica.rebuild(self._committed_log())

    def _committed_log(self) -> list[UpdateRecord]:
        log: list[UpdateRecord] = []
        while entries := self._queue.updates(len(log)):
            log.extend(UpdateRecord.from_json(entry.record) for entry in entries)
        return log


def _milliseconds_since(start: float) -> int:
    return round(1000 * (time.perf_counter() - start))
