"""All kernels against the Numba kernels, bit for bit: plain torch, and Triton's, interpreted where there is no CUDA."""

import importlib.util
import itertools
import math
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import esft_worker.noise
from esft_worker.noise import (
    Kernels,
    Slot,
    Step,
    choose,
    cpu,
    kernels_for,
    tensor_key,
    torch_ops,
)
from esft_worker.noise.contract import perturbation_scale, update_scale
from esft_worker.noise.cpu import CpuKernels
from esft_worker.noise.torch_ops import TorchKernels
from noise_parts import normal_integers

pytestmark = [
    pytest.mark.integration,
    # Triton's interpreter computes with NumPy, which warns where weights are infinite or become so.
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEY = tensor_key(seed=5, name="model.layers.0.mlp.up_proj.weight")
SIZES = [0, 1, 3, 4, 5, 1023, 1024, 1025, 262_143, 262_144, 300_001]
FAR = [0, 1, 2**32 - 5, 2**33 + 2, 2**34 - 7, 2**40 + 3]  # block numbers pass 2**32 at element 2**34
FAR_SLOTS = [1024, 2**31, 2**34 - 2048, 2**40]
SCALE = perturbation_scale(sigma=1e-2, sign=1)
STEPS = [
    Step(2**32 - 1, (0, 3, 2**32 - 1), (2**24, -(2**25), 17), update_scale(step=0.3, exponent=-24)),
    Step(2**31, (), (), 1.0),
    Step(0, (2**31,), (-1,), update_scale(step=-1.0, exponent=0)),
]


def names(implementations: Sequence[str]) -> list[str]:
    """Those of the implementations that work here: `library-device`."""
    return [
        name
        for name in implementations
        if (torch.cuda.is_available() or not name.endswith("cuda"))
        and (importlib.util.find_spec("triton") or not name.startswith("triton"))
    ]


TRITON = "triton-cuda" if torch.cuda.is_available() else "triton-cpu"
OTHERS = names(["torch-cpu", "torch-cuda", TRITON])


class Implementation:
    """Kernels, and slots on their device."""

    def __init__(self, name: str) -> None:
        library, device = name.split("-")
        self.device = torch.device(device)
        self.kernels = self._kernels(library)

    def _kernels(self, library: str) -> Kernels:
        if library == "numba":
            return CpuKernels()
        if library == "torch":
            return TorchKernels(self.device)
        from esft_worker.noise.triton_ops import TritonKernels  # noqa: PLC0415 - triton is not everywhere

        return TritonKernels(self.device)

    def slot(self, master: torch.Tensor, dtype: torch.dtype = torch.float32, *, start: int = 0) -> Slot:
        """A slot with a copy of the master on the device."""
        copy = master.to(self.device, copy=True)
        return Slot(KEY, copy, torch.empty_like(copy, dtype=dtype), start)


NUMBA = Implementation("numba-cpu")
REFERENCE = TorchKernels(torch.device("cpu"))


@pytest.fixture(name="other", params=OTHERS, scope="module")
def _other(request) -> Implementation:
    return Implementation(request.param)


@pytest.fixture(name="each", params=["numba-cpu", *OTHERS], scope="module")
def _each(request) -> Implementation:
    return Implementation(request.param)


def magnitudes(size: int) -> torch.Tensor:
    """Weights over many orders of magnitude, subnormal in float16 and beyond its range included."""
    generator = torch.Generator().manual_seed(size)
    exponents = torch.empty(size).uniform_(-30, 18, generator=generator)
    return torch.empty(size).normal_(generator=generator) * exponents.exp2()


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Bit for bit: the two zeros differ."""
    integers = {4: torch.int32, 2: torch.int16}[first.element_size()]
    return first.dtype == second.dtype and torch.equal(
        first.cpu().view(integers), second.cpu().view(integers)
    )


def noise(*, generation: int, pair: int, count: int, start: int = 0) -> torch.Tensor:
    return REFERENCE.noise(KEY.noise, generation=generation, pair=pair, start=start, count=count)


@pytest.mark.parametrize("key", [7, 2**31 + 5, 2**32 + 2**31, 2**64 - 1])
@pytest.mark.parametrize("start", FAR)
def test_noise_is_the_same(each, key, start):
    for generation, pair, count in ((9, 2**32 - 1, 5000), (2**31, 0, 3), (1, 16, 0)):
        arguments = {"generation": generation, "pair": pair, "start": start, "count": count}
        integers = normal_integers(each.kernels, key, device=each.device, **arguments)
        assert integers.shape == (count,)
        assert torch.equal(integers.cpu(), REFERENCE.noise(key, **arguments))


def test_words_are_those_of_philox():
    scratch = np.empty(cpu._TILE // 2, dtype=np.uint64)
    words = scratch.view(np.uint32)
    cpu._fill_words(scratch, np.uint64(0), np.uint64(0), np.uint32(0), np.uint32(0))
    assert words[:4].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    block = 2**32 + 512
    cpu._fill_words(scratch, np.uint64(2**63 + 12345), np.uint64(block), np.uint32(7), np.uint32(8))
    blocks = torch.arange(block, block + cpu._TILE // 4)
    other = torch_ops._words(blocks, key=2**63 + 12345, generation=7, pair=8)
    assert words.tolist() == other.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_perturbed_weights_are_the_same(other, dtype, size):
    master = magnitudes(size)
    ours, its = NUMBA.slot(master, dtype), other.slot(master, dtype)
    for scale in (SCALE, -SCALE):
        NUMBA.kernels.perturb([ours], generation=3, pair=1, scale=scale)
        other.kernels.perturb([its], generation=3, pair=1, scale=scale)
        change = noise(generation=3, pair=1, count=size).to(torch.float32) * scale
        assert same(ours.working, (master + change).to(dtype))
        assert same(ours.working, its.working)
        assert same(its.master, master)


@pytest.mark.parametrize("scale", [perturbation_scale(sigma=1e-38, sign=1), 0.0, -0.0])
def test_scales_out_of_the_ordinary_are_the_same(other, scale):
    # Noise of 1e-38 is subnormal: a device must not flush it to zero.
    master = torch.cat([torch.zeros(500), magnitudes(500) * 2.0**-120])
    ours, its = NUMBA.slot(master), other.slot(master)
    for each, slot in ((NUMBA, ours), (other, its)):
        each.kernels.perturb([slot], generation=3, pair=1, scale=scale)
    assert same(ours.working, its.working)
    assert ours.working[:500].any() == (scale != 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_of_a_pair_is_mirrored(each, dtype):
    zeros, master = each.slot(torch.zeros(5000), dtype), magnitudes(5000)
    slots = [zeros, each.slot(master, dtype)]
    mirrored = [each.slot(torch.zeros(5000), dtype), each.slot(-master, dtype)]
    each.kernels.perturb(slots, generation=0, pair=2, scale=SCALE)
    each.kernels.perturb(mirrored, generation=0, pair=2, scale=-SCALE)
    assert torch.equal(zeros.working, -mirrored[0].working)
    assert same(slots[1].working, -mirrored[1].working)
    assert zeros.working.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_to_nearest_even_for_every_pattern(each, dtype):
    # All 16-bit patterns, the points halfway between neighbours, and what lies next to those.
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    exact = bits.view(dtype).to(torch.float32)
    halfway = ((exact.double() + exact.roll(-1).double()) / 2).float()
    halfway = torch.cat([halfway, torch.tensor([1, -1]) * beyond_largest(dtype)])
    master = torch.cat([exact, halfway, *(nudged(halfway, step) for step in (-1, 1))])
    master = master[~master.isnan()]
    slot = each.slot(master, dtype)
    each.kernels.perturb([slot], generation=0, pair=0, scale=0.0)
    nothing = noise(generation=0, pair=0, count=master.numel()) * 0.0
    assert same(slot.working, (master + nothing).to(dtype))


def beyond_largest(dtype: torch.dtype) -> float:
    """The least number that rounds to infinity."""
    largest = torch.finfo(dtype).max
    return largest * (1 + torch.finfo(dtype).eps / (4 - 2 * torch.finfo(dtype).eps))


def nudged(values: torch.Tensor, step: int) -> torch.Tensor:
    return (values.view(torch.int32) + step).view(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_what_they_are(each, dtype):
    slot = each.slot(torch.tensor([torch.nan, torch.inf, -torch.inf]), dtype)
    each.kernels.perturb([slot], generation=0, pair=0, scale=1e-9)
    (square,) = each.kernels.update([slot], [Step(0, (0,), (1,), 1e-9)])
    for tensor in (slot.working, slot.master):
        assert tensor.isnan().tolist() == [True, False, False]
        assert tensor[1:].tolist() == [torch.inf, -torch.inf]
    assert math.isnan(square)


@pytest.mark.parametrize("size", SIZES)
def test_updated_masters_are_the_same(other, size):
    master = magnitudes(size)
    ours, its = (each.slot(master, torch.float16) for each in (NUMBA, other))
    squares = [each.kernels.update([slot], STEPS) for each, slot in ((NUMBA, ours), (other, its))]
    assert same(ours.master, its.master)
    assert squares[0] == pytest.approx(squares[1], rel=1e-9)
    assert len(squares[0]) == len(STEPS)


def test_updates_are_what_the_contract_says():
    step, count = STEPS[0], 5000
    slot, master = NUMBA.slot(magnitudes(count)), magnitudes(count)
    (square,) = NUMBA.kernels.update([slot], [step])
    total = sum(
        coefficient * noise(generation=step.generation, pair=pair, count=count).long()
        for pair, coefficient in zip(step.pairs, step.coefficients, strict=True)
    )
    assert same(slot.master, (master.double() + total.double() * step.scale).float())
    assert square == pytest.approx(float((slot.master.double() - master.double()).square().sum()), rel=1e-9)


def test_steps_in_one_pass_are_the_same_as_one_after_the_other(each):
    together, apart = ([each.slot(magnitudes(size)) for size in (70_000, 0, 33)] for _ in range(2))
    squares = each.kernels.update(together, STEPS)
    assert squares == pytest.approx([each.kernels.update(apart, [step])[0] for step in STEPS], rel=1e-9)
    for one, other in zip(together, apart, strict=True):
        assert same(one.master, other.master)
    assert each.kernels.update(together, []) == []


@pytest.mark.parametrize("name", ["numba-cpu", *OTHERS])
def test_sum_of_the_largest_population_is_exact(name):
    # All digits of one member's noise are left when what is 2**33 or 2**39 times as large cancels out: a float64, which
    # has 53 bits, would lose some. The interpreter takes 10 ms a member.
    half, weight = (32_767, 2**24) if name == "numba-cpu" else (150, 2**25)
    each, slot = Implementation(name), Implementation(name).slot(torch.zeros(4096))
    coefficients = (*[weight] * half, 1, *[-weight] * half)
    pairs = (*[1] * half, 2, *[1] * half)
    (square,) = each.kernels.update([slot], [Step(0, pairs, coefficients, 2.0**-20)])
    expected = noise(generation=0, pair=2, count=4096).double() / 2**20
    assert same(slot.master, expected.float())
    assert square == pytest.approx(float(expected.square().sum()), rel=1e-6)


def test_no_sum_within_the_bounds_overflows():
    population, size = 65_536, 4
    slot = NUMBA.slot(torch.zeros(size))
    scale = update_scale(step=1.0, exponent=-40)
    (square,) = NUMBA.kernels.update([slot], [Step(0, (1,) * population, (2**24,) * population, scale)])
    expected = noise(generation=0, pair=1, count=size).double() / 2**20
    assert same(slot.master, expected.float())
    assert square == pytest.approx(float(expected.square().sum()), rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_digests_are_the_same(other, size):
    master = magnitudes(size)
    ours, its = (each.kernels.digest([each.slot(master)] * 2) for each in (NUMBA, other))
    assert ours == its
    assert 0 <= ours[0] == ours[1] < 2**64


def test_digest_sees_every_bit_and_every_place():
    master = magnitudes(1000)
    changed = [master.clone() for _ in range(32)]
    for bit, values in enumerate(changed):
        values.view(torch.int32)[777] ^= 1 << bit if bit < 31 else -(2**31)
    swapped = master.clone()
    swapped[[3, 4]] = master[[4, 3]]
    slots = [NUMBA.slot(values) for values in (master, *changed, swapped, master.roll(1))]
    slots.append(Slot(tensor_key(seed=5, name="other"), master, master))
    slots.append(NUMBA.slot(master, start=1024))
    assert len(set(NUMBA.kernels.digest(slots))) == 1 + 32 + 2 + 2


@pytest.mark.parametrize("start", FAR_SLOTS)
def test_kernels_work_at_offsets_beyond_32_bits(each, start):
    slot, master = each.slot(magnitudes(3000), start=start), magnitudes(3000)
    values = noise(generation=1, pair=2, start=start, count=3000)
    each.kernels.perturb([slot], generation=1, pair=2, scale=SCALE)
    assert same(slot.working, master + values.float() * SCALE)
    assert each.kernels.digest([slot]) == NUMBA.kernels.digest([NUMBA.slot(master, start=start)])
    each.kernels.update([slot], [Step(1, (2,), (3,), 2.0**-20)])
    assert same(slot.master, (master.double() + values.double() * 3 * 2.0**-20).float())


def test_parts_of_a_tensor_are_what_the_whole_is(each):
    start, master = 2**34 - 2048, magnitudes(70_001)
    whole = each.slot(master, torch.bfloat16, start=start)
    bounds = [0, 1024, 1024, 4096, 65_536, 70_001]
    parts = [
        each.slot(master[first:last], torch.bfloat16, start=start + first)
        for first, last in itertools.pairwise(bounds)
    ]
    squares = []
    for slots in ([whole], parts):
        each.kernels.perturb(slots, generation=1, pair=2, scale=SCALE)
        squares.append(each.kernels.update(slots, STEPS))
    assert same(whole.working, torch.cat([part.working for part in parts]))
    assert same(whole.master, torch.cat([part.master for part in parts]))
    assert squares[0] == pytest.approx(squares[1], rel=1e-9)
    assert each.kernels.digest([whole])[0] == sum(each.kernels.digest(parts)) % 2**64


@pytest.mark.parametrize("name", OTHERS)
def test_blocks_that_a_slot_is_worked_on_in_do_not_matter(name, monkeypatch):
    each, master = Implementation(name), magnitudes(5000)
    monkeypatch.setattr(torch_ops, "_CHUNK", 2048)
    if name.startswith("triton"):
        monkeypatch.setattr("esft_worker.noise.triton_ops._CHUNK", 2048)
        each.kernels._rows = 256
    slots = [each.slot(master, torch.bfloat16), each.slot(master[:3000])]
    ours = [NUMBA.slot(master, torch.bfloat16), NUMBA.slot(master[:3000])]
    squares = []
    for one, its in ((NUMBA, ours), (each, slots)):
        one.kernels.perturb(its, generation=1, pair=2, scale=SCALE)
        squares.append(one.kernels.update(its, STEPS))
    assert squares[0] == pytest.approx(squares[1], rel=1e-9)
    assert NUMBA.kernels.digest(ours) == each.kernels.digest(slots)
    for mine, its in zip(ours, slots, strict=True):
        assert same(mine.working, its.working)
        assert same(mine.master, its.master)


def test_number_of_threads_does_not_matter():
    results = []
    for threads in (1, 2, 3):
        kernels = CpuKernels(threads=threads)
        slots = [NUMBA.slot(magnitudes(size), torch.bfloat16) for size in (5, 700_000, 0, 262_145)]
        squares = kernels.update(slots, STEPS)
        kernels.perturb(slots, generation=1, pair=0, scale=SCALE)
        results.append((squares, kernels.digest(slots), torch.cat([each.working for each in slots])))
    for squares, digests, working in results[1:]:
        assert (squares, digests) == results[0][:2]
        assert same(working, results[0][2])


def test_devices_get_the_kernels_that_work_on_them():
    assert isinstance(kernels_for(torch.device("cpu"), threads=2), CpuKernels)
    assert isinstance(kernels_for(torch.device("meta"), threads=2), TorchKernels)
    if torch.cuda.is_available():
        assert type(kernels_for(torch.device("cuda"), threads=2)).__name__ == "TritonKernels"


def test_a_device_without_triton_is_told_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "esft_worker.noise.triton_ops", raising=False)
    monkeypatch.delattr(esft_worker.noise, "triton_ops", raising=False)
    assert choose._triton_kernels() is None
    assert "Fix: install triton" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device for Triton")
def test_triton_without_a_device_is_not_used(caplog):
    pytest.importorskip("triton")
    assert choose._triton_kernels() is None
    assert "Fix: install triton" in caplog.text


def test_a_failing_task_is_not_lost_in_its_thread():
    read_only = [np.zeros(1), np.zeros(1)]
    for array in read_only:
        array.flags.writeable = False

    def write(array: np.ndarray) -> None:
        array[0] = 1

    with pytest.raises(ValueError, match="read-only"):
        CpuKernels(threads=2)._run([lambda array=array: write(array) for array in read_only])


def test_zero_threads_are_refused():
    with pytest.raises(ValueError, match="threads is 0"):
        CpuKernels(threads=0)
