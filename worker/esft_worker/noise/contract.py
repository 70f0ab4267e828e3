"""Fixes what every implementation of the noise must agree on; docs/numerics.md is the same in words.

A run is reproducible only if each worker makes the same noise, whatever its device, its library versions or
the order of its work. Hence integers throughout: Philox-4x32-10 (Salmon et al., "Parallel Random Numbers:
As Easy as 1, 2, 3", SC 2011) gives words, a table of quantiles turns a word into a normal integer in units
of 2**-20, and a float enters only where a single correctly rounded operation ends in the weights.

Rejected: `torch.randn` with a generator per tensor (differs between CPU and CUDA, changes between releases,
must be drawn in order); Box-Muller (log, sin and cos differ in the last digit between devices).

Changing anything here, the table included, changes the results of every run: raise NOISE_VERSION.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from esft.versions import NOISE_VERSION

# Philox-4x32: round multipliers and key increments.
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
LANES = 4  # words a Philox block has

# The quantile table: how float32(v) is taken apart, and an entry. See hack/make_quantiles.py.
FRACTION_BITS = 17
INDEX_BITS = 11
SLOPE_BITS = 9
FALL_SHIFT = 12  # FRACTION_BITS - log2(SLOPE_UNIT)
UNIT_EXPONENT = -20  # a normal integer counts units of 2**-20

# Finaliser of splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15
SPLITMIX_SHIFTS = (30, 27, 31)
SPLITMIX_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)

MAX_COEFFICIENT = 2**24
MAX_MEMBERS = 2**16  # with |normal| < 2**23 the sum of coefficient x normal stays below 2**63
MAX_COUNTER = 2**32
SLOT_ALIGNMENT = 1024  # elements; slots of a tensor begin at multiples, so never within a block

WORKING_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class TensorKey:
    """What tells a tensor's elements from all others: a 64-bit key for its noise, one for its digest."""

    noise: int
    digest: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor, or a slice of one, to work on, flat.

    Attributes:
        key: of the tensor.
        master: float32, 1-d, contiguous: the weights themselves.
        working: what the model computes with: float32, bfloat16 or float16, 1-d, contiguous, as long.
        start: which element of the tensor comes first here, a multiple of SLOT_ALIGNMENT.
    """

    key: TensorKey
    master: torch.Tensor
    working: torch.Tensor
    start: int = 0

    def __post_init__(self) -> None:
        if self.master.dtype != torch.float32 or self.working.dtype not in WORKING_DTYPES:
            raise TypeError(f"a slot of {self.master.dtype} masters and {self.working.dtype} working weights")
        if self.master.dim() != 1 or self.master.shape != self.working.shape:
            raise ValueError(
                f"a slot of shapes {self.master.shape} and {self.working.shape}: both must be flat"
            )
        if not (self.master.is_contiguous() and self.working.is_contiguous()):
            raise ValueError("a slot's tensors must be contiguous")
        if self.start < 0 or self.start % SLOT_ALIGNMENT:
            raise ValueError(
                f"a slot that starts at element {self.start}: not a multiple of {SLOT_ALIGNMENT}"
            )

    @property
    def elements(self) -> slice:
        """Which elements of the flat tensor these are."""
        return slice(self.start, self.start + self.master.numel())


@dataclass(frozen=True, slots=True)
class Step:
    """One update: add scale * sum_i coefficients[i] * noise(generation, pairs[i]) to the masters.

    Attributes:
        generation: the noise's.
        pairs: whose noise, each once.
        coefficients: integers up to 2**24 in size (2**25 for a pair of members), one a pair.
        scale: as of `update_scale`.
    """

    generation: int
    pairs: tuple[int, ...]
    coefficients: tuple[int, ...]
    scale: float

    def __post_init__(self) -> None:
        if len(self.pairs) != len(self.coefficients):
            raise ValueError(f"{len(self.pairs)} members with {len(self.coefficients)} coefficients")
        if sum(abs(value) for value in self.coefficients) > MAX_COEFFICIENT * MAX_MEMBERS or any(
            abs(value) > 2 * MAX_COEFFICIENT for value in self.coefficients
        ):
            raise ValueError("coefficients are larger than 2**24, or there are more than 65536 members")
        for pair in (min(self.pairs, default=0), max(self.pairs, default=0)):
            check_counter(generation=self.generation, pair=pair)


def chunks(slots: Sequence[Slot], size: int) -> Iterator[tuple[int, Slot]]:
    """The slots in chunks of `size` elements, a multiple of SLOT_ALIGNMENT, each with the index of its slot.

    A slot's last chunk may be shorter; a slot that is no larger is its only chunk, even if empty.
    """
    for index, slot in enumerate(slots):
        if slot.master.numel() <= size:  # slicing would take a third of a small tensor's time
            yield index, slot
            continue
        for first in range(0, slot.master.numel(), size):
            chunk = slice(first, first + size)
            yield index, Slot(slot.key, slot.master[chunk], slot.working[chunk], slot.start + first)


class StepArrays(NamedTuple):
    """Steps as the kernels take them: step s has the members [bounds[s], bounds[s + 1])."""

    generations: npt.NDArray[np.uint32]
    scales: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.uint32]
    coefficients: npt.NDArray[np.int32]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Self:
        """Put the steps one behind the other."""
        return cls(
            np.array([step.generation for step in steps], dtype=np.uint32),
            np.array([step.scale for step in steps], dtype=np.float64),
            np.cumsum([0, *(len(step.pairs) for step in steps)], dtype=np.int64),
            np.array([pair for step in steps for pair in step.pairs], dtype=np.uint32),
            np.array([value for step in steps for value in step.coefficients], dtype=np.int32),
        )


class Kernels(Protocol):
    """The operations on the weights of one device. All implementations agree bit for bit."""

    def perturb(self, slots: Sequence[Slot], *, generation: int, pair: int, scale: float) -> None:
        """Write working = round(master + float32(scale * noise)); `scale` as of `perturbation_scale`."""

    def update(self, slots: Sequence[Slot], steps: Sequence[Step]) -> list[float]:
        """Apply the steps in order to the masters, in one pass over them.

        In each step the sum is exact, the product and the sum with the master are float64, and the result is
        rounded to float32 once: several steps in one pass are the same as one after the other. The working
        weights are left alone.

        Returns:
            For each step the squared Euclidean norm of the change (float64; its last digits depend on the
            implementation).
        """

    def digest(self, slots: Sequence[Slot]) -> list[int]:
        """For each slot the sum, mod 2**64, of splitmix64(digest key, element, bits) over its master.

        The sums of a tensor's slots add up to the tensor's, mod 2**64.
        """


def tensor_key(*, seed: int, name: str) -> TensorKey:
    """Keys of the tensor with this canonical Hugging Face name: 64-bit BLAKE2b hashes."""
    text = name.encode()
    return TensorKey(
        noise=_blake2b(f"esft-noise-{NOISE_VERSION}".encode(), str(seed).encode() + b"\0" + text),
        digest=_blake2b(b"esft-digest-1", text),
    )


def combine_digests(digests: Iterable[tuple[str, int]]) -> str:
    """One checksum of (tensor name, 64-bit digest) pairs in any order, as 16 hexadecimal digits."""
    content = b"".join(name.encode() + b"\0" + value.to_bytes(8, "little") for name, value in sorted(digests))
    return f"{_blake2b(b'esft-model-1', content):016x}"


def perturbation_scale(*, sigma: float, sign: int) -> float:
    """`sign * float32(sigma) * 2**-20`, a float32 value: the power of two moves the exponent only."""
    return float(np.float32(math.ldexp(float(np.float32(sigma)), UNIT_EXPONENT)) * np.float32(sign))


def update_scale(*, step: float, exponent: int) -> float:
    """`step * 2**(exponent - 20)`, float64."""
    return math.ldexp(step, exponent + UNIT_EXPONENT)


def check_counter(*, generation: int, pair: int) -> None:
    """Refuse what does not fit the counter's 32-bit words.

    Raises:
        ValueError: generation or pair is out of range.
    """
    if not (0 <= generation < MAX_COUNTER and 0 <= pair < MAX_COUNTER):
        raise ValueError(f"generation {generation} and member {pair} must lie in [0, 2**32)")


def quantile_table() -> npt.NDArray[np.uint32]:
    """The shipped table: 2048 entries `base << 9 | slope`, as hack/make_quantiles.py describes them."""
    content = resources.files(__package__).joinpath("quantiles.bin").read_bytes()
    return np.frombuffer(content, dtype="<u4").astype(np.uint32)


def _blake2b(person: bytes, content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=person).digest(), "little")
