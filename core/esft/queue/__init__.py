"""The queue of a run: its open generation, its log and its state, held in Redis. See docs/protocol.md."""

from esft.queue.access import define_user, remove_user
from esft.queue.client import RunQueue
from esft.queue.connection import connect, redact
from esft.queue.observer import observe
from esft.queue.types import (
    Claim,
    ClaimStatus,
    Entry,
    GenerationResults,
    ItemResult,
    Observation,
    Opening,
    ReopenStatus,
    RunState,
)

__all__ = [
    "Claim",
    "ClaimStatus",
    "Entry",
    "GenerationResults",
    "ItemResult",
    "Observation",
    "Opening",
    "ReopenStatus",
    "RunQueue",
    "RunState",
    "connect",
    "define_user",
    "observe",
    "redact",
    "remove_user",
]
