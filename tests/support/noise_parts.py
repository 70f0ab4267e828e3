"""What the tests of the noise share."""

import torch

from esft_worker.noise import Kernels, Slot, TensorKey
from esft_worker.noise.contract import SLOT_ALIGNMENT


def normal_integers(
    kernels: Kernels,
    key: int,
    *,
    generation: int,
    pair: int,
    count: int,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Those that kernels perturb with, int32 `[count]`: weights of zero become them, and float32 holds each exactly."""
    first = start // SLOT_ALIGNMENT * SLOT_ALIGNMENT
    master = torch.zeros(start - first + count, device=device)
    slot = Slot(TensorKey(noise=key, digest=0), master, torch.empty_like(master), first)
    kernels.perturb([slot], generation=generation, pair=pair, scale=1.0)
    return slot.working[start - first :].to(torch.int32)
