"""Trains models whose fp32 masters do not fit beside them on the device: host memory takes half of them or all.

Every kernel works on float32 masters on the device. What is not kept there like that is put together in a buffer,
block by block, worked on, and taken apart again; so each way to store them gives the same weights, bit for bit.

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

_BUFFER_SIZE = 2**26  # elements that pass through the buffer at once, 256 MiB
_BYTES = {"device": 4, "split": 2, "host": 0}  # a weight takes on the device, beside the model
_ROLLOUT_SHARE = 0.3  # of the device's memory is left to key-value caches and logits when `auto` chooses
assert _BUFFER_SIZE % SLOT_ALIGNMENT == 0  # noqa: S101 - blocks of a tensor are slots


class Masters(Protocol):
    """The fp32 masters of a model's trained parameters, in the order that they were given in."""

    def read(self) -> Iterator[Sequence[Slot]]:
        """All masters, in portions that are valid until the next one is asked for."""

    def write(self) -> Iterator[Sequence[Slot]]:
        """As `read`; what the caller changes in a portion is kept when the next one is asked for."""

    def tensors(self) -> list[torch.Tensor]:
        """Each parameter's masters: float32, flat; the masters themselves or a copy."""


def make_masters(
    storage: MasterWeights,
    keys: Sequence[TensorKey],
    working: Sequence[torch.Tensor],
    *,
    buffer_size: int = _BUFFER_SIZE,
) -> Masters:
    """Masters with the values that the working weights have.

    Args:
        storage: where to keep them; `auto` looks at the device's free memory.
        keys: of the parameters.
        working: the parameters, flat, on one device.
        buffer_size: elements that pass through the buffer at once, a multiple of SLOT_ALIGNMENT.
    """
    if storage == "auto":
        storage = automatic_storage(working)
    match storage:
        case "device":
            return _DeviceMasters(keys, working)
        case "split":
            return _SplitMasters(keys, working, buffer_size=buffer_size)
        case _:
            return _HostMasters(keys, working, buffer_size=buffer_size)


def automatic_storage(working: Sequence[torch.Tensor]) -> MasterWeights:
    """The storage nearest to the model that there is room for; on CPUs all memory is the device's."""
    device = working[0].device
    if device.type != "cuda":
        return "device"
    free, total = torch.cuda.mem_get_info(device)
    return storage_within(sum(map(torch.Tensor.numel, working)), free_bytes=free, total_bytes=total)


def storage_within(weights: int, *, free_bytes: int, total_bytes: int) -> MasterWeights:
    """What fits into the free memory of a device that holds the model already, with room for rollouts.

    Args:
        weights: number of trained weights.
        free_bytes: what is free on the device.
        total_bytes: all that it has.
    """
    room = free_bytes - _ROLLOUT_SHARE * total_bytes
    if _BYTES["device"] * weights <= room:
        return "device"
    return "split" if _BYTES["split"] * weights + 4 * _BUFFER_SIZE <= room else "host"


class _DeviceMasters:
    """float32 tensors beside the model: 4 bytes a weight on its device."""

    def __init__(self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor]) -> None:
        self._slots = [
            Slot(key, tensor.to(torch.float32, copy=True), tensor)
            for key, tensor in zip(keys, working, strict=True)
        ]

    def read(self) -> Iterator[Sequence[Slot]]:
        yield self._slots

    write = read

    def tensors(self) -> list[torch.Tensor]:
        return [slot.master for slot in self._slots]


class _BufferedMasters(ABC):
    """Masters that are elsewhere, and come to the device in blocks."""

    def __init__(
        self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, buffer_size: int
    ) -> None:
        self._keys = keys
        self._working = working
        largest = max(map(torch.Tensor.numel, working))
        self._buffer = torch.empty(min(buffer_size, largest), dtype=torch.float32, device=working[0].device)
        for index, block, slot in self._blocks():
            self._store(index, block, slot.master.copy_(slot.working))

    def read(self) -> Iterator[Sequence[Slot]]:
        for _, _, slot in self._fetched():
            yield [slot]

    def write(self) -> Iterator[Sequence[Slot]]:
        for index, block, slot in self._fetched():
            yield [slot]
            self._store(index, block, slot.master)

    def tensors(self) -> list[torch.Tensor]:
        whole = [torch.empty(tensor.numel(), dtype=torch.float32) for tensor in self._working]
        for index, block, slot in self._fetched():
            whole[index][block] = slot.master.cpu()
        return whole

    def _fetched(self) -> Iterator[tuple[int, slice, Slot]]:
        """As `_blocks`, with the masters in the buffer."""
        for index, block, slot in self._blocks():
            self._fetch(index, block, slot.master)
            yield index, block, slot

    def _blocks(self) -> Iterator[tuple[int, slice, Slot]]:
        """Index of the tensor, block of its elements, and a slot for them whose masters are to be in the buffer."""
        for index, tensor in enumerate(self._working):
            for start in range(0, tensor.numel(), self._buffer.numel() or 1):
                block = slice(start, min(start + self._buffer.numel(), tensor.numel()))
                buffer = self._buffer[: block.stop - start]
                yield index, block, Slot(self._keys[index], buffer, tensor[block], start)

    @abstractmethod
    def _fetch(self, index: int, block: slice, buffer: torch.Tensor) -> None:
        """Fill the buffer with masters."""

    @abstractmethod
    def _store(self, index: int, block: slice, buffer: torch.Tensor) -> None:
        """Keep the masters that are in the buffer."""


class _HostMasters(_BufferedMasters):
    """float32 in page-locked host memory: nothing on the device but the buffer."""

    def __init__(
        self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, buffer_size: int
    ) -> None:
        self._host = [_host_tensor(tensor, torch.float32) for tensor in working]
        super().__init__(keys, working, buffer_size=buffer_size)

    def _fetch(self, index: int, block: slice, buffer: torch.Tensor) -> None:
        buffer.copy_(self._host[index][block], non_blocking=True)

    def _store(self, index: int, block: slice, buffer: torch.Tensor) -> None:
        self._host[index][block] = buffer.cpu()


class _SplitMasters(_BufferedMasters):
    """The low 16 bits on the device, 2 bytes a weight, the high 16 bits in page-locked host memory."""

    def __init__(
        self, keys: Sequence[TensorKey], working: Sequence[torch.Tensor], *, buffer_size: int
    ) -> None:
        self._low = [torch.empty_like(tensor, dtype=torch.int16) for tensor in working]
        self._high = [_host_tensor(tensor, torch.int16) for tensor in working]
        super().__init__(keys, working, buffer_size=buffer_size)

    def _fetch(self, index: int, block: slice, buffer: torch.Tensor) -> None:
        halves = _halves(buffer)
        halves[:, 0] = self._low[index][block]
        halves[:, 1].copy_(self._high[index][block], non_blocking=True)

    def _store(self, index: int, block: slice, buffer: torch.Tensor) -> None:
        halves = _halves(buffer)
        self._low[index][block] = halves[:, 0]
        self._high[index][block] = halves[:, 1].cpu()


def _halves(buffer: torch.Tensor) -> torch.Tensor:
    """The bits of float32 `[n]` as int16 `[n, 2]`, low half first, not copied (all our machines are little-endian)."""
    return buffer.view(torch.int16).view(-1, 2)


def _host_tensor(like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(like.numel(), dtype=dtype, pin_memory=like.device.type == "cuda")
