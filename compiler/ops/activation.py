"""Piecewise linear activations: clips (ReLU, ReLU6) and ReLU with a slope for negative numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.ir.op import (
    Arrays,
    Lowered,
    Op,
    Operand,
    Quantized,
    QuantizedOperand,
    Refusal,
    Types,
    expect,
)
from compiler.ir.types import TensorType, quantized
from compiler.loops.expression import Expression, Rescale, clamp, maximum, minimum
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import FixedPoint, requantize
from compiler.numerics.quantization import Quantization, QuantizedType, quantize_array
from compiler.ops.edge import Requantize
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.operands import (
    aligned_operands,
    broadcast_shape,
    integer_or_refusal,
    largest_difference,
    lower_binary,
    reals,
)
from compiler.ops.shape import activation_buffers

I16, I32, F32 = ElementType.I16, ElementType.I32, ElementType.F32


@dataclass(frozen=True, slots=True)
class Clip(Op):
    """max(low, min(x, high)), real bounds. On codes the quantization stays, and the bounds become codes;
    with another quantization behind it, a clip is quantized as `Requantize` with a clamp."""

    mnemonic: ClassVar[str] = "clip"
    may_run_in_place: ClassVar[bool] = True
    low: float = -math.inf
    high: float = math.inf

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(self.low <= self.high, f"the bounds [{self.low}, {self.high}] are empty")
        expect(x.element is F32 or x.is_quantized, f"clip takes floats or codes, not {x}")
        expect(x.quantization is None or x.quantization.axis is None, f"clip takes one scale, not {x}")
        return (x,)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.clip(arrays[0], self.low, self.high),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        low, high = inputs[0].codes.clamp_codes((self.low, self.high))
        return (np.clip(arrays[0], low, high),)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        if inputs[0].type.codes == to[0]:
            return Quantized(self)
        return Quantized(Requantize(to[0], (self.low, self.high)))

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """bounds = (low, high), of the operand's element."""
        x, y = activation_buffers(inputs, outputs)
        bounds = Buffer("bounds", (2,), x.element, Role.CONSTANT)
        axes = y.axes()
        value = clamp(x.load(*axes), bounds.load(0), bounds.load(1))
        form = LoopForm("clip", (x, bounds, y), (Stage("output", axes, value),), in_place=True)
        real = (self.low, self.high)
        numbers = real if x.element is F32 else inputs[0].type.codes.clamp_codes(real)
        return Lowered(form, (0,), {"bounds": np.array(numbers, x.element.dtype)})


@dataclass(frozen=True, slots=True)
class PRelu(Op):
    """max(x, 0) + slope * min(x, 0); the slope is broadcast to x.

    On codes the slopes are i16 with a scale of 2**-b, b <= 14 (zero point 0), and the result is
    clamp(zero_point + rescale(max(q, 0) * 2**b + min(q, 0) * slope)) with q less its zero point.
    """

    mnemonic: ClassVar[str] = "prelu"
    may_run_in_place: ClassVar[bool] = True
    to: QuantizedType | None = None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        x, slope = inputs
        expect(broadcast_shape(inputs) == x.shape, f"slope {slope} cannot be broadcast to {x}")
        if x.element is F32 and slope.element is F32:
            expect(self.to is None, f"prelu of floats {x} cannot give {self.to}")
            return (x,)
        expect(x.is_quantized and slope.element is I16, f"{x} and {slope}: codes need slopes of i16")
        expect(self.to is not None, f"prelu of codes {x} needs the type of its result")
        assert self.to is not None
        for operand in inputs:
            expect(operand.codes.quantization.axis is None, f"prelu takes one scale, not {operand}")
        of = slope.codes
        power_of_two = math.frexp(of.scale)[0] == 0.5 and 2**-14 <= of.scale <= 1
        expect(power_of_two and of.zero_point == 0, f"slope {slope}: the scale must be 2**-14 … 1")
        reach = x.codes.scale / self.to.scale * largest_difference(x) * of.scale * (1 << 15)
        expect(reach < 1 << 30, f"prelu of {x} to scale {self.to.scale!r}: the result does not fit 31 bits")
        return (quantized(x.shape, self.to),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        x, slope = arrays
        return (np.maximum(x, 0) + np.minimum(x, 0) * slope,)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        x, factor = arrays[0].astype(np.int64) - inputs[0].codes.zero_point, self._factor(inputs)
        product = np.maximum(x, 0) * _one(inputs[1]) + np.minimum(x, 0) * arrays[1].astype(np.int64)
        bounds = self.to.clamp_codes(None)
        codes = requantize(product, factor.multiplier, factor.shift, self.to.zero_point, *bounds)
        return (codes.astype(self.to.element.dtype),)

    def _factor(self, inputs: Types) -> FixedPoint:
        assert self.to is not None
        return FixedPoint.nearest(inputs[0].codes.scale * inputs[1].codes.scale / self.to.scale)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        slope = inputs[1].constant
        if slope is None:
            return Refusal("the slopes are computed at run time")
        largest = max(1.0, float(np.abs(slope).max(initial=0.0)))
        bits = 15 - math.frexp(largest)[1]  # largest < 2**exponent
        if bits < 0:
            return Refusal(f"a slope of {largest:.3g} does not fit i16")
        of = QuantizedType(I16, Quantization((2.0**-bits,)))
        codes = (quantized(slope.shape, of), quantize_array(slope, of))
        return integer_or_refusal(replace(self, to=to[0]), inputs, {1: codes})

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """parameters = (zero point in, 2**b, multiplier, shift, zero point out, low, high)."""
        if self.to is None:
            return lower_binary(
                "prelu", lambda x, slope: maximum(x, 0.0) + minimum(x, 0.0) * slope, inputs, outputs
            )
        to, types = self.to, [o.type for o in inputs]
        p = Buffer("parameters", (7,), I32, Role.CONSTANT)

        def value(x: Expression, slope: Expression) -> Expression:
            x = x.cast(I32) - p.load(0)
            product = maximum(x, 0) * p.load(1) + minimum(x, 0) * slope.cast(I32)
            rescaled = Rescale(product, p.load(2), p.load(3))
            return clamp(rescaled + p.load(4), p.load(5), p.load(6)).cast(to.element)

        factor = self._factor(types)
        numbers = [types[0].codes.zero_point, _one(types[1]), factor.multiplier, factor.shift]
        numbers += [to.zero_point, *to.clamp_codes(None)]
        return lower_binary("prelu", value, inputs, outputs, p, np.array(numbers, np.int32))


def _one(slope: TensorType) -> int:
    """The code of slope 1."""
    return round(1 / slope.codes.scale)


@imports("Relu")
def import_relu(node: OnnxNode) -> Results:
    return [node.emit(Clip(0.0), node.value(0))]


@imports("Clip")
def import_clip(node: OnnxNode) -> Results:
    """Bounds are attributes before opset 11, optional inputs since."""
    bounds: list[float] = []
    for index, (name, absent) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        if node.opset < 11:
            bound = node.number(name, absent)
        else:
            bound = float(reals(node, node.array(index)).item()) if node.has(index) else absent
        bounds.append(math.copysign(math.inf, bound) if abs(bound) >= _LARGEST_FLOAT else bound)
    if bounds == [-math.inf, math.inf]:
        return [node.value(0)]
    return [node.emit(Clip(*bounds), node.value(0))]


# Opset 6 wrote "no bound" as the largest float, with fewer digits.
_LARGEST_FLOAT = 3.4e38


@imports("LeakyRelu")
def import_leaky_relu(node: OnnxNode) -> Results:
    x = node.value(0)
    slope = node.constant(np.full((1,) * x.type.rank, node.number("alpha", 0.01)))
    return [node.emit(PRelu(), x, slope)]


@imports("PRelu")
def import_prelu(node: OnnxNode) -> Results:
    return [node.emit(PRelu(), *aligned_operands(node))]
