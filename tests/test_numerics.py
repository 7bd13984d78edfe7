"""Laws of the only code that rounds: fixed-point factors, packing, quantization, tables."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.numerics.element import ElementType
from compiler.numerics.fixed_point import (
    MAX_SHIFT,
    FixedPoint,
    SumFactors,
    nearest_factors,
    requantize,
    rescale,
)
from compiler.numerics.packing import pack, unpack
from compiler.numerics.quantization import (
    Quantization,
    QuantizedType,
    dequantize_array,
    dequantize_float32,
    from_range,
    quantize_array,
    quantize_float32,
    reciprocal_scale,
    symmetric_scales,
)
from compiler.numerics.tables import KNOT_BITS, look_up, lookup_table

I8, I16 = ElementType.I8, ElementType.I16
int32 = st.integers(-(2**31), 2**31 - 1)
multipliers = st.integers(1 << 30, (1 << 31) - 1)
shifts = st.integers(1, MAX_SHIFT)
HALF = Fraction(1, 2)


@given(int32, multipliers, shifts)
def test_rescale_is_the_exact_product_rounded_half_up(a: int, m: int, s: int) -> None:
    assert int(rescale(np.array(a), m, s)) == math.floor(Fraction(a * m, 2**s) + HALF)


@given(int32, multipliers, st.integers(32, MAX_SHIFT))
def test_rescale_is_a_doubling_high_multiply_then_a_rounding_shift(a: int, m: int, s: int) -> None:
    """SQDMULH then SRSHL: nested floors compose."""
    high = (a * m) >> 31
    assert int(rescale(np.array(a), m, s)) == (high + (1 << (s - 32))) >> (s - 31)


@given(st.floats(2**-30, 2**29, allow_nan=False))
def test_the_nearest_factor_is_within_half_a_unit(factor: float) -> None:
    fixed = FixedPoint.nearest(factor)
    assert abs(Fraction(factor) - Fraction(fixed.multiplier, 2**fixed.shift)) <= Fraction(
        1, 2 ** (fixed.shift + 1)
    )
    assert FixedPoint.nearest(fixed.value) == fixed


@given(st.floats(0, 2**-32, exclude_min=True))
def test_tiny_factors_rescale_to_at_most_one_half(factor: float) -> None:
    fixed = FixedPoint.nearest(factor)
    assert abs(int(rescale(np.array(-(2**31)), fixed.multiplier, fixed.shift))) <= 1


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan, 2.0**30])
def test_unusable_factors_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="a rescaling factor must be"):
        FixedPoint.nearest(factor)


def test_factors_of_channels_are_those_of_each() -> None:
    m, s = nearest_factors([0.25, 3.0])
    assert [FixedPoint(int(a), int(b)) for a, b in zip(m, s, strict=True)] == [
        FixedPoint.nearest(0.25),
        FixedPoint.nearest(3.0),
    ]


@given(int32, multipliers, shifts, st.integers(-128, 127), st.integers(-128, 0), st.integers(1, 127))
def test_requantize_clamps_after_the_zero_point(
    a: int, m: int, s: int, zero: int, low: int, high: int
) -> None:
    exact = math.floor(Fraction(a * m, 2**s) + HALF) + zero
    assert int(requantize(np.array(a), m, s, zero, low, high)) == max(low, min(high, exact))


factors = st.floats(2**-20, 16).flatmap(lambda f: st.sampled_from([f, -f]))


@given(factors, factors, st.integers(1, 65535), st.integers(1, 65535))
def test_sums_fit_and_no_larger_shift_would(fa: float, fb: float, a: int, b: int) -> None:
    sums = SumFactors.nearest(fa, fb, a, b)
    assert a * abs(sums.multiplier_a) + b * abs(sums.multiplier_b) + (1 << (sums.shift - 1)) < 1 << 31
    for f, m in ((fa, sums.multiplier_a), (fb, sums.multiplier_b)):
        assert abs(Fraction(f) * 2**sums.shift - m) <= HALF
    if sums.shift < 30:
        ma, mb = (math.floor(f * 2 ** (sums.shift + 1) + 0.5) for f in (fa, fb))
        largest = a * abs(ma) + b * abs(mb) + (1 << sums.shift)
        assert largest >= 1 << 31 or max(abs(ma), abs(mb)) >= 1 << 31


def test_sums_that_cannot_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit a sum of 31 bits"):
        SumFactors.nearest(1e9, 1.0, 255, 255)


codes_of = st.sampled_from([e for e in ElementType if e.is_code]).flatmap(
    lambda e: st.tuples(
        st.just(e),
        st.lists(
            st.sampled_from([-1, 1]) if e is ElementType.B1 else st.integers(e.low, e.high), max_size=40
        ),
    )
)


@given(codes_of)
def test_packing_round_trips(drawn: tuple[ElementType, list[int]]) -> None:
    element, codes = drawn
    packed = pack(np.array(codes, element.dtype), element)
    assert packed.size == element.bytes_for(len(codes))
    assert unpack(packed, element, len(codes)).tolist() == codes


def test_the_first_element_lies_in_the_lowest_bits() -> None:
    assert pack(np.array([1, -1, 0]), ElementType.I4).tolist() == [0xF1, 0x00]
    assert pack(np.array([1, -1, -1, 1]), ElementType.B1).tolist() == [0b1001]
    assert pack(np.array([0x0102]), I16).tolist() == [2, 1]


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="codes \\[-3, 1\\] do not fit i2"):
        pack(np.array([1, -3]), ElementType.I2)


reals = st.floats(-1e4, 1e4, width=32)


@given(reals, reals, st.sampled_from([I8, I16, ElementType.I4]))
def test_a_range_contains_zero_exactly_and_its_ends_within_a_step(
    a: float, b: float, element: ElementType
) -> None:
    low, high = min(a, b), max(a, b)
    q = from_range(low, high, element)
    of = QuantizedType(element, q)
    assert element.low <= q.zero_point <= element.high
    assert dequantize_array(np.array(q.zero_point), of) == 0
    for end in (low, high):
        back = float(dequantize_array(quantize_array(np.array(end), of), of))
        assert abs(back - end) <= q.scale * 1.001


scales = st.floats(2**-20, 2**10, width=32)


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20), scales, st.integers(-128, 127)
)
def test_quantizing_rounds_each_float32_operation_once(x: list[float], scale: float, zero: int) -> None:
    to = QuantizedType(I8, Quantization((scale,), zero))
    got = quantize_float32(np.array(x, np.float32), to)
    for value, code in zip(x, got.tolist(), strict=True):
        with np.errstate(over="ignore"):
            product = np.float32(np.float32(value) * reciprocal_scale(scale))
            total = float(np.float32(product + np.float32(0.5)))
        floor = total if math.isinf(total) else math.floor(total)
        assert code == max(-128 - zero, min(127 - zero, floor)) + zero


@given(st.integers(-128, 127), scales, st.integers(-128, 127))
def test_real_values_of_codes_quantize_back(code: int, scale: float, zero: int) -> None:
    of = QuantizedType(I8, Quantization((scale,), zero))
    assert int(quantize_float32(dequantize_float32(np.array(code), of), of)) == code


def test_a_nan_gives_the_highest_code() -> None:
    to = QuantizedType(I8, Quantization((1.0,), 3))
    assert quantize_float32(np.array([np.nan], np.float32), to).tolist() == [127]


def test_symmetric_scales_map_the_largest_weight_to_the_limit() -> None:
    weights = np.array([[1.0, -2.0], [0.0, 0.0], [0.5, 0.25]])
    q = symmetric_scales(weights, 0, I8)
    codes = quantize_array(weights, QuantizedType(I8, q))
    assert np.abs(codes).max(axis=1).tolist() == [127, 0, 127]


def test_tables_of_8_bits_are_the_function_of_every_code() -> None:
    of = QuantizedType(I8, Quantization((0.05,), 10))
    to = QuantizedType(I8, Quantization((1 / 128,), 0))
    codes = np.arange(-128, 128)
    table = lookup_table(np.tanh, of, to)
    want = quantize_array(np.tanh(dequantize_array(codes, of)), to)
    assert look_up(table, codes, I8).tolist() == want.tolist()


@given(st.integers(-(2**15), 2**15 - 1))
def test_tables_of_16_bits_interpolate_between_knots(code: int) -> None:
    of = QuantizedType(I16, Quantization((2**-12,)))
    to = QuantizedType(I16, Quantization((2**-15,)))
    table = lookup_table(np.tanh, of, to)
    index, fraction = divmod(code + 2**15, 1 << KNOT_BITS)
    left, right = int(table[index]), int(table[index + 1])
    exact = math.floor(left + Fraction((right - left) * fraction, 1 << KNOT_BITS) + HALF)
    got = int(look_up(table, np.array([code]), I16)[0])
    assert got == exact
    # Of curvature at most 1 and knots 2**-5 apart, within 2**-13 and the roundings.
    assert abs(got * 2**-15 - math.tanh(code * 2**-12)) <= 2**-13 + 2**-14
