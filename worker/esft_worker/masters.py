"""Where the fp32 masters are kept: on the model's device, or partly or wholly in host memory.

Every kernel works on float32 masters on the device. What is not kept there like that is put together in a staging
buffer, block by block, worked on, and taken apart again; so each place gives the same weights, bit for bit.

Rejected for `split`: 4 bytes a weight in all, the high half being the model's own bfloat16 weight. While a member is
evaluated that weight is the perturbed one, and 16 further bits cannot bring the master back: where the noise is larger
than the weight, more than 2**16 float32 masters round to the same perturbed weight.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from esft.spec import MasterWeights
from esft_worker.noise import Slot, TensorKey
from esft_worker.noise.contract import SLOT_ALIGNMENT

_STAGED = 2**26  # elements in the staging buffer, 256 MiB
_BYTES = {"device": 4, "split": 2, "host": 0}  # a weight takes on the device, beside the model
_ROLLOUT_SHARE = 0.3  # of the device's memory is left to key-value caches and logits when `auto` chooses
assert _STAGED % SLOT_ALIGNMENT == 0  # noqa: S101 - blocks of a tensor are slots


class Masters(Protocol):
    """The fp32 masters of a model's trained parameters, in the order that they were given in."""

    def read(self) -> Iterator[Sequence[Slot]]:
        """All masters, in portions that are valid until the next one is asked for."""

    def write(self) -> Iterator[Sequence[Slot]]:
        """As `read`; what the caller changes in a portion is kept when the next one is asked for."""

    def tensors(self) -> list[torch.Tensor]:
        """Each parameter's masters: float32, flat; the masters themselves or a copy."""


def make_masters(
    place: MasterWeights, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, staged: int = _STAGED
) -> Masters:
    """Masters with the values that the working weights have.

    Args:
        place: where to keep them; `auto` looks at the device's free memory.
        keys: of the parameters.
        working: the parameters, flat, on one device.
        staged: elements in the staging buffer, a multiple of SLOT_ALIGNMENT.
    """
    if place == "auto":
        place = automatic_place(working)
    match place:
        case "device":
            return _DeviceMasters(keys, working)
        case "split":
            return _SplitMasters(keys, working, staged=staged)
        case _:
            return _HostMasters(keys, working, staged=staged)


def automatic_place(working: Sequence[torch.Tensor]) -> MasterWeights:
    """The place nearest to the model that its device has room for; on CPUs all memory is the device's."""
    device = working[0].device
    if device.type != "cuda":
        return "device"
    free, total = torch.cuda.mem_get_info(device)
    return place_within(sum(map(torch.Tensor.numel, working)), free_bytes=free, total_bytes=total)


def place_within(weights: int, *, free_bytes: int, total_bytes: int) -> MasterWeights:
    """What fits into the free memory of a device that holds the model already, with room for rollouts.

    Args:
        weights: number of trained weights.
        free_bytes: what is free on the device.
        total_bytes: all that it has.
    """
    room = free_bytes - _ROLLOUT_SHARE * total_bytes
    if _BYTES["device"] * weights <= room:
        return "device"
    return "split" if _BYTES["split"] * weights + 4 * _STAGED <= room else "host"


class _DeviceMasters:
    """float32 tensors beside the model: 4 bytes a weight on its device."""

    def __init__(self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor]) -> None:
        self._slots = [
            Slot(key, tensor.to(torch.float32, copy=True), tensor)
            for key, tensor in zip(keys, working, strict=True)
        ]

    def read(self) -> Iterator[Sequence[Slot]]:
        yield self._slots

    def write(self) -> Iterator[Sequence[Slot]]:
        yield self._slots

    def tensors(self) -> list[torch.Tensor]:
        return [slot.master for slot in self._slots]


class _StagedMasters(ABC):
    """Masters that are elsewhere, and come to the device in blocks."""

    def __init__(self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, staged: int) -> None:
        self._keys = keys
        self._working = working
        largest = max(map(torch.Tensor.numel, working))
        self._stage = torch.empty(min(staged, largest), dtype=torch.float32, device=working[0].device)
        for place, part, stage in self._blocks():
            self._store(place, part, stage.copy_(working[place][part]))

    def read(self) -> Iterator[Sequence[Slot]]:
        for _, _, slot in self._fetched():
            yield [slot]

    def write(self) -> Iterator[Sequence[Slot]]:
        for place, part, slot in self._fetched():
            yield [slot]
            self._store(place, part, slot.master)

    def tensors(self) -> list[torch.Tensor]:
        whole = [torch.empty(tensor.numel(), dtype=torch.float32) for tensor in self._working]
        for place, part, slot in self._fetched():
            whole[place][part] = slot.master.cpu()
        return whole

    def _fetched(self) -> Iterator[tuple[int, slice, Slot]]:
        """Number of the tensor, part of it, and that part with its masters in the staging buffer."""
        for place, part, stage in self._blocks():
            self._fetch(place, part, stage)
            yield place, part, Slot(self._keys[place], stage, self._working[place][part], start=part.start)

    def _blocks(self) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """Number of the tensor, part of it, and the piece of the staging buffer for that part."""
        for place, tensor in enumerate(self._working):
            for start in range(0, tensor.numel(), self._stage.numel() or 1):
                part = slice(start, min(start + self._stage.numel(), tensor.numel()))
                yield place, part, self._stage[: part.stop - part.start]

    @abstractmethod
    def _fetch(self, place: int, part: slice, stage: torch.Tensor) -> None:
        """Fill the staging buffer with masters."""

    @abstractmethod
    def _store(self, place: int, part: slice, stage: torch.Tensor) -> None:
        """Keep the masters that are in the staging buffer."""


class _HostMasters(_StagedMasters):
    """float32 in page-locked host memory: nothing on the device but the staging buffer."""

    def __init__(self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, staged: int) -> None:
        self._host = [_host_tensor(tensor, torch.float32) for tensor in working]
        super().__init__(keys, working, staged=staged)

    def _fetch(self, place: int, part: slice, stage: torch.Tensor) -> None:
        stage.copy_(self._host[place][part], non_blocking=True)

    def _store(self, place: int, part: slice, stage: torch.Tensor) -> None:
        self._host[place][part] = stage.cpu()


class _SplitMasters(_StagedMasters):
    """The low 16 bits on the device, 2 bytes a weight, the high 16 bits in page-locked host memory."""

    def __init__(self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, staged: int) -> None:
        self._low = [torch.empty_like(tensor, dtype=torch.int16) for tensor in working]
        self._high = [_host_tensor(tensor, torch.int16) for tensor in working]
        super().__init__(keys, working, staged=staged)

    def _fetch(self, place: int, part: slice, stage: torch.Tensor) -> None:
        halves = _halves(stage)
        halves[:, 0] = self._low[place][part]
        halves[:, 1].copy_(self._high[place][part], non_blocking=True)

    def _store(self, place: int, part: slice, stage: torch.Tensor) -> None:
        halves = _halves(stage)
        self._low[place][part] = halves[:, 0]
        self._high[place][part] = halves[:, 1].cpu()


def _halves(stage: torch.Tensor) -> torch.Tensor:
    """The bits of float32 `[n]` as int16 `[n, 2]`, low half first, not copied (all our machines are little-endian)."""
    return stage.view(torch.int16).view(-1, 2)


def _host_tensor(like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(like.numel(), dtype=dtype, pin_memory=like.device.type == "cuda")
