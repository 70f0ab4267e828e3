"""What may change while a run goes on, as the run carries it: one small record in Redis, the same for all workers.

Whoever owns the specification (the operator, or `esft run`) writes it; closing a generation and opening the next take
it from there. So a change is in force from the next generation, whatever copy of the specification a worker was
started with, and no worker has to be started again.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from esft.spec import ESFineTuneSpec


@dataclass(frozen=True, slots=True)
class Policy:
    """The changeable part of a specification; what each field means is told in docs/spec.md.

    Attributes:
        version: of the specification (metadata.generation): an older one never replaces a newer one.
        kl_every: generations between measurements of the KL divergence; 0: it is not measured.
    """

    version: int
    generations: int
    evaluate_every: int
    kl_every: int
    kl_prompts: int
    checkpoint_every: int
    checkpoints_kept: int
    target_score: float | None
    patience: int | None
    quorum: float
    claim_size: int
    lease_seconds: int | None

    @classmethod
    def of(cls, spec: ESFineTuneSpec, *, version: int = 1) -> Self:
        """What a specification says."""
        kl = spec.monitoring.kl
        return cls(
            version=version,
            generations=spec.evolution.generations,
            evaluate_every=spec.evaluation.every_generations,
            kl_every=0 if kl is None else kl.every_generations,
            kl_prompts=0 if kl is None else kl.prompts,
            checkpoint_every=spec.checkpoint.every_generations,
            checkpoints_kept=spec.checkpoint.keep,
            target_score=spec.stop.target_score,
            patience=spec.stop.patience,
            quorum=spec.workers.quorum,
            claim_size=spec.workers.claim_size,
            lease_seconds=spec.workers.lease_seconds,
        )

    def to_json(self) -> str:
        """Serialise to one line; equal policies give equal text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote; a field that a later release added is left out.

        Raises:
            ValueError, KeyError, TypeError: the text is not a policy.
        """
        data: dict[str, Any] = json.loads(text)
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    def says_as(self, other: "Policy") -> bool:
        """Whether both say the same, whatever their versions."""
        return replace(self, version=other.version) == other
