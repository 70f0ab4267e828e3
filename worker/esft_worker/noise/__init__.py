"""Counter-based noise, the same on every device: the contract, Numba kernels for CPUs, plain torch."""

from esft_worker.noise.contract import (
    NOISE_VERSION,
    Kernels,
    Slot,
    TensorKey,
    combine_digests,
    tensor_key,
)
from esft_worker.noise.cpu import CpuKernels
from esft_worker.noise.torch_ops import TorchKernels

__all__ = [
    "NOISE_VERSION",
    "CpuKernels",
    "Kernels",
    "Slot",
    "TensorKey",
    "TorchKernels",
    "combine_digests",
    "tensor_key",
]
