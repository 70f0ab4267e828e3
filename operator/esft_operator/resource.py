"""An ESFineTune as the operator works with it: the resource of the API server, parsed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from esft.errors import SpecError
from esft.policy import Policy
from esft.problems import problems_of
from esft.spec import ESFineTuneSpec

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """Identity, metadata and specification of one resource.

    Attributes:
        labels: of the resource; those of Kueue are handed on to the Job.
        annotations: likewise.
        generation: of the specification.
        spec: checked, with all defaults.
    """

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    generation: int
    spec: ESFineTuneSpec

    @property
    def policy(self) -> Policy:
        """What may change while the run goes on, as the specification says it now."""
        return Policy.of(self.spec, version=self.generation)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Parse a resource.

        Raises:
            SpecError: the API server let through what cannot work; the message has every problem, with field and fix.
        """
        metadata = body["metadata"]
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            labels=metadata.get("labels") or {},
            annotations=metadata.get("annotations") or {},
            generation=metadata.get("generation", 1),
            spec=_parse(body.get("spec") or {}),
        )


def without_nulls(value: Any) -> Any:
    """A value as the API server would show it: null in an object is the same as absent."""
    if isinstance(value, Mapping):
        return {name: without_nulls(field) for name, field in value.items() if field is not None}
    if isinstance(value, list):
        return [without_nulls(entry) for entry in value]
    return value


def _parse(spec: Mapping[str, Any]) -> ESFineTuneSpec:
    try:
        return ESFineTuneSpec.model_validate(spec, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = problems_of(error, ESFineTuneSpec, prefix=("spec",))
        raise SpecError("; ".join(problem.sentence for problem in problems)) from error
