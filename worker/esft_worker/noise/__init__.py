"""Counter-based noise, the same on every device: the contract, Numba kernels for CPUs, Triton's, plain torch."""

from esft_worker.noise.choose import kernels_for
from esft_worker.noise.contract import (
    Kernels,
    Slot,
    Step,
    TensorKey,
    combine_digests,
    tensor_key,
)
from esft_worker.noise.cpu import CpuKernels
from esft_worker.noise.torch_ops import TorchKernels

__all__ = [
    "CpuKernels",
    "Kernels",
    "Slot",
    "Step",
    "TensorKey",
    "TorchKernels",
    "combine_digests",
    "kernels_for",
    "tensor_key",
]
