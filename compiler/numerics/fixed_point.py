"""Fixed-point factors and the one rounding that every target must reproduce.

A real factor r > 0 is held as m / 2**s with m in [2**30, 2**31), rounded to nearest once, here.
Rescaling an integer a is floor(a * m / 2**s + 1/2): half up, of the exact product. Because nested
floors compose, Arm's SQDMULH followed by SRSHL, OpenCL's mul_hi followed by an add and a shift, and
a 64-bit multiply, add and shift are all this function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.numerics.element import Array

MULTIPLIER_BITS = 31
# 2**30 / 2**62 moves every int32 by at most half a unit; smaller factors are indistinguishable from it.
MAX_SHIFT = 62


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The factor multiplier / 2**shift; multiplier in [2**30, 2**31), shift in [1, 62]."""

    multiplier: int
    shift: int

    def __post_init__(self) -> None:
        if not (1 << 30) <= self.multiplier < (1 << 31):
            raise ValueError(f"multiplier {self.multiplier} is outside [2**30, 2**31)")
        if not 1 <= self.shift <= MAX_SHIFT:
            raise ValueError(f"shift {self.shift} is outside [1, {MAX_SHIFT}]")

    @property
    def value(self) -> float:
        return math.ldexp(self.multiplier, -self.shift)

    @classmethod
    def nearest(cls, factor: float) -> FixedPoint:
        """The fixed-point factor nearest to `factor`.

        Errors: ValueError unless 0 < factor < 2**30 (a larger one would shift an accumulator out).
        """
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"a rescaling factor must be positive and finite, not {factor!r}")
        fraction, exponent = math.frexp(factor)  # factor = fraction * 2**exponent, fraction in [1/2, 1)
        multiplier = math.floor(math.ldexp(fraction, MULTIPLIER_BITS) + 0.5)
        if multiplier == 1 << MULTIPLIER_BITS:
            multiplier, exponent = multiplier // 2, exponent + 1
        shift = MULTIPLIER_BITS - exponent
        if shift < 1:
            raise ValueError(f"a rescaling factor must be below 2**30, not {factor!r}")
        if shift > MAX_SHIFT:
            return cls(1 << 30, MAX_SHIFT)
        return cls(multiplier, shift)


def nearest_factors(factors: Sequence[float] | Array) -> tuple[Array, Array]:
    """Multipliers and shifts (two int32 arrays of the same length) of per-channel real factors."""
    fixed = [FixedPoint.nearest(float(f)) for f in factors]
    return (
        np.array([f.multiplier for f in fixed], np.int32),
        np.array([f.shift for f in fixed], np.int32),
    )


def rescale(accumulator: Array, multiplier: Array | int, shift: Array | int) -> Array:
    """floor(accumulator * multiplier / 2**shift + 1/2) as int64; arguments broadcast.

    accumulator: integers in the int32 range, so that the product with a 31-bit multiplier fits int64.
    """
    product = np.asarray(accumulator, np.int64) * np.asarray(multiplier, np.int64)
    s = np.asarray(shift, np.int64)
    return (product + (np.int64(1) << (s - 1))) >> s


def requantize(
    accumulator: Array, multiplier: Array | int, shift: Array | int, zero_point: int, low: int, high: int
) -> Array:
    """clamp(zero_point + rescale(accumulator), low, high) as int32."""
    return np.clip(rescale(accumulator, multiplier, shift) + zero_point, low, high).astype(np.int32)


def bipolar(total: Array, low: int = -1, high: int = 1) -> Array:
    """clamp(+1 where total >= 0, else -1, low, high) as int32: what requantizing to b1 means.

    total: exact integers of any positive scale, a bias included. No factor is needed, so nothing is rounded:
    a batch norm and a sign behind a layer are a threshold for each of its channels.
    """
    return np.clip(np.where(np.asarray(total) >= 0, 1, -1), low, high).astype(np.int32)


@dataclass(frozen=True, slots=True)
class SumFactors:
    """Factors of floor((a * multiplier_a + b * multiplier_b) / 2**shift + 1/2)."""

    multiplier_a: int
    multiplier_b: int
    shift: int

    @classmethod
    def nearest(
        cls, factor_a: float, factor_b: float, limit_a: int, limit_b: int, bits: int = 31
    ) -> SumFactors:
        """The most precise factors for which the sum and its rounding term stay below 2**bits.

        factor_a, factor_b: real factors, of either sign (subtraction is a negative factor_b).
        limit_a, limit_b: largest magnitudes of a and b.
        Errors: ValueError where no shift in [1, bits) fits (a factor too large for its operand).
        """
        for shift in range(bits - 1, 0, -1):
            ma, mb = (math.floor(math.ldexp(f, shift) + 0.5) for f in (factor_a, factor_b))
            if max(abs(ma), abs(mb)) >= 1 << 31:
                continue
            if limit_a * abs(ma) + limit_b * abs(mb) + (1 << (shift - 1)) < 1 << bits:
                return cls(ma, mb, shift)
        raise ValueError(f"factors {factor_a!r} and {factor_b!r} do not fit a sum of {bits} bits")

    def apply(self, a: Array, b: Array) -> Array:
        """The sum as int64; a and b broadcast. Exact for up to 63 bits."""
        total = np.asarray(a, np.int64) * self.multiplier_a + np.asarray(b, np.int64) * self.multiplier_b
        return (total + (1 << (self.shift - 1))) >> self.shift
