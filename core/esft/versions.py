"""Which versions of what is written down this software reads: a run goes on with the software that understands it.

The format is that of the queue, of records and of checkpoints; the noise is the contract of esft_worker.noise. Raise a
number when what an older version wrote would be misread, or would lead to other weights. What carries no version was
written by release 0.1.0, before there were any.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import esft
from esft.errors import VersionError

FORMAT_VERSION = 2
NOISE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Versions:
    """What a run was begun with.

    Attributes:
        format: of the queue, the records and the checkpoints.
        noise: of the noise contract.
        release: of the software that wrote it, which is the tag of its images.
    """

    format: int = FORMAT_VERSION
    noise: int = NOISE_VERSION
    release: str = esft.__version__

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Those that stand in a record, a checkpoint's state or a run's folder."""
        return cls(**{name: data.get(name, before) for name, before in _BEFORE_VERSIONS.items()})

    @property
    def contract(self) -> str:
        """What must agree between all who work on a run."""
        return f"format {self.format}, noise {self.noise}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; the inverse of `of`."""
        return asdict(self)


_BEFORE_VERSIONS = {"format": 1, "noise": 1, "release": "0.1.0"}
CURRENT = Versions()


def require_current(found: Versions, what: str) -> None:
    """See that something was written with the versions that this software reads.

    Raises:
        VersionError: it was not; the message names the image that goes on with it.
    """
    if found.contract != CURRENT.contract:
        raise another_version(what, found.contract, found.release)


def another_version(what: str, contract: str, release: str) -> VersionError:
    """The sentence about something that was begun with another contract, or before there were any (empty)."""
    release = release or str(_BEFORE_VERSIONS["release"])
    return VersionError(
        f"{what} was begun by esfinetune {release} ({contract or 'no version'}), and this is {CURRENT.release} "
        f"({CURRENT.contract}). Fix: go on with the image esfinetune/worker:{release} (in spec.workers.template, or "
        "that release on one machine), or start a new run."
    )
