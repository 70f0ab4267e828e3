"""Makes the noise on devices without kernels of their own, in plain torch operations, and checks the others'.

It is written apart from the Numba and Triton kernels. Its price is some passes over memory per operation. Words
are held in int64, of which torch has every operation on every device; products wrap at 64 bits, which leaves
the words right.
"""

from collections.abc import Sequence

import torch

from esft_worker.noise import contract
from esft_worker.noise.contract import Slot, Step, chunks

_CHUNK = 2**22  # elements at a time: bounds the temporaries to some 300 MB
_LOW_WORD = 0xFFFFFFFF


class TorchKernels:
    """`Kernels` on one torch device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._table = torch.from_numpy(contract.quantile_table().astype("int64")).to(device)

    def noise(self, key: int, *, generation: int, pair: int, start: int, count: int) -> torch.Tensor:
        """Normal integers of elements [start, start + count), int32, in units of 2**-20."""
        contract.check_counter(generation=generation, pair=pair)
        first_block = start // contract.LANES
        blocks = (start + count - 1) // contract.LANES - first_block + 1
        words = _words(
            torch.arange(first_block, first_block + blocks, device=self._device),
            key=key,
            generation=generation,
            pair=pair,
        )
        offset = start - first_block * contract.LANES
        return self._normals(words[offset : offset + count])

    def perturb(self, slots: Sequence[Slot], *, generation: int, pair: int, scale: float) -> None:
        """See `Kernels.perturb`."""
        for _, chunk in chunks(slots, _CHUNK):
            normals = self._noise_of(chunk, generation=generation, pair=pair)
            chunk.working.copy_(normals.to(torch.float32).mul_(scale).add_(chunk.master))

    def update(self, slots: Sequence[Slot], steps: Sequence[Step]) -> list[float]:
        """See `Kernels.update`."""
        squares = torch.zeros(len(steps), dtype=torch.float64, device=self._device)
        for _, chunk in chunks(slots, _CHUNK):
            for row, step in enumerate(steps):
                old = chunk.master.to(torch.float64)
                change = self._sum(chunk, step).to(torch.float64).mul_(step.scale)
                chunk.master.copy_(change.add_(old).to(torch.float32))
                squares[row] += (chunk.master.to(torch.float64) - old).square_().sum()
        return [float(value) for value in squares]

    def digest(self, slots: Sequence[Slot]) -> list[int]:
        """See `Kernels.digest`."""
        return [sum(self._digest(chunk) for _, chunk in chunks([slot], _CHUNK)) % 2**64 for slot in slots]

    def _noise_of(self, slot: Slot, *, generation: int, pair: int) -> torch.Tensor:
        return self.noise(
            slot.key.noise, generation=generation, pair=pair, start=slot.start, count=slot.master.numel()
        )

    def _sum(self, slot: Slot, step: Step) -> torch.Tensor:
        """Sum of coefficient x noise over the step's members, int64."""
        total = torch.zeros_like(slot.master, dtype=torch.int64)
        for pair, coefficient in zip(step.pairs, step.coefficients, strict=True):
            total += coefficient * self._noise_of(slot, generation=step.generation, pair=pair).to(torch.int64)
        return total

    def _digest(self, slot: Slot) -> int:
        index = torch.arange(slot.start, slot.start + slot.master.numel(), device=self._device)
        bits = slot.master.view(torch.int32).to(torch.int64) & _LOW_WORD
        mixed = (index * _signed(contract.SPLITMIX_INCREMENT) + _signed(slot.key.digest)) ^ bits
        for shift, multiplier in zip(
            contract.SPLITMIX_SHIFTS[:2], contract.SPLITMIX_MULTIPLIERS, strict=True
        ):
            mixed = (mixed ^ _shifted(mixed, shift)) * _signed(multiplier)
        return int((mixed ^ _shifted(mixed, contract.SPLITMIX_SHIFTS[2])).sum())

    def _normals(self, words: torch.Tensor) -> torch.Tensor:
        """Normal integers (int32) of 32-bit words (int64)."""
        bits = ((words >> 1) | 1).to(torch.int32).to(torch.float32).view(torch.int32).to(torch.int64)
        entry = self._table[(bits >> contract.FRACTION_BITS) & (2**contract.INDEX_BITS - 1)]
        slope = entry & (2**contract.SLOPE_BITS - 1)
        fall = (slope * (bits & (2**contract.FRACTION_BITS - 1))) >> contract.FALL_SHIFT
        magnitude = (entry >> contract.SLOPE_BITS) - fall
        return torch.where((words & 1).bool(), -magnitude, magnitude).to(torch.int32)


def _words(blocks: torch.Tensor, *, key: int, generation: int, pair: int) -> torch.Tensor:
    """Philox-4x32-10 of 64-bit block numbers, int64 `[n]` -> `[4 n]`, each holding a 32-bit word."""
    c0, c1 = blocks & _LOW_WORD, _shifted(blocks, 32)
    c2, c3 = torch.full_like(blocks, generation), torch.full_like(blocks, pair)
    k0, k1 = key & _LOW_WORD, key >> 32
    for _ in range(contract.PHILOX_ROUNDS):
        p0, p1 = c0 * contract.PHILOX_MULTIPLIERS[0], c2 * contract.PHILOX_MULTIPLIERS[1]
        c0, c1 = _shifted(p1, 32) ^ c1 ^ k0, p1 & _LOW_WORD
        c2, c3 = _shifted(p0, 32) ^ c3 ^ k1, p0 & _LOW_WORD
        k0, k1 = (k0 + contract.PHILOX_WEYL[0]) & _LOW_WORD, (k1 + contract.PHILOX_WEYL[1]) & _LOW_WORD
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()


def _shifted(values: torch.Tensor, shift: int) -> torch.Tensor:
    """Logical shift to the right of 64-bit words held in int64."""
    return torch.bitwise_and(values >> shift, 2 ** (64 - shift) - 1)


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    return word - 2**64 if word >= 2**63 else word
