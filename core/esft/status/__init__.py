"""What a run has come to: one model, one fold of its log and one picture of it, on one machine and in a cluster.

ledger.py reads the queue's entries and so imports redis; it is not handed on from here, since the CRD is made from the
models alone.
"""

from esft.status.model import (
    CheckpointStatus,
    Condition,
    ConditionState,
    ESFineTuneStatus,
    EvaluationStatus,
    Fitness,
    Phase,
    Progress,
    WorkersStatus,
)

__all__ = [
    "CheckpointStatus",
    "Condition",
    "ConditionState",
    "ESFineTuneStatus",
    "EvaluationStatus",
    "Fitness",
    "Phase",
    "Progress",
    "WorkersStatus",
]
