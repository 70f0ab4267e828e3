"""Compile the Triton kernels for an H100 that need not be there: `python compile_triton.py`.

Prints JSON: for each kernel that was compiled its name, its PTX and SASS, its registers and bytes of stack a thread.
A process of its own, as Triton's interpreter must not be switched on. The launches are TritonKernels' own, so what
is compiled is what would run, and how often.
"""

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from esft_worker.noise import Slot, Step, TensorKey, triton_ops

TARGET = GPUTarget("cuda", 90, 32)
SIZES = [1, 2, 1023, 1024, 4096, 100_000, 131_072]
COUNTERS = [0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1]
KEYS = [0, 1, 16, 2**31, 2**32 + 1, 2**63 - 1, 2**64 - 16]
STARTS = [0, 1024, 2**31, 2**40]


class Driver:
    """What Triton asks of a device before it launches a kernel."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGET


def launch_everything() -> None:
    kernels = triton_ops.TritonKernels(torch.device("cpu"))
    kernels._rows = triton_ops._ROWS
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for size in SIZES:
            tensors = torch.zeros(size), torch.zeros(size, dtype=dtype)
            slots = [
                Slot(TensorKey(key, key), *tensors, start)
                for key, start in zip(KEYS, [*STARTS, *STARTS], strict=False)
            ]
            for counter in COUNTERS:
                scale = 1.0 if counter == 0 else 1e-9
                kernels.perturb(slots, generation=counter, pair=counter, scale=scale)
                step = Step(counter, (counter,), (1,), scale)
                kernels.update(slots, [step] * (1 + counter % 17))
            kernels.digest(slots)


def tool(path: str, *arguments: str) -> str:
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def described(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        sass = tool(triton.knobs.nvidia.nvdisasm.path, "-c", file.name)
        usage = tool(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
    (registers,), (stack,) = re.findall(r"REG:(\d+)", usage), re.findall(r"STACK:(\d+)", usage)
    return {
        "name": kernel.metadata.name,
        "ptx": kernel.asm["ptx"],
        "sass": sass,
        "registers": int(registers),
        "stack": int(stack),
    }


def main() -> None:
    compiled: dict[int, Any] = {}
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        compiled[id(kernel)] = kernel

    triton.runtime.driver.set_active(Driver())
    JITFunction.run = compile_only
    launch_everything()
    json.dump([described(kernel) for kernel in compiled.values()], sys.stdout)


if __name__ == "__main__":
    main()
