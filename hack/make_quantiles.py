"""Make the quantile table of the noise (docs/numerics.md): `python hack/make_quantiles.py [--check]`.

The table turns a 31-bit integer into a normal one without any function whose last digit depends on the
device. It is made once and shipped; this script says where its numbers come from and shows what they are
worth. It needs NumPy only, and prints the moments of the distribution that the table stands for, computed
over every segment.

Rejected: interpolating between exact quantiles. A chord lies on one side of the curve, so that the variance
comes out wrong by 1e-5; here each segment keeps the mean that the normal distribution has over it.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

TABLE = Path(__file__).parent.parent / "worker" / "esft_worker" / "noise" / "quantiles.bin"
OCTAVES = 31  # v is odd and below 2**31: octave k holds 2**k <= v < 2**(k + 1)
SEGMENTS = 64  # a segment is named by the exponent and the top 6 bits of the mantissa of float32(v)
FRACTION_BITS = 17  # the mantissa bits that are left
UNIT = 2**20  # a normal number is an integer in units of 2**-20
SLOPE_UNIT = 32  # what the 9 bits of a slope count
SLOPE_BITS = 9
INDEX_BITS = 11

NORMAL = NormalDist()


def segment_index(octave: int, segment: int) -> int:
    """Place in the table: the low 5 bits of the biased float32 exponent, then the top 6 of the mantissa."""
    return ((octave + 127) * SEGMENTS + segment) % 2**INDEX_BITS


def segment_mean(low: float, high: float) -> float:
    """E[z | low < p < high] of a standard normal z with upper tail probability p, 0 <= low < high <= 1/2."""
    density_at_low = NORMAL.pdf(NORMAL.inv_cdf(low)) if low > 0 else 0.0
    return (NORMAL.pdf(NORMAL.inv_cdf(high)) - density_at_low) / (high - low)


def fractions(octave: int) -> npt.NDArray[np.int64]:
    """The values that the low mantissa bits take in a segment of this octave, in equal shares.

    From octave 24 on, float32(v) rounds; what that moves across a segment's edges balances.
    """
    if octave < OCTAVES - 24:
        return np.zeros(1, dtype=np.int64)
    step = 2 ** max(0, 23 - octave)
    return np.arange(step if octave <= 23 else 0, 2**FRACTION_BITS, 2 * step if octave <= 23 else 1)  # noqa: PLR2004


def populated(octave: int, segment: int) -> tuple[int, int] | None:
    """The interval of v, [low, high), whose odd numbers fall into the segment; None if there are none."""
    width = 2**octave / SEGMENTS
    if width >= 2:  # noqa: PLR2004
        low = 2**octave + int(segment * width)
        return low, low + int(width)
    value = 2**octave + segment * width
    return (int(value) - 1, int(value) + 1) if value % 2 == 1 else None


def make() -> tuple[npt.NDArray[np.uint32], dict[str, float]]:
    """The table, and the moments of the positive half of the distribution that it stands for."""
    table = np.zeros(2**INDEX_BITS, dtype=np.uint32)  # octave 31, v rounded up to 2**31, stays 0: there z = 0
    moments = {"E|z|": 0.0, "E z**2": 0.0, "E z**4": 0.0, "E z**6": 0.0, "max |z|": 0.0}
    for octave in range(OCTAVES):
        fraction = fractions(octave)
        for segment in range(SEGMENTS):
            interval = populated(octave, segment)
            if interval is None:
                continue
            low, high = (bound / 2**32 for bound in interval)
            slope = 0
            if fraction.size > 1:
                rise = (NORMAL.inv_cdf(high) - NORMAL.inv_cdf(low)) * UNIT
                slope = round(rise / SLOPE_UNIT)
            fall = (slope * fraction) >> (FRACTION_BITS - SLOPE_UNIT.bit_length() + 1)
            base = round(segment_mean(low, high) * UNIT + fall.mean())
            if not (0 <= slope < 2**SLOPE_BITS and 0 <= base < 2 ** (32 - SLOPE_BITS)):
                raise ArithmeticError(f"octave {octave}, segment {segment}: {base}, {slope} do not fit")
            table[segment_index(octave, segment)] = base << SLOPE_BITS | slope
            normal = (base - fall) / UNIT
            moments["max |z|"] = max(moments["max |z|"], float(normal.max()))
            for name, power in (("E|z|", 1), ("E z**2", 2), ("E z**4", 4), ("E z**6", 6)):
                moments[name] += 2 * (high - low) * float(np.mean(normal**power))
    return table, moments


def main() -> int:
    """Write the table, or say whether the shipped one is what this script makes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with the shipped table, write nothing")
    check = parser.parse_args().check
    table, moments = make()
    content = table.astype("<u4").tobytes()
    for name, value in moments.items():
        print(f"{name:8} {value:.9f}")
    print(f"SHA-256  {hashlib.sha256(content).hexdigest()}")
    if check:
        return int(TABLE.read_bytes() != content)
    TABLE.write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
