"""Unary functions of codes as tables, made once in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType, dequantize_array, quantize_array

# 16-bit functions: 513 knots, 128 codes apart, linear in between.
KNOT_BITS = 7
KNOTS = (1 << (16 - KNOT_BITS)) + 1


def lookup_table(function: Callable[[Array], Array], of: QuantizedType, to: QuantizedType) -> Array:
    """Result codes of `function` (float64 -> float64), one per code of a type of at most 8 bits,
    indexed by code - element.low; for a 16-bit type the codes at the 513 knots (int32).
    """
    element = of.element
    if element is ElementType.I16:
        codes = np.arange(KNOTS, dtype=np.int64) * (1 << KNOT_BITS) + element.low
        return quantize_array(function(dequantize_array(codes, of)), to).astype(np.int32)
    codes = np.arange(element.low, element.high + 1)
    return quantize_array(function(dequantize_array(codes, of)), to)


def look_up(table: Array, codes: Array, element: ElementType) -> Array:
    """Result codes of a table made by `lookup_table` for arguments of `element`.

    16 bits: with i = (q + 2**15) >> 7 and f the low 7 bits, T[i] + floor(((T[i+1] - T[i]) * f + 64) / 128).
    """
    offset = codes.astype(np.int32) - element.low
    if element is not ElementType.I16:
        return table[offset]
    index, fraction = offset >> KNOT_BITS, offset & ((1 << KNOT_BITS) - 1)
    left, right = table[index].astype(np.int32), table[index + 1].astype(np.int32)
    return left + (((right - left) * fraction + (1 << (KNOT_BITS - 1))) >> KNOT_BITS)
