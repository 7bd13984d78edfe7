"""Sums of two tensors of codes: their expression, and how a form that computes nothing else is recognized.

With parameters (za, zb, Ma, Mb, shift, zero point, low, high):
clamp(floor(((a - za) * Ma + (b - zb) * Mb) / 2**shift + 1/2) + zero point, low, high).
"""

from __future__ import annotations

from enum import IntEnum

from compiler.loops.expression import Constant, Expression, clamp
from compiler.loops.form import Buffer, LoopForm
from compiler.numerics.element import ElementType

I8, I32 = ElementType.I8, ElementType.I32


class SumParameter(IntEnum):
    """Places in the operand `parameters`."""

    ZERO_A = 0
    ZERO_B = 1
    FACTOR_A = 2
    FACTOR_B = 3
    SHIFT = 4
    ZERO_POINT = 5
    LOW = 6
    HIGH = 7


def sum_of_codes(
    a: Expression, b: Expression, parameters: Buffer, to: ElementType, width: ElementType
) -> Expression:
    """a, b: codes. width: of the arithmetic, which the caller knows to hold it."""
    p = {n: parameters.load(n) for n in SumParameter}
    wide = {n: load.cast(width) for n, load in p.items()}
    x = (a.cast(I32) - p[SumParameter.ZERO_A]).cast(width)
    y = (b.cast(I32) - p[SumParameter.ZERO_B]).cast(width)
    shift = wide[SumParameter.SHIFT]
    half = Constant(1, width) << (shift - 1)
    total = x * wide[SumParameter.FACTOR_A] + y * wide[SumParameter.FACTOR_B] + half
    code = (total >> shift) + wide[SumParameter.ZERO_POINT]
    return clamp(code, wide[SumParameter.LOW], wide[SumParameter.HIGH]).cast(to)


def is_dense_sum(form: LoopForm) -> bool:
    """Whether the form adds two activations of 8-bit codes, all of one shape and in C order."""
    if len(form.stages) != 1 or [b.name for b in form.buffers] != ["a", "b", "parameters", "output"]:
        return False
    a, b, parameters, output = form.buffers
    tensors = (a, b, output)
    if any(t.element is not I8 or t.strides is not None or t.shape != output.shape for t in tensors):
        return False
    if a.role is not b.role or parameters.shape != (len(SumParameter),) or parameters.element is not I32:
        return False
    [stage] = form.stages
    axes = output.axes()
    at = [Constant(0) if axis.extent == 1 else axis for axis in axes]
    expected = sum_of_codes(a.load(*at), b.load(*at), parameters, I8, I32)
    return stage.output == output.name and stage.axes == axes and not stage.over and stage.value == expected
