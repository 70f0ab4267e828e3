"""The words for programs in a status, each defined once: phases, types of conditions, and reasons that several use.

A reason that one function alone gives stands in that function.
"""

from typing import Final

PENDING: Final = "Pending"
RUNNING: Final = "Running"  # also a reason: of Progressing
SUSPENDED: Final = "Suspended"  # also a condition, and a reason: why there are no workers and no progress
SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"  # also a condition

WORKERS_READY: Final = "WorkersReady"
PROGRESSING: Final = "Progressing"
HEALTHY: Final = "Healthy"
COMPLETE: Final = "Complete"

GENERATIONS_DONE: Final = "GenerationsDone"
TARGET_SCORE_REACHED: Final = "TargetScoreReached"
PATIENCE_EXHAUSTED: Final = "PatienceExhausted"
INVALID_SPEC: Final = "InvalidSpec"
NO_FITNESS: Final = "NoFitness"
USELESS_TO_REPEAT: Final = frozenset({INVALID_SPEC, NO_FITNESS})  # only another specification helps

ALL_READY: Final = "AllReady"
STARTING: Final = "Starting"
REDIS_UNAVAILABLE: Final = "RedisUnavailable"
FINISHED: Final = "Finished"
WORKERS_FAILING: Final = "WorkersFailing"
WORKERS_FAILED: Final = "WorkersFailed"  # for good, so that the run has
