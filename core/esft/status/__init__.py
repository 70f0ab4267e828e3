"""What a run has come to: one model, one fold of its log and one picture of it, on one machine and in a cluster.

Only the models are handed on: ledger.py and report.py know the queue's entries and so import redis, which whoever makes
the CRD has no use for.
"""

from esft.status.model import Condition, ESFineTuneStatus, Phase, Progress, WorkersStatus

__all__ = ["Condition", "ESFineTuneStatus", "Phase", "Progress", "WorkersStatus"]
