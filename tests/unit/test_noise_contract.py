import hashlib
import itertools
import math
import struct

import numpy as np
import pytest
import torch

from esft_worker.noise import Slot, Step, combine_digests, contract, tensor_key, torch_ops
from esft_worker.noise.torch_ops import TorchKernels

GOLDEN_KEYS = (14096639574070430911, 7449498828997408762)
GOLDEN_NOISE = [-460798, -393501, 758344, -2102628, 1359188, -721555]
TABLE_SHA256 = "f1c087ff4e17c54b4c0be3c0871c0b89d6dca23b62b70c23869e2809efbb1c22"

# kat_vectors of Random123 (Salmon et al.): counter, key, words.
PHILOX_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX_ANSWERS)
def test_philox_gives_the_published_words(counter, key, words):
    (block,) = struct.unpack("<q", struct.pack("<II", *counter[:2]))
    got = torch_ops._words(
        torch.tensor([block]), key=key[0] | key[1] << 32, generation=counter[2], pair=counter[3]
    )
    assert tuple(got.tolist()) == words


def test_noise_of_version_1_never_changes():
    kernels = TorchKernels(torch.device("cpu"))
    key = tensor_key(seed=42, name="model.embed_tokens.weight")
    assert (key.noise, key.digest) == GOLDEN_KEYS
    got = kernels.noise(key.noise, generation=7, pair=3, start=2**33 + 1, count=6)
    assert got.dtype == torch.int32
    assert got.tolist() == GOLDEN_NOISE


def test_table_of_version_1_never_changes():
    table = contract.quantile_table()
    assert table.shape == (2048,)
    assert hashlib.sha256(table.astype("<u4").tobytes()).hexdigest() == TABLE_SHA256


def test_table_falls_from_the_tail_to_the_centre():
    # Octave by octave, from the rarest words on: the table begins with octave 1, octave 0 is its last row.
    base = np.roll(contract.quantile_table() >> contract.SLOPE_BITS, 64)
    populated = base[base > 0].astype(np.int64)
    assert (np.diff(populated) < 0).all()
    assert populated[0] / 2**20 > 6


@pytest.mark.parametrize("word", [0, 1, 2, 3, 2**31, 2**32 - 1, 2**32 - 2])
def test_extreme_words_give_normals_within_bounds(word):
    (normal,) = TorchKernels(torch.device("cpu"))._normals(torch.tensor([word])).tolist()
    assert abs(normal) < 2**23
    (mirrored,) = TorchKernels(torch.device("cpu"))._normals(torch.tensor([word ^ 1])).tolist()
    assert mirrored == -normal


def test_no_product_leaves_32_bits():
    table = contract.quantile_table().astype(np.int64)
    slope, base = table & 0x1FF, table >> contract.SLOPE_BITS
    fall = slope * (2**contract.FRACTION_BITS - 1)
    assert fall.max() < 2**31
    assert (base - (fall >> contract.FALL_SHIFT))[base > 0].min() >= -2  # the last chord ends a little past 0
    assert base.max() < 2**23


def test_any_part_of_the_noise_can_be_made_alone():
    kernels = TorchKernels(torch.device("cpu"))
    whole = kernels.noise(1, generation=2, pair=3, start=0, count=40)
    for start, count in itertools.product(range(9), (1, 2, 7, 20)):
        part = kernels.noise(1, generation=2, pair=3, start=start, count=count)
        assert torch.equal(part, whole[start : start + count])


def test_keys_tell_seeds_and_names_apart():
    keys = [tensor_key(seed=seed, name=name) for seed in (1, 2, 12) for name in ("a", "b", "2a")]
    assert len({key.noise for key in keys}) == len(keys)
    assert len({key.digest for key in keys}) == 3  # weights have the same digest whatever the run's seed
    assert all(0 <= word < 2**64 for key in keys for word in (key.noise, key.digest))


def test_combined_digest_depends_on_names_and_values_not_on_order():
    pairs = [("a", 1), ("b", 2**64 - 1)]
    digest = combine_digests(pairs)
    assert digest == combine_digests(reversed(pairs))
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    assert digest != combine_digests([("a", 2**64 - 1), ("b", 1)])
    assert digest != combine_digests([("a", 1)])


@pytest.mark.parametrize("sigma", [1e-3, 0.02, 1.0, 1e-30])
def test_scales_are_what_the_contract_says(sigma):
    scale = contract.perturbation_scale(sigma=sigma, sign=-1)
    assert scale == -float(np.float32(sigma)) / 2**20
    assert scale == float(np.float32(scale))
    assert contract.update_scale(step=1 / 3, exponent=-24) == math.ldexp(1 / 3, -44)


@pytest.mark.parametrize(("generation", "pair"), [(-1, 0), (2**32, 0), (0, -1), (0, 2**32)])
def test_counters_that_do_not_fit_are_refused(generation, pair):
    kernels = TorchKernels(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"2\*\*32"):
        kernels.noise(0, generation=generation, pair=pair, start=0, count=1)


def step(pairs: tuple[int, ...], coefficients: tuple[int, ...], *, generation: int = 0) -> Step:
    return Step(generation, pairs, coefficients, 1.0)


def test_the_largest_steps_are_taken():
    assert step(tuple(range(65_536)), (2**24,) * 65_536).scale == 1.0
    assert step(tuple(range(32_768)), (-(2**25),) * 32_768).scale == 1.0
    assert step((), ()).pairs == ()
    assert step((2**32 - 1,), (1,), generation=2**32 - 1).generation == 2**32 - 1


@pytest.mark.parametrize(
    ("pairs", "coefficients", "message"),
    [
        (tuple(range(65_537)), (2**24,) * 65_537, "65536 members"),
        ((0,), (2**25 + 1,), r"2\*\*24"),
        ((0,), (-(2**25) - 1,), r"2\*\*24"),
        ((0, 1), (1,), "2 members with 1 coefficients"),
        ((2**32,), (1,), r"2\*\*32"),
        ((0, -1), (1, 1), r"2\*\*32"),
    ],
)
def test_steps_that_could_overflow_are_refused(pairs, coefficients, message):
    with pytest.raises(ValueError, match=message):
        step(pairs, coefficients)


@pytest.mark.parametrize("generation", [-1, 2**32])
def test_steps_of_generations_that_do_not_fit_are_refused(generation):
    with pytest.raises(ValueError, match=r"2\*\*32"):
        step((0,), (1,), generation=generation)


@pytest.mark.parametrize(
    ("master", "working", "error"),
    [
        (torch.zeros(4, dtype=torch.float64), torch.zeros(4), TypeError),
        (torch.zeros(4), torch.zeros(4, dtype=torch.float64), TypeError),
        (torch.zeros(4), torch.zeros(5), ValueError),
        (torch.zeros(2, 2), torch.zeros(2, 2), ValueError),
        (torch.zeros(4), torch.zeros(8)[::2], ValueError),
    ],
)
def test_slots_that_kernels_could_not_work_on_are_refused(master, working, error):
    with pytest.raises(error):
        Slot(tensor_key(seed=0, name="a"), master, working)


@pytest.mark.parametrize("start", [-1024, 1, 1023, 2**40 + 4])
def test_slots_that_begin_within_a_chunk_are_refused(start):
    with pytest.raises(ValueError, match="multiple of 1024"):
        Slot(tensor_key(seed=0, name="a"), torch.zeros(4), torch.zeros(4), start)
