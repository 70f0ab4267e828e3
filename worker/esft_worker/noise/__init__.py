"""Makes the same noise on every device, from counters: the contract, and kernels in Numba, Triton and torch."""

from esft_worker.noise.choose import kernels_for
from esft_worker.noise.contract import Kernels, Slot, Step, TensorKey, combine_digests, tensor_key

__all__ = ["Kernels", "Slot", "Step", "TensorKey", "combine_digests", "kernels_for", "tensor_key"]
