"""Is the noise normal and independent? Seeds are fixed, so a test that passes goes on passing.

Each threshold is set so that a perfect source would exceed it with a probability of at most 1e-6 a test
(`FALSE_ALARM`), shared among the statistics that the test looks at.
"""

import itertools
import math
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import NormalDist

import numba
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from esft_worker.noise import contract, tensor_key
from esft_worker.noise.cpu import CpuKernels
from noise_parts import normal_integers

pytestmark = pytest.mark.integration

FALSE_ALARM = 1e-6
SAMPLES = 10**9
BIN_BITS = 10  # a bin holds 2**10 neighbouring integers, 2**-10 standard deviations
BINS = 2**14  # integers lie within +-2**23
EDGES = np.arange(-BINS // 2, BINS // 2 + 1) * 2.0 ** (BIN_BITS + contract.UNIT_EXPONENT)
ROOT = Path(__file__).parent.parent.parent


def deviations(statistics: int) -> float:
    """Standard errors that the largest of so many normal statistics exceeds with probability FALSE_ALARM."""
    return -NormalDist().inv_cdf(FALSE_ALARM / (2 * statistics))


def normals(*, count: int, seed: int = 1, name: str = "w", **place: int) -> np.ndarray:
    where = {"generation": 0, "pair": 0} | place
    key = tensor_key(seed=seed, name=name).noise
    integers = normal_integers(CpuKernels(), key, count=count, **where)
    return integers.numpy() * 2.0**contract.UNIT_EXPONENT


def test_shipped_table_is_made_by_the_script_and_has_the_moments_of_the_normal_distribution():
    table, moments = runpy.run_path(str(ROOT / "hack" / "make_quantiles.py"))["make"]()
    assert np.array_equal(table, contract.quantile_table())
    assert moments["E|z|"] == pytest.approx(math.sqrt(2 / math.pi), abs=1e-7)
    assert moments["E z**2"] == pytest.approx(1, abs=1e-7)
    assert moments["E z**4"] == pytest.approx(3, abs=1e-6)
    assert moments["E z**6"] == pytest.approx(15, abs=1e-5)
    assert 6.2 < moments["max |z|"] < 6.3


@numba.njit(nogil=True)
def count(counts, integers):
    for integer in integers:
        counts[(integer >> BIN_BITS) + BINS // 2] += 1


@numba.njit(nogil=True)
def count_every_word(counts, table):
    """Numbers of all 2**32 words in each bin: of both signs, and v is the same for two words."""
    for half in range(2**30):
        bits = np.float32(np.int32(2 * half + 1)).view(np.uint32)
        entry = table[(bits >> contract.FRACTION_BITS) & (2**contract.INDEX_BITS - 1)]
        slope, fraction = entry & (2**contract.SLOPE_BITS - 1), bits & (2**contract.FRACTION_BITS - 1)
        magnitude = np.int32(entry >> contract.SLOPE_BITS) - np.int32(slope * fraction >> contract.FALL_SHIFT)
        counts[(magnitude >> BIN_BITS) + BINS // 2] += 2
        counts[(-magnitude >> BIN_BITS) + BINS // 2] += 2


@pytest.fixture(name="histogram", scope="module")
def _histogram() -> npt.NDArray[np.int64]:
    """Bins of 10**9 normals, from 250 streams: 10 tensors, 5 generations, 5 pairs."""
    streams = list(itertools.product(range(10), range(5), range(5)))
    size = SAMPLES // len(streams)

    def part(stream: tuple[int, int, int]) -> npt.NDArray[np.int64]:
        tensor, generation, pair = stream
        key = tensor_key(seed=1, name=f"model.layers.{tensor}.weight").noise
        integers = normal_integers(CpuKernels(), key, generation=generation, pair=pair, count=size)
        counts = np.zeros(BINS, dtype=np.int64)
        count(counts, integers.numpy())
        return counts

    with ThreadPoolExecutor(2) as pool:
        total = sum(pool.map(part, streams))
    assert total.sum() == SAMPLES
    return total


@pytest.fixture(name="every_word", scope="module")
def _every_word() -> npt.NDArray[np.float64]:
    """Probability of each bin if words are uniform: what the table makes of the normal distribution."""
    counts = np.zeros(BINS, dtype=np.int64)
    count_every_word(counts, contract.quantile_table())
    assert counts.sum() == 2**32
    return counts / 2**32


def normal_bins() -> npt.NDArray[np.float64]:
    """Probability of each bin for the normal distribution, from the nearer tail: no digits cancel out."""
    upper = stats.norm.sf(EDGES[BINS // 2 :])
    half = upper[:-1] - upper[1:]
    return np.concatenate([half[::-1], half])


def chi_square(counts: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> float:
    """P-value; bins that expect less than 1000 are taken together."""
    expected = probabilities * counts.sum()
    large = expected >= 1000
    observed = np.append(counts[large], counts[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    return float(stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1))


def test_moments(histogram):
    # A bin's numbers are taken for its centre. That adds width**2 / 12 = 8e-8 to the variance, which the sample tells
    # to 4e-5, and 4e-6 to the sixth moment, which it tells to 3e-3; to odd ones it adds nothing.
    centres = (EDGES[:-1] + EDGES[1:]) / 2
    # Order k: mean and variance of z**k for a standard normal z.
    expected = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 5: (0, 945), 6: (15, 10_170)}
    for order, (mean, variance) in expected.items():
        error = (histogram @ centres**order / SAMPLES - mean) / math.sqrt(variance / SAMPLES)
        assert abs(error) < deviations(len(expected)), order


def test_kolmogorov_smirnov(histogram):
    # Looked at where bins end, which can only make the distance smaller, and for bins so narrow hardly does.
    distance = np.abs(np.cumsum(histogram) / SAMPLES - stats.norm.cdf(EDGES[1:])).max()
    assert distance * math.sqrt(SAMPLES) < stats.kstwobign.isf(FALSE_ALARM)


def test_the_table_makes_uniform_words_normal(every_word):
    # All words, not a sample. Their distance is a twentieth of what 10**9 numbers could tell.
    error = np.abs(np.cumsum(every_word) - stats.norm.cdf(EDGES[1:])).max()
    assert error < 4.0e-6
    assert error * math.sqrt(SAMPLES) < stats.kstwobign.isf(FALSE_ALARM) / 20


def test_density(histogram, every_word):
    # Within each of the table's segments, 0.01 wide, the density is flat. So 10**9 numbers would tell the table from
    # the normal distribution in bins of 2**-10, but not in bins of 2**-4.
    wide = (BINS // 64, 64)
    p_value = chi_square(histogram.reshape(wide).sum(axis=1), normal_bins().reshape(wide).sum(axis=1))
    assert p_value > FALSE_ALARM / 2
    assert chi_square(histogram, every_word) > FALSE_ALARM / 2


def test_tails_to_five_sigma(histogram):
    limits = [1, 2, 3, 4, 4.5, 5]
    for side, limit in itertools.product((1, -1), limits):
        beyond = int(
            histogram[EDGES[:-1] >= limit].sum() if side > 0 else histogram[EDGES[1:] <= -limit].sum()
        )
        p_value = stats.binomtest(beyond, SAMPLES, NormalDist().cdf(-limit)).pvalue
        assert p_value > FALSE_ALARM / (2 * len(limits)), (side, limit)
    occupied = EDGES[:-1][histogram > 0]
    assert -6.3 < occupied.min() < -5.5  # beyond 5.5 lie 19 of 10**9 normals a side
    assert 5.5 < occupied.max() < 6.3


def test_rare_words_reach_beyond_six_sigma():
    # Not waited for but looked up: P(|z| > 6) is 2e-9, which 2**32 words meet 8 times.
    table = contract.quantile_table() >> contract.SLOPE_BITS
    assert (table > 6 * 2**20).sum() >= 2


def test_streams_do_not_correlate():
    # Neighbours in each coordinate by itself, and both ends of the seeds' range.
    count = 2**18
    streams = [
        *({"seed": seed} for seed in (1, 2, 3, 4, 2**32 - 2, 2**32 - 1)),
        *({"name": f"model.layers.{layer}.mlp.weight"} for layer in range(8)),
        *({"generation": generation} for generation in (1, 2, 3, 4, 2**31, 2**32 - 1)),
        *({"pair": pair} for pair in (1, 2, 3, 4, 29, 65_535)),
        *({"generation": place, "pair": place} for place in (1, 2, 3)),
        *({"start": place * count} for place in (1, 2, 3, 2**20)),
    ]
    sample = np.stack([normals(count=count, **stream) for stream in streams])
    pairs = np.triu_indices(len(streams), k=1)
    assert len(pairs[0]) > 500
    for power in (1, 2, 3):
        correlation = np.corrcoef(sample**power)[pairs] * math.sqrt(count)
        assert np.abs(correlation).max() < deviations(3 * len(pairs[0])), power


@pytest.mark.parametrize("power", [1, 2])
def test_elements_of_a_stream_do_not_correlate(power):
    count, lags = 2**22, [*range(1, 17), 255, 256, 768, 1024, 4096]
    sample = normals(count=count + max(lags), name="lags") ** power
    sample = (sample - sample.mean()) / sample.std()
    for lag in lags:
        correlation = np.mean(sample[:count] * sample[lag : lag + count]) * math.sqrt(count)
        assert abs(correlation) < deviations(2 * len(lags)), lag


def test_shifted_streams_do_not_correlate():
    # Counters count blocks of 4 elements: a stream must not be another's, moved.
    count = 2**18
    first = normals(count=count)
    others = [normals(count=count, **other) for other in ({"pair": 1}, {"generation": 1}, {"seed": 2})]
    for other, lag in itertools.product(others, range(1, 65)):
        for ahead, behind in ((first, other), (other, first)):
            correlation = np.mean(ahead[lag:] * behind[: count - lag]) * math.sqrt(count - lag)
            assert abs(correlation) < deviations(3 * 64 * 2)


def test_sign_and_size_are_independent():
    sample = normals(count=2**22, name="signs")
    table = np.histogram2d(np.sign(sample), np.minimum(np.abs(sample), 4), bins=(2, 64))[0]
    assert stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue > FALSE_ALARM


def test_population_spans_all_directions():
    # The Gram matrix of 32 members over a small tensor: eigenvalues lie where Marchenko and Pastur put them.
    members, size = 32, 4096
    sample = np.stack([normals(count=size, name="bias", pair=pair) for pair in range(members)])
    eigenvalues = np.linalg.eigvalsh(sample @ sample.T / size)
    ratio = math.sqrt(members / size)
    # Deviation inequality for Gaussian matrices: P(excess > t) <= 2 exp(-size t**2 / 2).
    margin = math.sqrt(2 * math.log(2 / FALSE_ALARM) / size)
    assert (1 - ratio - margin) ** 2 < eigenvalues.min()
    assert eigenvalues.max() < (1 + ratio + margin) ** 2
