"""Where codes begin, end, and change their scale: quantize, dequantize, requantize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.op import Arrays, Lowered, Op, Operand, Types, expect
from compiler.ir.types import TensorType, f32, quantized
from compiler.loops.expression import (
    Constant,
    Expression,
    Floor,
    Rescale,
    Select,
    clamp,
    literal,
    maximum,
    minimum,
)
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import FixedPoint, bipolar, requantize
from compiler.numerics.quantization import (
    QuantizedType,
    dequantize_float32,
    quantize_float32,
    reciprocal_scale,
)
from compiler.ops.contraction import Clamp
from compiler.ops.shape import activation_buffers

I32, F32 = ElementType.I32, ElementType.F32


@dataclass(frozen=True, slots=True)
class Quantize(Op):
    """f32 -> codes: clamp(zero_point + floor(x * (1/scale) + 1/2)), in float32 (`quantize_float32`)."""

    mnemonic: ClassVar[str] = "quantize"
    writes_bits: ClassVar[bool] = True
    to: QuantizedType

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        # A transpose behind it moves one byte per element instead of four, but no bits.
        return None if _gives_bits(self.to) else self

    def takes_strides(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
        return not _gives_bits(self.to) or strides[-1] == 1

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        expect(inputs[0].element is F32, f"quantize takes f32, not {inputs[0]}")
        return (quantized(inputs[0].shape, self.to),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (arrays[0],)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (quantize_float32(arrays[0], self.to),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """real = (1/scale, low - zero_point, high - zero_point); integer = (zero_point,)."""
        x, y = activation_buffers(inputs, outputs)
        if _gives_bits(self.to):
            value = _sign(x.load(*y.axes())).cast(y.element)
            return Lowered(LoopForm("quantize", (x, y), (Stage("output", y.axes(), value),)), (0,))
        real = Buffer("real", (3,), F32, Role.CONSTANT)
        integer = Buffer("integer", (1,), I32, Role.CONSTANT)
        axes = y.axes()
        scaled = Floor(x.load(*axes) * real.load(0) + 0.5)
        bounded = maximum(minimum(scaled, real.load(2)), real.load(1)).cast(I32)
        value = (bounded + integer.load(0)).cast(y.element)
        form = LoopForm("quantize", (x, real, integer, y), (Stage("output", axes, value),))
        zero_point, element = self.to.zero_point, self.to.element
        bounds = [element.low - zero_point, element.high - zero_point]
        constants = {
            "real": np.array([reciprocal_scale(self.to.scale), *bounds], np.float32),
            "integer": np.array([zero_point], np.int32),
        }
        return Lowered(form, (0,), constants)


@dataclass(frozen=True, slots=True)
class Dequantize(Op):
    """codes -> f32: float32(code - zero_point) * float32(scale)."""

    mnemonic: ClassVar[str] = "dequantize"
    reads_bits: ClassVar[bool] = True

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        expect(inputs[0].is_quantized, f"dequantize takes codes, not {inputs[0]}")
        return (f32(*inputs[0].shape),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (arrays[0],)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (dequantize_float32(arrays[0], inputs[0].codes),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        scale = Buffer("scale", (1,), F32, Role.CONSTANT)
        zero_point = Buffer("zero_point", (1,), I32, Role.CONSTANT)
        axes = y.axes()
        value = (x.load(*axes).cast(I32) - zero_point.load(0)).cast(F32) * scale.load(0)
        form = LoopForm("dequantize", (x, scale, zero_point, y), (Stage("output", axes, value),))
        of = inputs[0].type.codes
        constants = {
            "scale": np.array([of.scale], np.float32),
            "zero_point": np.array([of.zero_point], np.int32),
        }
        return Lowered(form, (0,), constants)


@dataclass(frozen=True, slots=True)
class Requantize(Op):
    """codes or i32 accumulators of one scale -> codes of another; clamp bounds the real result. To b1: the
    sign of the exact integer (`bipolar`)."""

    mnemonic: ClassVar[str] = "requantize"
    may_run_in_place: ClassVar[bool] = True
    reads_bits: ClassVar[bool] = True
    writes_bits: ClassVar[bool] = True
    to: QuantizedType
    clamp: Clamp = None

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return None if _gives_bits(self.to) else self

    def of_channels(self, x: TensorType, count: int) -> Op | None:
        return None if _gives_bits(self.to) else self

    def takes_strides(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
        return not _gives_bits(self.to) or strides[-1] == 1

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        x = inputs[0]
        expect(x.element.is_integer and x.quantization is not None, f"requantize takes codes, not {x}")
        expect(x.codes.quantization.axis is None, f"requantize takes one scale, not {x}")
        return (quantized(x.shape, self.to),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (arrays[0] if self.clamp is None else np.clip(arrays[0], *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        of = inputs[0].codes
        low, high = self.to.clamp_codes(self.clamp)
        centred = arrays[0].astype(np.int64) - of.zero_point
        if _gives_bits(self.to):
            return (bipolar(centred, low, high).astype(np.int8),)
        factor = self._factor(inputs[0])
        codes = requantize(centred, factor.multiplier, factor.shift, self.to.zero_point, low, high)
        return (codes.astype(self.to.element.dtype),)

    def _factor(self, x: TensorType) -> FixedPoint:
        return FixedPoint.nearest(x.codes.scale / self.to.scale)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """parameters = (zero point in, multiplier, shift, zero point out, low, high)."""
        x, y = activation_buffers(inputs, outputs)
        p = Buffer("parameters", (6,), I32, Role.CONSTANT)
        axes = y.axes()
        centred = x.load(*axes).cast(I32) - p.load(0)
        rescaled = Rescale(centred, p.load(1), p.load(2)) + p.load(3)
        code = _sign(centred) if _gives_bits(self.to) else rescaled
        value = clamp(code, p.load(4), p.load(5)).cast(y.element)
        in_place = x.element is y.element
        form = LoopForm("requantize", (x, p, y), (Stage("output", axes, value),), in_place)
        of, factor = inputs[0].type.codes, self._factor(inputs[0].type)
        low, high = self.to.clamp_codes(self.clamp)
        numbers = [of.zero_point, factor.multiplier, factor.shift, self.to.zero_point, low, high]
        return Lowered(form, (0,), {"parameters": np.array(numbers, np.int32)})


def _gives_bits(to: QuantizedType) -> bool:
    return to.element is ElementType.B1


def _sign(x: Expression) -> Expression:
    """-1 where x < 0, else +1, as I32."""
    return Select(x.less(literal(0, x.element)), Constant(-1), Constant(1))
