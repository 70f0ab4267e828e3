"""What travels between workers: update records and the results they are made from.

A record holds what is needed to make the next weights and to say how they came about, about 12 bytes a member.
Statistics are derived from it, never stored, so two records of a generation are equal exactly when their effect is.
Numbers that end in the weights are integers or float64 in full precision: JSON keeps both exactly.
"""

import base64
import json
import math
import statistics
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from esft.versions import CURRENT, Versions, require_current


@dataclass(frozen=True, slots=True)
class MemberResult:
    """What evaluating one member, or one evaluation shard, gave.

    Attributes:
        reward: mean reward over the examples; NaN when the model gave no usable output (non-finite logits).
        score: mean score over the examples, the task's measure for people (accuracy, say); NaN likewise.
        examples: number of prompts answered.
        tokens: number of tokens generated.
    """

    reward: float
    score: float
    examples: int
    tokens: int

    def to_json(self) -> str:
        """Serialise; a NaN becomes null."""
        return json.dumps({name: finite_or_none(value) for name, value in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse what `to_json` wrote."""
        data = json.loads(text)
        return cls(
            reward=nan_if_none(data["reward"]),
            score=nan_if_none(data["score"]),
            examples=data["examples"],
            tokens=data["tokens"],
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out evaluation of the weights of one generation, over `examples` prompts."""

    score: float
    reward: float
    examples: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a NaN becomes None."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(
            score=nan_if_none(data["score"]),
            reward=nan_if_none(data["reward"]),
            examples=data["examples"],
        )


@dataclass(frozen=True, slots=True)
class FitnessStatistics:
    """Of the members that have a fitness; all NaN when there is none. `std` is the population's."""

    mean: float
    best: float
    worst: float
    std: float
    valid: int


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """One ES update: weights(g + 1) = weights(g) + step * sum_i coefficients[i] * 2**exponent * noise_i.

    Attributes:
        generation: g, the generation whose members were scored.
        sigma: scale of the noise those members were perturbed with.
        step: learning rate divided by the number of members with a fitness (float64).
        exponent: power of two that turns the integer coefficients into shaped fitness.
        coefficients: one integer a member, at most 2**24 in size; 0 for a member without fitness.
        fitness: mean reward a member; NaN for a member that is missing (quorum) or gave no usable output.
        evaluation: held-out evaluation of weights(g), where one was due.
        kl_divergence: mean KL divergence a token of weights(g) from the base model, in nats, where one was due.
        checkpoint: whether weights(g) were saved before the generation closed.
    """

    generation: int
    sigma: float
    step: float
    exponent: int
    coefficients: tuple[int, ...]
    fitness: tuple[float, ...]
    evaluation: Evaluation | None = None
    kl_divergence: float | None = None
    checkpoint: bool = False

    @property
    def statistics(self) -> FitnessStatistics:
        """Mean, best, worst and standard deviation of the fitness."""
        return fitness_statistics(self.fitness)

    def to_json(self) -> str:
        """Serialise to one line; equal records give equal text."""
        return json.dumps(
            {
                **CURRENT.as_dict(),
                "generation": self.generation,
                "sigma": self.sigma,
                "step": self.step,
                "exponent": self.exponent,
                "coefficients": _pack("i", self.coefficients),
                "fitness": _pack("d", self.fitness),
                "evaluation": None if self.evaluation is None else self.evaluation.to_dict(),
                "kl_divergence": self.kl_divergence,
                "checkpoint": self.checkpoint,
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            ValueError, KeyError: the text is not an update record.
            VersionError: it is one of another version.
        """
        data: dict[str, Any] = json.loads(text)
        require_current(Versions.of(data), f"the run of update record {data['generation']}")
        evaluation = data["evaluation"]
        return cls(
            generation=data["generation"],
            sigma=data["sigma"],
            step=data["step"],
            exponent=data["exponent"],
            coefficients=_unpack("i", data["coefficients"]),
            fitness=_unpack("d", data["fitness"]),
            evaluation=None if evaluation is None else Evaluation.from_dict(evaluation),
            kl_divergence=data["kl_divergence"],
            checkpoint=data["checkpoint"],
        )


def fitness_statistics(fitness: Sequence[float]) -> FitnessStatistics:
    """Statistics over the members whose fitness is not NaN."""
    valid = [value for value in fitness if not math.isnan(value)]
    if not valid:
        return FitnessStatistics(mean=math.nan, best=math.nan, worst=math.nan, std=math.nan, valid=0)
    return FitnessStatistics(
        mean=statistics.fmean(valid),
        best=max(valid),
        worst=min(valid),
        std=statistics.pstdev(valid),
        valid=len(valid),
    )


def _pack(code: str, values: Sequence[float]) -> str:
    """Little-endian numbers as base64: `i` for int32, `d` for float64."""
    return base64.b64encode(struct.pack(f"<{len(values)}{code}", *values)).decode("ascii")


def _unpack(code: str, text: str) -> tuple[Any, ...]:
    raw = base64.b64decode(text, validate=True)
    return struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw)


def finite_or_none(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return value if math.isfinite(value) else None


def nan_if_none(value: float | None) -> float:
    """Inverse of `finite_or_none` for NaN."""
    return math.nan if value is None else value
