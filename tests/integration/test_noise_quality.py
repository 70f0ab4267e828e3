"""Is the noise normal and independent? Seeds are fixed, so a test that passes goes on passing.

Each threshold is set so that a perfect source would exceed it with a probability of at most 1e-6 a test
(`FALSE_ALARM`), shared among the statistics that the test looks at.
"""

import itertools
import math
import runpy
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from esft_worker.noise import CpuKernels, contract, tensor_key

pytestmark = pytest.mark.integration

FALSE_ALARM = 1e-6
ROOT = Path(__file__).parent.parent.parent


def deviations(statistics: int) -> float:
    """Standard errors that the largest of so many normal statistics exceeds with probability FALSE_ALARM."""
    return -NormalDist().inv_cdf(FALSE_ALARM / (2 * statistics))


def normals(*, count: int, seed: int = 1, name: str = "w", **place: int) -> np.ndarray:
    where = {"generation": 0, "pair": 0, "start": 0} | place
    integers = CpuKernels().noise(tensor_key(seed=seed, name=name).noise, count=count, **where)
    return integers.numpy() * 2.0**contract.UNIT_EXPONENT


def test_shipped_table_is_made_by_the_script_and_has_the_moments_of_the_normal_distribution():
    table, moments = runpy.run_path(str(ROOT / "hack" / "make_quantiles.py"))["make"]()
    assert np.array_equal(table, contract.quantile_table())
    assert moments["E|z|"] == pytest.approx(math.sqrt(2 / math.pi), abs=1e-7)
    assert moments["E z**2"] == pytest.approx(1, abs=1e-7)
    assert moments["E z**4"] == pytest.approx(3, abs=1e-6)
    assert moments["E z**6"] == pytest.approx(15, abs=1e-5)
    assert 6.2 < moments["max |z|"] < 6.3


def test_moments():
    count = 2**23
    sample = normals(count=count, name="moments")
    # Order k: mean and variance of z**k for a standard normal z.
    expected = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 5: (0, 945), 6: (15, 10_170)}
    power = np.ones_like(sample)
    for order in range(1, 7):
        power *= sample
        mean, variance = expected[order]
        error = (power.mean() - mean) / math.sqrt(variance / count)
        assert abs(error) < deviations(len(expected)), order


def test_kolmogorov_smirnov():
    for seed in range(4):
        assert stats.kstest(normals(count=2**20, seed=seed), "norm").pvalue > FALSE_ALARM / 4


def test_tails_to_five_sigma():
    chunk, chunks = 2**22, 64
    limits = [1, 2, 3, 4, 4.5, 5]
    beyond = np.zeros((2, len(limits)), dtype=int)
    largest = 0.0
    for part in range(chunks):
        sample = normals(count=chunk, name="tails", start=part * chunk)
        largest = max(largest, float(np.abs(sample).max()))
        for place, limit in enumerate(limits):
            beyond[:, place] += (sample > limit).sum(), (sample < -limit).sum()
    for side, place in itertools.product(range(2), range(len(limits))):
        trials, probability = chunk * chunks, NormalDist().cdf(-limits[place])
        p_value = stats.binomtest(int(beyond[side, place]), trials, probability).pvalue
        assert p_value > FALSE_ALARM / beyond.size, limits[place]
    assert 5 < largest < 6.3


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
