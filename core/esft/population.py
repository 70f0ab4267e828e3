"""Turns the fitness of a generation into its update: sampling, shaping, schedules, and the record of one update.

Source: "Evolution Strategies at Scale" (arXiv 2509.24372), algorithm 1; centred ranks are those of Salimans
et al. (arXiv 1703.03864). Member i has the weights theta_g + sigma_g eps_i and the fitness F_i, and the update is

    theta_{g+1} = theta_g + (alpha_g / N) sum_i c_i eps_i

with theta_g: weights at generation g; sigma_g, alpha_g: scale of the noise, learning rate; eps_i: noise of member
i; c_i: coefficient, F_i after shaping; N: members that have a fitness. The worker's weights.py applies it.

Pure functions of plain numbers: every worker that closes a generation computes the same record, bit for bit.
Hence only operations that IEEE 754 rounds exactly (+ - * / sqrt, and fsum for sums in any order); a cosine of
the C library may differ in the last bit between two images, so the one needed here is a polynomial.

A member without a usable fitness (NaN, or infinite: a mean of infinite rewards orders nothing) is outside all
statistics and gets coefficient 0. In antithetic sampling its partner still counts, alone: the step is then a
little less balanced, but nothing that was measured is thrown away.
"""

import math
from collections import Counter
from collections.abc import Sequence

from esft.records import UpdateRecord
from esft.spec import ScheduleKind, Shaping

COEFFICIENT_BITS = 24
"""Coefficients are integers of at most 2**24 in size, exact in float32."""

_SMALLEST_EXPONENT = -1074
"""Of a float64 (the least subnormal): `2.0**exponent` is never 0."""


def noise_source(member: int, *, antithetic: bool) -> tuple[int, int]:
    """Index j of the noise z_j that a member is perturbed with, and its sign (1 or -1).

    gaussian: eps_i = z_i; antithetic: eps_{2j} = z_j and eps_{2j+1} = -z_j.
    """
    if not antithetic:
        return member, 1
    return member // 2, 1 - 2 * (member % 2)


def shape(fitness: Sequence[float], shaping: Shaping) -> tuple[float, ...]:
    """Coefficients c_i of fitness F_i.

    Args:
        fitness: mean reward a member; NaN or infinite: none.
        shaping: `zscore`, c_i = (F_i - mean(F)) / std(F); `centeredRank`, c_i = rank(F_i) / (N - 1) - 1/2, ranks
            from 0 (worst), equal fitness sharing its mean rank; `raw`, c_i = F_i.

    Returns:
        One finite number a member, 0 where there is no fitness. All are 0 for zscore and centeredRank when
        all fitness is equal, one member alone included: there is nothing to learn from.
    """
    valid = [value for value in fitness if math.isfinite(value)]
    weights = _WEIGHTS[shaping](valid) if valid else {}
    return tuple(weights[value] if math.isfinite(value) else 0.0 for value in fitness)


def quantise(coefficients: Sequence[float]) -> tuple[tuple[int, ...], int]:
    """Block floating point: integers k_i and one exponent e with c_i = k_i * 2**e, nearly.

    The error of a c_i is at most 2**-24 of the largest coefficient in size; e is at least -1074.

    Args:
        coefficients: finite numbers.

    Returns:
        The integers, at most 2**24 in size, and the exponent; all zeros give exponent 0.

    Raises:
        ValueError: a coefficient is not finite.
    """
    if not all(map(math.isfinite, coefficients)):
        raise ValueError(f"coefficients must be finite, got {coefficients!r}")
    largest = max(map(abs, coefficients), default=0.0)
    if largest == 0.0:
        return (0,) * len(coefficients), 0
    exponent = max(math.frexp(largest)[1] - COEFFICIENT_BITS, _SMALLEST_EXPONENT)
    return tuple(round(math.ldexp(value, -exponent)) for value in coefficients), exponent


def scheduled(initial: float, kind: ScheduleKind, generation: int, generations: int) -> float:
    """Scheduled value x_g, sigma_g or alpha_g, of x_0 = `initial` and G = `generations`.

    constant: x_g = x_0; linear: x_g = x_0 (1 - g / G); cosine: x_g = x_0 (1 + cos(pi g / G)) / 2.
    Before the start or past the end, x_g is that of the start or end. Raising `generations`
    during a run changes what remains of a falling schedule.
    """
    if kind == "constant":
        return initial
    progress = min(max(generation / max(generations, 1), 0.0), 1.0)
    if kind == "linear":
        return initial * (1.0 - progress)
    return initial * _half_cosine(progress)


def update_record(
    shaping: Shaping, *, generation: int, sigma: float, learning_rate: float, fitness: Sequence[float]
) -> UpdateRecord:
    """The update that the fitness of a whole generation calls for: alpha_g / N and all c_i.

    Args:
        shaping: what turns fitness into coefficients.
        generation: the generation whose members were scored.
        sigma: sigma_g, the scale of the noise they were perturbed with.
        learning_rate: alpha_g, with 1 / sigma folded in.
        fitness: mean reward a member, in order; NaN for a member that is missing or gave no usable output.

    Returns:
        The record, without what else was measured; its step is alpha_g / N, 0 when no member has a fitness.
    """
    usable = tuple(value if math.isfinite(value) else math.nan for value in fitness)
    valid = sum(not math.isnan(value) for value in usable)
    coefficients, exponent = quantise(shape(usable, shaping))
    return UpdateRecord(
        generation=generation,
        sigma=sigma,
        step=learning_rate / valid if valid else 0.0,
        exponent=exponent,
        coefficients=coefficients,
        fitness=usable,
    )


def _zscores(valid: Sequence[float]) -> dict[float, float]:
    """Standard score (F_i - mean(F)) / std(F) of each distinct fitness; std of the population: divided by N.

    Scores do not change under scaling and shifting, so fitness is first scaled by a power of two and measured
    from its minimum: huge values do not overflow, and values that are nearly equal keep the digits that tell
    them apart.
    """
    exponent = math.frexp(max(map(abs, valid)))[1]
    lowest = math.ldexp(min(valid), -exponent)
    offsets = [math.ldexp(value, -exponent) - lowest for value in valid]
    if max(offsets) == 0.0:
        return dict.fromkeys(valid, 0.0)
    mean = math.fsum(offsets) / len(offsets)
    deviations = [offset - mean for offset in offsets]
    std = math.sqrt(math.fsum(deviation * deviation for deviation in deviations) / len(deviations))
    return {value: deviation / std for value, deviation in zip(valid, deviations, strict=True)}


def _centred_ranks(valid: Sequence[float]) -> dict[float, float]:
    """rank(F_i) / (N - 1) - 1/2 of each distinct fitness; ties share their mean rank, one alone has 0."""
    last = len(valid) - 1
    ranks: dict[float, float] = {}
    below = 0
    for value, ties in sorted(Counter(valid).items()):
        twice_mean_rank = 2 * below + ties - 1
        ranks[value] = (twice_mean_rank - last) / (2 * last) if last else 0.0
        below += ties
    return ranks


def _raw(valid: Sequence[float]) -> dict[float, float]:
    return {value: value for value in valid}


_WEIGHTS = {"zscore": _zscores, "centeredRank": _centred_ranks, "raw": _raw}


def _half_cosine(progress: float) -> float:
    """(1 + cos(pi * progress)) / 2 for progress from 0 to 1: error below 1e-15, the same on every machine.

    It is cos(pi * progress / 2)**2, or 1 - sin(...)**2 in the first half: Taylor's series of the sine up to
    pi / 4.
    """
    first_half = progress <= 0.5  # noqa: PLR2004
    angle = math.pi / 2 * (progress if first_half else 1.0 - progress)
    square = angle * angle
    sine = 0.0
    for order in range(17, 0, -2):
        sine = 1.0 - square / ((order + 1) * (order + 2)) * sine
    sine *= angle
    return 1.0 - sine * sine if first_half else sine * sine
