"""What all models of the spec share: strictness, names, bounded types, and the check of the rules.

Rejected: lax parsing ("0.1" as a number). The API server refuses it, so the same file would work on a laptop
only.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from esft.spec.rules import Rule

MAX_POPULATION = 65_536
MAX_SEED = 2**32 - 1
MAX_SECONDS = 2**31 - 1
MAX_GENERATIONS = 1_000_000
MAX_EXAMPLES = 10_000_000

Dtype = Literal["float32", "float16", "bfloat16"]
Sampling = Literal["gaussian", "antithetic"]
Shaping = Literal["zscore", "centeredRank", "raw"]
ScheduleKind = Literal["constant", "cosine", "linear"]
MasterWeights = Literal["auto", "device", "split", "host"]
AccessMode = Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise PydanticCustomError(
            "regex",
            "is not a regular expression: {reason}",
            {"reason": str(error), "fix": r"escape special characters, e.g. `layers\.0\..*`"},
        ) from error
    return pattern


Regex = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_compiles)]
Regexes = Annotated[tuple[Regex, ...], Field(strict=False, max_length=64)]
FreeObject = Annotated[dict[str, JsonValue], Field(max_length=64)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]


class StrictModel(BaseModel):
    """Base of all models of the spec: camelCase outside, frozen, nothing coerced, nothing unknown.

    Attributes:
        rules: what must be true of several fields together, checked once each of them is right.
    """

    rules: ClassVar[tuple[Rule[Any], ...]] = ()

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        """One error for all rules that are broken; its context carries them, for esft.problems to take apart."""
        violations = [rule.violation(self) for rule in self.rules if not rule.holds(self)]
        if violations:
            text = "; ".join(f"{broken.field} {broken.message}. Fix: {broken.fix}" for broken in violations)
            raise PydanticCustomError("rule", "{text}", {"text": text, "violations": violations})
        return self


class SecretRef(StrictModel):
    """A Secret in the run's namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.", examples=["hf-token"])


class SecretKeyRef(SecretRef):
    """One key of a Secret in the run's namespace."""

    key: str = Field(default="url", min_length=1, max_length=253, description="Key in the Secret's data.")
