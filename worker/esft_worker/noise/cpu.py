"""Makes the noise fast on CPUs: Numba kernels that LLVM turns into vector code, spread over a few threads.

Work goes in tiles of 1024 elements: words, then normals, then what is done with them, each a plain loop
over arrays that stay in the first-level cache. The table is a constant of the compiled code, so that LLVM
knows it to be apart from what is written. Multiplication and addition round separately: Numba forms no
fused ones unless asked.

Compiling takes a second or two a kernel, once a machine where a cache folder is writable, once a process
elsewhere.

Rejected: Numba's `parallel=True` (its threading layers do not survive a fork and share one global pool), C
extensions (a compiler or a wheel for every platform).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from esft_worker.compiled import Kernel, inlined
from esft_worker.noise import contract
from esft_worker.noise.contract import Slot, Step, StepArrays, chunks

R = TypeVar("R")

# Elements that a pass of the inner loops handles: a multiple of LANES and a divisor of 2**34.
_TILE = contract.SLOT_ALIGNMENT
_HALF = _TILE // 8  # of its Philox blocks
_CHUNK = 256 * _TILE  # elements a thread takes at a time: however many there are, the sums are the same

_TO_FLOAT32, _TO_BFLOAT16, _TO_FLOAT16 = range(3)  # what a perturbed weight is rounded to

_i32, _i64, _u16, _u32, _u64 = np.int32, np.int64, np.uint16, np.uint32, np.uint64
_f32, _f64 = np.float32, np.float64

_TABLE = contract.quantile_table().view(_i32)
_M0, _M1 = map(_u64, contract.PHILOX_MULTIPLIERS)
_W0, _W1 = map(_u64, contract.PHILOX_WEYL)
_ROUNDS = contract.PHILOX_ROUNDS
_LOW_WORD, _WORD_BITS = _u64(0xFFFFFFFF), _u64(32)
_FRACTION_BITS = _u32(contract.FRACTION_BITS)
_FRACTION_MASK = _u32(2**contract.FRACTION_BITS - 1)
_INDEX_MASK = _u32(2**contract.INDEX_BITS - 1)
_SLOPE_BITS = _u32(contract.SLOPE_BITS)
_SLOPE_MASK = _u32(2**contract.SLOPE_BITS - 1)
_FALL_SHIFT = _u32(contract.FALL_SHIFT)
_INCREMENT = _u64(contract.SPLITMIX_INCREMENT)
_S0, _S1, _S2 = map(_u64, contract.SPLITMIX_SHIFTS)
_MIX0, _MIX1 = map(_u64, contract.SPLITMIX_MULTIPLIERS)


@inlined
def _fill_words(words: Any, key: Any, block: Any, generation: Any, pair: Any) -> None:
    """Philox-4x32-10 of blocks [block, block + 256), over which the low word of `block` never carries.

    `words` is uint64, each with two of Philox's words. A word is kept in 64 bits, of which the upper half may be
    anything until it is multiplied: that is the one multiplication of vectors that processors have.
    Two blocks go side by side, because one alone has each operation wait for the last.
    """
    low, high = _u32(block), _u64(block) >> _WORD_BITS
    for i in range(_HALF):
        a0, a1, a2, a3 = _u64(_u32(low + _u32(i))), high, _u64(generation), _u64(pair)
        b0, b1, b2, b3 = _u64(_u32(low + _u32(i + _HALF))), high, _u64(generation), _u64(pair)
        k0, k1 = key, key >> _WORD_BITS
        for _ in range(_ROUNDS):
            p0, p1 = _M0 * (a0 & _LOW_WORD), _M1 * (a2 & _LOW_WORD)
            q0, q1 = _M0 * (b0 & _LOW_WORD), _M1 * (b2 & _LOW_WORD)
            a0, a1, a2, a3 = (p1 >> _WORD_BITS) ^ a1 ^ k0, p1, (p0 >> _WORD_BITS) ^ a3 ^ k1, p0
            b0, b1, b2, b3 = (q1 >> _WORD_BITS) ^ b1 ^ k0, q1, (q0 >> _WORD_BITS) ^ b3 ^ k1, q0
            k0, k1 = k0 + _W0, k1 + _W1
        words[2 * i] = (a0 & _LOW_WORD) | (a1 << _WORD_BITS)
        words[2 * i + 1] = (a2 & _LOW_WORD) | (a3 << _WORD_BITS)
        words[2 * (i + _HALF)] = (b0 & _LOW_WORD) | (b1 << _WORD_BITS)
        words[2 * (i + _HALF) + 1] = (b2 & _LOW_WORD) | (b3 << _WORD_BITS)


@inlined
def _float_bits(word: Any) -> Any:
    """Of the tail probability that the word stands for, in units of 2**-32."""
    return _f32(_i32((word >> _u32(1)) | _u32(1))).view(_u32)


@inlined
def _fill_normals(normals: Any, words: Any, key: Any, start: Any, generation: Any, pair: Any) -> None:
    """Normal integers of the tile of elements that begins at `start`; `words` is scratch.

    Looking up has a loop of its own: without fast gathers, one loop for everything takes half as long again.
    """
    _fill_words(words, key, _u64(start) >> _u64(2), generation, pair)
    word = words.view(_u32)
    for i in range(_TILE):
        normals[i] = _i32((_float_bits(word[i]) >> _FRACTION_BITS) & _INDEX_MASK)
    for i in range(_TILE):
        normals[i] = _TABLE[_u32(normals[i])]
    for i in range(_TILE):
        entry, fraction = _u32(normals[i]), _float_bits(word[i]) & _FRACTION_MASK
        magnitude = _i32(entry >> _SLOPE_BITS) - _i32(((entry & _SLOPE_MASK) * fraction) >> _FALL_SHIFT)
        negative = -_i32(word[i] & _u32(1))
        normals[i] = (magnitude ^ negative) - negative


@inlined
def _bfloat16_bits(value: Any) -> Any:
    """Round to nearest, ties to even; a NaN stays one."""
    bits = _f32(value).view(_u32)
    rounded = _u32(bits + _u32(0x7FFF) + ((bits >> _u32(16)) & _u32(1))) >> _u32(16)
    return _u16(rounded if value == value else _u32(0x7FC0))  # noqa: PLR0124


@inlined
def _float16_bits(value: Any) -> Any:
    """Round to nearest, ties to even, subnormal results included; a NaN stays one."""
    bits = _f32(value).view(_u32)
    magnitude = _u32(bits & _u32(0x7FFFFFFF))
    # Below 2**-14 the unit is 2**-24, which is that of float32 at 0.5: the addition rounds.
    small = _u32(_f32(_u32(magnitude).view(_f32) + _f32(0.5)).view(_u32) - _u32(0x3F000000))
    rebased = _u32(magnitude - _u32(0x38000000))  # the exponent's bias goes from 127 to 15
    normal = _u32(rebased + _u32(0xFFF) + ((magnitude >> _u32(13)) & _u32(1))) >> _u32(13)
    rounded = small if magnitude < _u32(0x38800000) else min(_u32(normal), _u32(0x7C00))
    rounded = rounded if magnitude <= _u32(0x7F800000) else _u32(0x7E00)
    return _u16(((bits >> _u32(16)) & _u32(0x8000)) | rounded)


@Kernel
def _perturb(
    master: Any, working: Any, rounding: Any, key: Any, start: Any, generation: Any, pair: Any, scale: Any
) -> None:
    """`working` holds float32, or the bits of what `rounding` says."""
    words, normals = np.empty(_TILE // 2, _u64), np.empty(_TILE, _i32)
    for first in range(0, master.size, _TILE):
        _fill_normals(normals, words, key, start + first, generation, pair)
        source, target = master[first : first + _TILE], working[first : first + _TILE]
        if rounding == _TO_BFLOAT16:
            for i in range(source.size):
                target[i] = _bfloat16_bits(source[i] + scale * _f32(normals[i]))
        elif rounding == _TO_FLOAT16:
            for i in range(source.size):
                target[i] = _float16_bits(source[i] + scale * _f32(normals[i]))
        else:
            for i in range(source.size):
                target[i] = source[i] + scale * _f32(normals[i])


@Kernel
def _update(
    master: Any,
    key: Any,
    start: Any,
    generations: Any,
    scales: Any,
    bounds: Any,
    pairs: Any,
    coefficients: Any,
    squares: Any,
) -> None:
    """Step s has scales[s] and the members [bounds[s], bounds[s + 1]); its squared change is added to squares[s]."""
    words, normals = np.empty(_TILE // 2, _u64), np.empty(_TILE, _i32)
    total = np.empty(_TILE, _i64)
    for first in range(0, master.size, _TILE):
        weights = master[first : first + _TILE]
        for step in range(scales.size):
            total[:] = 0
            for member in range(bounds[step], bounds[step + 1]):
                _fill_normals(normals, words, key, start + first, generations[step], pairs[member])
                coefficient = _i64(coefficients[member])
                for i in range(_TILE):
                    total[i] += coefficient * _i64(normals[i])
            square = 0.0
            for i in range(weights.size):
                old = _f64(weights[i])
                new = _f32(old + _f64(total[i]) * scales[step])
                weights[i] = new
                square += (_f64(new) - old) ** 2
            squares[step] += square


@Kernel
def _digest(bits: Any, key: Any, start: Any) -> Any:
    total = _u64(0)
    for i in range(bits.size):
        mixed = (key + _u64(start + i) * _INCREMENT) ^ _u64(bits[i])
        mixed = (mixed ^ (mixed >> _S0)) * _MIX0
        mixed = (mixed ^ (mixed >> _S1)) * _MIX1
        total += mixed ^ (mixed >> _S2)
    return total


# Working dtype -> the dtype it is handed to NumPy as, and the rounding.
_ROUNDINGS = {
    torch.float32: (torch.float32, _TO_FLOAT32),
    torch.bfloat16: (torch.uint16, _TO_BFLOAT16),
    torch.float16: (torch.uint16, _TO_FLOAT16),
}


class CpuKernels:
    """`Kernels` for tensors in host memory. Results do not depend on the number of threads."""

    def __init__(self, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}: at least one is needed")
        self._threads = threads

    def perturb(self, slots: Sequence[Slot], *, generation: int, pair: int, scale: float) -> None:
        """See `Kernels.perturb`."""
        contract.check_counter(generation=generation, pair=pair)
        counter = (_u32(generation), _u32(pair))
        tasks = []
        for _, chunk in chunks(slots, _CHUNK):
            view, rounding = _ROUNDINGS[chunk.working.dtype]
            weights = chunk.master.numpy(), chunk.working.view(view).numpy(), rounding
            source = _u64(chunk.key.noise), _i64(chunk.start)
            tasks.append(partial(_perturb, *weights, *source, *counter, _f32(scale)))
        self._run(tasks)

    def update(self, slots: Sequence[Slot], steps: Sequence[Step]) -> list[float]:
        """See `Kernels.update`."""
        arrays = StepArrays.of(steps)
        work = list(chunks(slots, _CHUNK))
        squares = np.zeros((len(work), len(steps)), dtype=_f64)
        tasks = []
        for row, (_, chunk) in enumerate(work):
            source = _u64(chunk.key.noise), _i64(chunk.start)
            tasks.append(partial(_update, chunk.master.numpy(), *source, *arrays, squares[row]))
        self._run(tasks)
        return [float(value) for value in squares.sum(axis=0)]

    def digest(self, slots: Sequence[Slot]) -> list[int]:
        """See `Kernels.digest`."""
        rows, tasks = [], []
        for row, chunk in chunks(slots, _CHUNK):
            rows.append(row)
            bits = chunk.master.numpy().view(_u32)
            tasks.append(partial(_digest, bits, _u64(chunk.key.digest), _i64(chunk.start)))
        digests = [0] * len(slots)
        for row, value in zip(rows, self._run(tasks), strict=True):
            digests[row] = (digests[row] + int(value)) % 2**64
        return digests

    def _run(self, tasks: Sequence[Callable[[], R]]) -> list[R]:
        """Results of the tasks, in order."""
        if self._threads == 1 or len(tasks) < 2:  # noqa: PLR2004
            return [task() for task in tasks]
        results: dict[int, R] = {}
        indices = iter(range(len(tasks)))  # shared: each thread takes the next task once it is done with one

        def work() -> None:
            for index in indices:
                results[index] = tasks[index]()

        with ThreadPoolExecutor(self._threads - 1) as pool:
            others = [pool.submit(work) for _ in range(self._threads - 1)]
            work()
        for other in others:
            other.result()
        return [results[index] for index in range(len(tasks))]
