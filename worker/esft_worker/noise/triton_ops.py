"""Makes the noise fast on CUDA: Triton kernels, each one pass over the weights.

A program handles rows of 4 elements, a Philox block a row: so the words stand where they are used, in
registers, and nothing is exchanged between threads. All numbers that change during a run are arguments, and
kernels are compiled for none of them in particular. Multiplication and addition round separately, as fused
ones are switched off in each launch. Philox's two halves of a product come from one wide multiplication,
which Hopper has as a single instruction; with `tl.umulhi` beside a product there are a tenth more instructions.

With TRITON_INTERPRET=1 in the environment before triton is imported, Triton's interpreter runs the same
kernels on the CPU. Tests do; it is far too slow for anything else.

Rejected: CUDA C++ (a compiler on the machine, or a wheel for every CUDA), `torch.compile` (what it fuses, and
with which roundings, changes between releases), a cast to bfloat16 (the interpreter's truncates).

Limits: Triton builds a helper when it launches its first kernel, for which it needs a C compiler on the machine.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from esft_worker.noise import contract
from esft_worker.noise.contract import Slot, Step, StepArrays, chunks

_CHUNK = 2**26  # elements a launch handles: bounds the sums that programs leave, 8 bytes each and step
_ROWS = 256  # a program handles in 4 warps, 8 elements a thread
_INTERPRETED_ROWS = 2**14  # the interpreter takes milliseconds a program, however few elements it handles
_LAUNCH = {"num_warps": 4, "enable_fp_fusion": False, "sanitize_overflow": False}

_LANES = tl.constexpr(contract.LANES)
_M0, _M1 = map(tl.constexpr, contract.PHILOX_MULTIPLIERS)
_W0, _W1 = map(tl.constexpr, contract.PHILOX_WEYL)
_ROUNDS = tl.constexpr(contract.PHILOX_ROUNDS)
_FRACTION_BITS = tl.constexpr(contract.FRACTION_BITS)
_FRACTION_MASK = tl.constexpr(2**contract.FRACTION_BITS - 1)
_INDEX_MASK = tl.constexpr(2**contract.INDEX_BITS - 1)
_SLOPE_BITS = tl.constexpr(contract.SLOPE_BITS)
_SLOPE_MASK = tl.constexpr(2**contract.SLOPE_BITS - 1)
_FALL_SHIFT = tl.constexpr(contract.FALL_SHIFT)
_INCREMENT = tl.constexpr(contract.SPLITMIX_INCREMENT)
_S0, _S1, _S2 = map(tl.constexpr, contract.SPLITMIX_SHIFTS)
_MIX0, _MIX1 = map(tl.constexpr, contract.SPLITMIX_MULTIPLIERS)


def _inlined(function: Callable[..., Any]) -> Any:
    """Compile a part of a kernel; it becomes code of the kernels that call it."""
    return triton.jit(function)


def _kernel(function: Callable[..., None]) -> Any:
    """Compile on the first call, and for each kind of tensors and of `size`, which tells how wide loads can be."""
    changing = ["key", "block", "start", "generation", "pair", "scale", "steps"]
    return triton.jit(do_not_specialize=changing)(function)


@_inlined
def _elements(rows: tl.constexpr) -> tl.tensor:
    """Indices of the program's elements in the tensor that it works on, int64 `[rows, 4]`."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    return row[:, None] * _LANES + tl.arange(0, _LANES)[None, :]


@_inlined
def _words(
    key: tl.tensor, block: tl.tensor, generation: tl.tensor, pair: tl.tensor, rows: tl.constexpr
) -> tl.tensor:
    """Philox-4x32-10 of the program's blocks, uint32 `[rows, 4]`."""
    blocks = block + tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    c0, c1 = blocks.to(tl.uint32), (blocks >> 32).to(tl.uint32)
    c2, c3 = tl.full([rows], generation, tl.uint32), tl.full([rows], pair, tl.uint32)
    k0, k1 = key.to(tl.uint32), (key.to(tl.uint64) >> 32).to(tl.uint32)
    for _ in tl.static_range(_ROUNDS):
        p0, p1 = c0.to(tl.uint64) * _M0, c2.to(tl.uint64) * _M1
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + _W0, k1 + _W1
    return tl.join(tl.join(c0, c2), tl.join(c1, c3)).reshape(rows, _LANES)


@_inlined
def _normals(
    table: tl.tensor,
    key: tl.tensor,
    block: tl.tensor,
    generation: tl.tensor,
    pair: tl.tensor,
    rows: tl.constexpr,
) -> tl.tensor:
    """Normal integers of the program's elements, int32 `[rows, 4]`; the first program's begin at `block`."""
    word = _words(key, block, generation, pair, rows)
    bits = ((word >> 1) | 1).to(tl.float32).to(tl.uint32, bitcast=True)
    entry = tl.load(table + ((bits >> _FRACTION_BITS) & _INDEX_MASK))
    fall = ((entry & _SLOPE_MASK) * (bits & _FRACTION_MASK)) >> _FALL_SHIFT
    magnitude = (entry >> _SLOPE_BITS).to(tl.int32) - fall.to(tl.int32)
    return tl.where((word & 1) == 0, magnitude, -magnitude)


@_inlined
def _bfloat16(value: tl.tensor) -> tl.tensor:
    """Round to nearest, ties to even; a NaN stays one."""
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = tl.where(value == value, rounded, 0x7FC0)  # noqa: PLR0124
    return rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@_kernel
def _perturb(
    master: tl.tensor,
    working: tl.tensor,
    size: tl.int64,
    table: tl.tensor,
    key: tl.uint64,
    block: tl.int64,
    generation: tl.uint32,
    pair: tl.uint32,
    scale: tl.float32,
    rows: tl.constexpr,
) -> None:
    elements = _elements(rows)
    inside = elements < size
    change = _normals(table, key, block, generation, pair, rows).to(tl.float32) * scale
    value = tl.load(master + elements, mask=inside) + change
    dtype = working.dtype.element_ty
    rounded = _bfloat16(value) if dtype == tl.bfloat16 else value.to(dtype)
    tl.store(working + elements, rounded, mask=inside)


@_kernel
def _update(
    master: tl.tensor,
    size: tl.int64,
    table: tl.tensor,
    key: tl.uint64,
    block: tl.int64,
    steps: tl.int32,
    generations: tl.tensor,
    scales: tl.tensor,
    bounds: tl.tensor,
    pairs: tl.tensor,
    coefficients: tl.tensor,
    squares: tl.tensor,
    rows: tl.constexpr,
) -> None:
    """Step s has scales[s] and the members [bounds[s], bounds[s + 1]); squares: float64 `[programs, steps]`."""
    elements = _elements(rows)
    inside = elements < size
    weights = tl.load(master + elements, mask=inside)
    for step in range(steps):
        generation = tl.load(generations + step)
        total = tl.zeros([rows, _LANES], tl.int64)
        for member in range(tl.load(bounds + step), tl.load(bounds + step + 1)):
            normals = _normals(table, key, block, generation, tl.load(pairs + member), rows)
            total += normals.to(tl.int64) * tl.load(coefficients + member)
        old = weights.to(tl.float64)
        weights = (old + total.to(tl.float64) * tl.load(scales + step)).to(tl.float32)
        change = tl.where(inside, weights.to(tl.float64) - old, 0.0)
        tl.store(squares + tl.program_id(0).to(tl.int64) * steps + step, tl.sum(change * change))
    tl.store(master + elements, weights, mask=inside)


@_kernel
def _digest(
    master: tl.tensor, size: tl.int64, key: tl.uint64, start: tl.int64, sums: tl.tensor, rows: tl.constexpr
) -> None:
    elements = _elements(rows)
    inside = elements < size
    bits = tl.load(master + elements, mask=inside).to(tl.uint32, bitcast=True).to(tl.uint64)
    mixed = (key + (start + elements).to(tl.uint64) * _INCREMENT) ^ bits
    mixed = (mixed ^ (mixed >> _S0)) * _MIX0
    mixed = (mixed ^ (mixed >> _S1)) * _MIX1
    mixed = tl.where(inside, mixed ^ (mixed >> _S2), 0)
    tl.store(sums + tl.program_id(0), tl.sum(mixed).to(tl.int64))


def make_ready() -> None:
    """Find the device, and build what Triton launches kernels with.

    Raises:
        RuntimeError: there is no device for Triton, or no C compiler.
        OSError, subprocess.SubprocessError: the compiler does not work.
    """
    triton.runtime.driver.active.get_current_target()


class TritonKernels:
    """`Kernels` on one CUDA device; on the CPU where Triton's interpreter is switched on."""

    def __init__(self, device: torch.device) -> None:
        self._rows = _INTERPRETED_ROWS if device.type == "cpu" else _ROWS
        self._table = torch.from_numpy(contract.quantile_table()).to(device)

    def perturb(self, slots: Sequence[Slot], *, generation: int, pair: int, scale: float) -> None:
        """See `Kernels.perturb`."""
        contract.check_counter(generation=generation, pair=pair)
        for _, chunk in chunks(slots, _CHUNK):
            size, source = chunk.master.numel(), self._source(chunk)
            weights = (chunk.master, chunk.working, size)
            self._launch(_perturb, size, *weights, *source, generation, pair, scale)

    def update(self, slots: Sequence[Slot], steps: Sequence[Step]) -> list[float]:
        """See `Kernels.update`."""
        arrays = [torch.from_numpy(array).to(self._table.device) for array in StepArrays.of(steps)]
        total = torch.zeros(len(steps), dtype=torch.float64, device=self._table.device)
        for _, chunk in chunks(slots, _CHUNK):
            size, source = chunk.master.numel(), self._source(chunk)
            squares = total.new_empty(self._programs(size), len(steps))
            self._launch(_update, size, chunk.master, size, *source, len(steps), *arrays, squares)
            total += squares.sum(dim=0)
        return [float(value) for value in total.tolist()]

    def digest(self, slots: Sequence[Slot]) -> list[int]:
        """See `Kernels.digest`."""
        total = torch.zeros(len(slots), dtype=torch.int64, device=self._table.device)
        for row, chunk in chunks(slots, _CHUNK):
            size = chunk.master.numel()
            sums = total.new_empty(self._programs(size))
            self._launch(_digest, size, chunk.master, size, chunk.key.digest, chunk.start, sums)
            total[row] += sums.sum()
        return [value % 2**64 for value in total.tolist()]

    def _source(self, slot: Slot) -> tuple[torch.Tensor, int, int]:
        """What the kernels make a slot's noise from: the table, the key, the number of its first block."""
        return self._table, slot.key.noise, slot.start // contract.LANES

    def _programs(self, size: int) -> int:
        return -(-size // (self._rows * contract.LANES))

    def _launch(self, kernel: Any, size: int, *arguments: Any) -> None:
        if size:
            with torch.cuda.device_of(self._table):
                kernel[(self._programs(size),)](*arguments, rows=self._rows, **_LAUNCH)
