"""The Numba kernels against plain torch operations, bit for bit, on the CPU and on CUDA if there is any."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import esft_worker.noise
from esft_worker.noise import CpuKernels, Slot, TorchKernels, cpu, tensor_key, torch_ops
from esft_worker.noise.contract import perturbation_scale, update_scale

pytestmark = pytest.mark.integration

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEY = tensor_key(seed=5, name="model.layers.0.mlp.up_proj.weight")
SIZES = [0, 1, 3, 4, 5, 1023, 1024, 1025, 262_143, 262_144, 300_001]
FAR = [0, 1, 2**32 - 5, 2**33 + 2, 2**34 - 7, 2**40 + 3]  # block numbers pass 2**32 at element 2**34


def magnitudes(size: int) -> torch.Tensor:
    """Weights over many orders of magnitude, subnormal in float16 and beyond its range included."""
    generator = torch.Generator().manual_seed(size)
    exponents = torch.empty(size).uniform_(-30, 18, generator=generator)
    return torch.empty(size).normal_(generator=generator) * exponents.exp2()


def slot(master: torch.Tensor, dtype: torch.dtype) -> Slot:
    return Slot(KEY, master, torch.empty_like(master, dtype=dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("start", FAR)
def test_noise_is_that_of_plain_torch(device, start):
    arguments = {"generation": 9, "pair": 2**32 - 1, "start": start, "count": 5000}
    ours = CpuKernels().noise(KEY.noise, **arguments)
    other = TorchKernels(torch.device(device)).noise(KEY.noise, **arguments)
    assert ours.dtype == other.dtype == torch.int32
    assert torch.equal(ours, other.cpu())


def test_words_are_those_of_philox():
    words = np.empty(cpu._CHUNK, dtype=np.uint32)
    cpu._fill_words(words, np.uint64(0), np.uint64(0), np.uint32(0), np.uint32(0))
    assert words[:4].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    block = 2**32 + 512
    cpu._fill_words(words, np.uint64(2**63 + 12345), np.uint64(block), np.uint32(7), np.uint32(8))
    blocks = torch.arange(block, block + cpu._CHUNK // 4)
    other = torch_ops._words(blocks, key=2**63 + 12345, generation=7, pair=8)
    assert words.tolist() == other.tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_perturbed_weights_are_those_of_plain_torch(device, dtype, size):
    master = magnitudes(size)
    ours, other = slot(master, dtype), slot(master.to(device), dtype)
    for sign in (1, -1):
        arguments = {"generation": 3, "pair": 1, "scale": perturbation_scale(sigma=1e-2, sign=sign)}
        CpuKernels().perturb([ours], **arguments)
        TorchKernels(torch.device(device)).perturb([other], **arguments)
        assert torch.equal(ours.working, other.working.cpu())
        noise = CpuKernels().noise(KEY.noise, generation=3, pair=1, start=0, count=size)
        expected = master + noise.to(torch.float32) * arguments["scale"]
        assert torch.equal(ours.working, expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_to_nearest_even_for_every_pattern(dtype):
    # All 16-bit patterns, the points halfway between neighbours, and what lies next to those.
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    exact = bits.view(dtype).to(torch.float32)
    halfway = ((exact.double() + exact.roll(-1).double()) / 2).float()
    master = torch.cat([exact, halfway, *(nudged(halfway, step) for step in (-1, 1))])
    master = master[~master.isnan()]
    work = slot(master, dtype)
    CpuKernels().perturb([work], generation=0, pair=0, scale=0.0)
    assert torch.equal(work.working, master.to(dtype))


def nudged(values: torch.Tensor, step: int) -> torch.Tensor:
    return (values.view(torch.int32) + step).view(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_what_they_are(dtype):
    work = slot(torch.tensor([torch.nan, torch.inf, -torch.inf]), dtype)
    CpuKernels().perturb([work], generation=0, pair=0, scale=1e-9)
    assert work.working.isnan().tolist() == [True, False, False]
    assert work.working[1:].tolist() == [torch.inf, -torch.inf]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
def test_updated_masters_are_those_of_plain_torch(device, size):
    ours, other = magnitudes(size), magnitudes(size).to(device)
    arguments = {
        "generation": 2**32 - 1,
        "pairs": [0, 3, 2**32 - 1],
        "coefficients": [2**24, -(2**25), 17],
        "scale": update_scale(step=0.3, exponent=-24),
    }
    mine = CpuKernels().update([slot(ours, torch.float16)], **arguments)
    its = TorchKernels(torch.device(device)).update([slot(other, torch.float16)], **arguments)
    assert torch.equal(ours, other.cpu())
    assert mine == pytest.approx(its, rel=1e-9)


def test_sum_of_the_largest_population_is_exact():
    population, size = 65_536, 4
    master, weight = torch.zeros(size), 2**24
    squares = CpuKernels().update(
        [slot(master, torch.float32)],
        generation=0,
        pairs=[1] * population,
        coefficients=[weight] * population,
        scale=update_scale(step=1.0, exponent=-40),
    )
    noise = CpuKernels().noise(KEY.noise, generation=0, pair=1, start=0, count=size)
    assert torch.equal(master, (noise.double() / 2**20).float())
    assert squares == pytest.approx(float((noise.double() / 2**20).square().sum()), rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
def test_digest_is_that_of_plain_torch(device, size):
    master = magnitudes(size)
    ours = CpuKernels().digest(master, KEY.digest)
    assert ours == TorchKernels(torch.device(device)).digest(master.to(device), KEY.digest)
    assert 0 <= ours < 2**64


def test_digest_sees_every_bit_and_every_place():
    kernels, master = CpuKernels(), magnitudes(1000)
    digests = {kernels.digest(master, KEY.digest), kernels.digest(master, KEY.digest ^ 1)}
    for bit in range(32):
        changed = master.clone()
        changed.view(torch.int32)[777] ^= 1 << bit if bit < 31 else -(2**31)
        digests.add(kernels.digest(changed, KEY.digest))
    swapped = master.clone()
    swapped[[3, 4]] = master[[4, 3]]
    digests |= {kernels.digest(swapped, KEY.digest), kernels.digest(master.roll(1), KEY.digest)}
    assert len(digests) == 2 + 32 + 2


@pytest.mark.parametrize("start", [2**34 - 2048, 2**41])
def test_kernels_work_at_offsets_beyond_32_bits(start):
    counter = (np.uint32(1), np.uint32(2))
    master, working = np.zeros(3000, np.float32), np.empty(3000, np.float32)
    cpu._perturb_float32(master, working, np.uint64(7), np.int64(start), *counter, np.float32(2**-20))
    noise = TorchKernels(torch.device("cpu")).noise(7, generation=1, pair=2, start=start, count=3000)
    assert torch.equal(torch.from_numpy(working), noise.float() * 2**-20)
    coefficients = np.array([3], dtype=np.int32)
    members = np.array([2], dtype=np.uint32)
    cpu._update(
        master, np.uint64(7), np.int64(start), np.uint32(1), members, coefficients, np.float64(2**-20)
    )
    assert torch.equal(torch.from_numpy(master), (noise.double() * 3 * 2**-20).float())


def test_number_of_threads_does_not_matter():
    results = []
    for threads in (1, 2, 3):
        kernels = CpuKernels(threads=threads)
        slots = [slot(magnitudes(size), torch.bfloat16) for size in (5, 700_000, 0, 262_145)]
        squares = kernels.update(slots, generation=0, pairs=[0, 1], coefficients=[5, -7], scale=1e-8)
        kernels.perturb(slots, generation=1, pair=0, scale=1e-8)
        digests = [kernels.digest(each.master, KEY.digest) for each in slots]
        results.append((squares, digests, torch.cat([each.working for each in slots])))
    for squares, digests, working in results[1:]:
        assert (squares, digests) == results[0][:2]
        assert torch.equal(working, results[0][2])


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


# Run in a process of its own: the package is a copy whose place and cache folder the test spoils.
PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from esft_worker.noise import cpu
assert cpu.__file__.startswith(sys.argv[1]), cpu.__file__
exec(sys.argv[2])
print(cpu.CpuKernels().noise(1, generation=0, pair=0, start=0, count=4).tolist())
"""


def probe(package: Path, environment: dict[str, str], statement: str = "") -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, str(package), statement],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=package,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout.strip()


@pytest.fixture(name="package")
def _package(tmp_path):
    source = Path(esft_worker.noise.__file__).parent
    target = tmp_path / "lib" / "esft_worker" / "noise"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target.parent / "__init__.py").touch()
    (target / "__pycache__").touch()  # a file: no folder can be made here, not even by root
    return target.parent.parent


def expected() -> str:
    return str(CpuKernels().noise(1, generation=0, pair=0, start=0, count=4).tolist())


def test_works_where_no_cache_folder_is_writable(package):
    check = (
        "from numba.core.caching import NullCache; assert isinstance(cpu._noise._compiled._cache, NullCache)"
    )
    assert probe(package, {"XDG_CACHE_HOME": "/dev/null"}, check) == expected()


def test_works_when_the_cache_cannot_be_written(package, tmp_path):
    cache = tmp_path / "cache"
    spoil = f"import shutil; shutil.rmtree({str(cache)!r}); open({str(cache)!r}, 'w').close()"
    assert probe(package, {"NUMBA_CACHE_DIR": str(cache)}, spoil) == expected()


def test_works_when_the_cache_is_damaged(package, tmp_path):
    cache = tmp_path / "cache"
    probe(package, {"NUMBA_CACHE_DIR": str(cache)})
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for path in files:
        path.write_bytes(path.read_bytes()[:20])
    assert probe(package, {"NUMBA_CACHE_DIR": str(cache)}) == expected()
