"""Gives a device the fastest kernels that work there. All give the same weights, bit for bit."""

import logging
import subprocess
from collections.abc import Callable

import torch

from esft_worker.noise.contract import Kernels
from esft_worker.noise.cpu import CpuKernels
from esft_worker.noise.torch_ops import TorchKernels

logger = logging.getLogger(__name__)


def kernels_for(device: torch.device, *, threads: int) -> Kernels:
    """The fastest kernels that work on a device.

    Args:
        device: where the weights are.
        threads: for the work on the CPU.
    """
    if device.type == "cpu":
        return CpuKernels(threads=threads)
    make = _triton_kernels() if device.type == "cuda" else None
    return (make or TorchKernels)(device)


def _triton_kernels() -> Callable[[torch.device], Kernels] | None:
    """None where Triton is not installed, as beside torch's builds for CPUs, or cannot launch kernels."""
    try:
        from esft_worker.noise import triton_ops  # noqa: PLC0415 - needs triton, which is not everywhere

        triton_ops.make_ready()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        logger.warning(
            "Triton does not work here: noise is made by plain torch operations, several times slower. "
            "Fix: install triton and a C compiler.",
            extra={"reason": str(error)},
        )
        return None
    return triton_ops.TritonKernels
