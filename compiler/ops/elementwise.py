"""Sums, products, quotients and extremes of two tensors, broadcast as numpy does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar

import numpy as np

from compiler.ir.diagnostics import TypeMismatchError
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
from compiler.loops.expression import Constant, Expression, Rescale, clamp
from compiler.loops.form import Buffer, Role
from compiler.loops.sums import SumParameter, sum_of_codes
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import FixedPoint, SumFactors, rescale
from compiler.numerics.quantization import QuantizedType, from_range, quantize_array
from compiler.ops.contraction import Clamp
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.operands import (
    aligned_operands,
    broadcast_shape,
    integer_or_refusal,
    largest_difference,
    lower_binary,
    reals,
)
from compiler.ops.unary import Function, Unary

I16, I32, I64, F32 = ElementType.I16, ElementType.I32, ElementType.I64, ElementType.F32


class _Arithmetic(Op):
    """Add, Sub and Mul. On codes the result is requantized to `to`; clamp bounds the real result."""

    __slots__ = ()
    may_run_in_place: ClassVar[bool] = True
    clamp: Clamp
    to: QuantizedType | None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        shape = broadcast_shape(inputs)
        a, b = inputs
        if a.element is F32 and b.element is F32:
            expect(self.to is None, f"{self.mnemonic} of floats {a} and {b} cannot give {self.to}")
            return (TensorType(shape, F32),)
        expect(a.is_quantized and b.is_quantized, f"{a} and {b}: quantize both or none")
        expect(self.to is not None, f"{self.mnemonic} of codes {a} and {b} needs the type of its result")
        assert self.to is not None
        for x in inputs:
            expect(x.codes.quantization.axis is None, f"{self.mnemonic} takes one scale, not {x}")
        try:
            self._check_range(a, b, self.to)
        except ValueError as error:
            raise TypeMismatchError(f"{a} and {b} to scale {self.to.scale!r}: {error}") from error
        return (quantized(shape, self.to),)

    def _check_range(self, a: TensorType, b: TensorType, to: QuantizedType) -> None:
        """Errors: ValueError where the scales do not allow exact integers of the width used."""
        raise NotImplementedError

    def _real(self, a: Array, b: Array) -> Array:
        raise NotImplementedError

    def _codes(self, a: Array, b: Array, types: Types, to: QuantizedType) -> Array:
        """Codes less the zero point, unclamped, of int64 codes less their zero points."""
        raise NotImplementedError

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        result = self._real(arrays[0], arrays[1])
        return (result if self.clamp is None else np.clip(result, *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        a, b = (x.astype(np.int64) - t.codes.zero_point for x, t in zip(arrays, inputs, strict=True))
        low, high = self.to.clamp_codes(self.clamp)
        codes = np.clip(self._codes(a, b, inputs, self.to) + self.to.zero_point, low, high)
        return (codes.astype(self.to.element.dtype),)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        """Constants become symmetric i16 codes: sums and products with i8 stay within 32 bits, and a
        vector of very different numbers keeps its small ones."""
        constants: dict[int, tuple[TensorType, Array]] = {}
        for i, o in enumerate(inputs):
            if o.constant is not None:
                largest = float(np.abs(o.constant).max(initial=0.0))
                of = QuantizedType(I16, from_range(-largest, largest, I16, symmetric=True))
                constants[i] = (quantized(o.type.shape, of), quantize_array(o.constant, of))
        return integer_or_refusal(self._with_result(to[0]), inputs, constants)

    def _with_result(self, to: QuantizedType) -> Op:
        raise NotImplementedError

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        if self.to is None:
            return self._lower_float(inputs, outputs)
        return self._lower_codes(inputs, outputs, self.to)

    def _lower_float(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """bounds = (low, high) of the clamp, where there is one."""
        value = self._float_value
        if self.clamp is None:
            return lower_binary(self.mnemonic, value, inputs, outputs)
        bounds = Buffer("bounds", (2,), F32, Role.CONSTANT)

        def clamped(a: Expression, b: Expression) -> Expression:
            return clamp(value(a, b), bounds.load(0), bounds.load(1))

        numbers = np.array(self.clamp, np.float32)
        return lower_binary(self.mnemonic, clamped, inputs, outputs, bounds, numbers)

    def _float_value(self, a: Expression, b: Expression) -> Expression:
        raise NotImplementedError

    def _lower_codes(
        self, inputs: Sequence[Operand], outputs: Sequence[Operand], to: QuantizedType
    ) -> Lowered:
        raise NotImplementedError


class _Sum(_Arithmetic):
    """a + sign * b. On codes, with Ma, Mb, s from `SumFactors`:
    clamp(floor(((qa - za) * Ma + (qb - zb) * Mb) / 2**s + 1/2) + zero_point).

    The sum takes 31 bits, and 46 bits (in I64) where two of operands and result are i16: one i16 among
    8-bit codes errs by no more than their own rounding.
    """

    __slots__ = ()
    sign: ClassVar[int]

    def factors(self, a: TensorType, b: TensorType, to: QuantizedType) -> SumFactors:
        """Errors: ValueError where the scale of the result is too fine for the operands."""
        bits = 46 if _is_wide(a, b, to) else 31
        factor_a, factor_b = a.codes.scale / to.scale, self.sign * b.codes.scale / to.scale
        return SumFactors.nearest(factor_a, factor_b, largest_difference(a), largest_difference(b), bits)

    def _check_range(self, a: TensorType, b: TensorType, to: QuantizedType) -> None:
        self.factors(a, b, to)

    def _real(self, a: Array, b: Array) -> Array:
        return a + b if self.sign > 0 else a - b

    def _codes(self, a: Array, b: Array, types: Types, to: QuantizedType) -> Array:
        return self.factors(types[0], types[1], to).apply(a, b)

    def _float_value(self, a: Expression, b: Expression) -> Expression:
        return a + b if self.sign > 0 else a - b

    def _lower_codes(
        self, inputs: Sequence[Operand], outputs: Sequence[Operand], to: QuantizedType
    ) -> Lowered:
        """parameters: `SumParameter`s."""
        a, b = (o.type for o in inputs)
        p = Buffer("parameters", (len(SumParameter),), I32, Role.CONSTANT)
        width = I64 if _is_wide(a, b, to) else I32

        def value(x: Expression, y: Expression) -> Expression:
            return sum_of_codes(x, y, p, to.element, width)

        f = self.factors(a, b, to)
        numbers = [a.codes.zero_point, b.codes.zero_point, f.multiplier_a, f.multiplier_b, f.shift]
        numbers += [to.zero_point, *to.clamp_codes(self.clamp)]
        return lower_binary(self.mnemonic, value, inputs, outputs, p, np.array(numbers, np.int32))


@dataclass(frozen=True, slots=True)
class Add(_Sum):
    """a + b; see `_Sum` for codes."""

    mnemonic: ClassVar[str] = "add"
    sign: ClassVar[int] = 1
    clamp: Clamp = None
    to: QuantizedType | None = None

    def _with_result(self, to: QuantizedType) -> Op:
        return replace(self, to=to)


@dataclass(frozen=True, slots=True)
class Sub(_Sum):
    """a - b; see `_Sum` for codes."""

    mnemonic: ClassVar[str] = "sub"
    sign: ClassVar[int] = -1
    clamp: Clamp = None
    to: QuantizedType | None = None

    def _with_result(self, to: QuantizedType) -> Op:
        return replace(self, to=to)


@dataclass(frozen=True, slots=True)
class Mul(_Arithmetic):
    """a * b. On codes: clamp(zero_point + rescale((qa - za) * (qb - zb))).

    The product of two i16 codes takes 33 bits; it is multiplied by a factor m / 2**s with m < 2**31 in
    I64, the most precise one for which no product leaves 63 bits (`SumFactors` with one addend).
    """

    mnemonic: ClassVar[str] = "mul"
    clamp: Clamp = None
    to: QuantizedType | None = None

    def _with_result(self, to: QuantizedType) -> Op:
        return replace(self, to=to)

    def _check_range(self, a: TensorType, b: TensorType, to: QuantizedType) -> None:
        factor, largest = _product_factor(a, b, to), largest_difference(a) * largest_difference(b)
        if _is_wide_product(a, b):
            SumFactors.nearest(factor, 0.0, largest, 0, 63)
        elif FixedPoint.nearest(factor).value * largest >= 1 << 30:
            raise ValueError("the result does not fit 31 bits")

    def _factor(self, a: TensorType, b: TensorType, to: QuantizedType) -> tuple[int, int]:
        """Multiplier and shift."""
        factor, largest = _product_factor(a, b, to), largest_difference(a) * largest_difference(b)
        if _is_wide_product(a, b):
            wide = SumFactors.nearest(factor, 0.0, largest, 0, 63)
            return wide.multiplier_a, wide.shift
        narrow = FixedPoint.nearest(factor)
        return narrow.multiplier, narrow.shift

    def _real(self, a: Array, b: Array) -> Array:
        return a * b

    def _codes(self, a: Array, b: Array, types: Types, to: QuantizedType) -> Array:
        return rescale(a * b, *self._factor(types[0], types[1], to))

    def _float_value(self, a: Expression, b: Expression) -> Expression:
        return a * b

    def _lower_codes(
        self, inputs: Sequence[Operand], outputs: Sequence[Operand], to: QuantizedType
    ) -> Lowered:
        """parameters = (za, zb, multiplier, shift, zero point, low, high)."""
        a, b = (o.type for o in inputs)
        p = Buffer("parameters", (7,), I32, Role.CONSTANT)
        width = I64 if _is_wide_product(a, b) else I32
        wide = [p.load(i).cast(width) for i in range(7)]

        def value(x: Expression, y: Expression) -> Expression:
            x, y = ((q.cast(I32) - p.load(i)).cast(width) for i, q in enumerate((x, y)))
            if width is I32:
                rescaled: Expression = Rescale(x * y, wide[2], wide[3])
            else:
                rescaled = (x * y * wide[2] + _half(wide[3])) >> wide[3]
            return clamp(rescaled + wide[4], wide[5], wide[6]).cast(to.element)

        numbers = [a.codes.zero_point, b.codes.zero_point, *self._factor(a, b, to)]
        numbers += [to.zero_point, *to.clamp_codes(self.clamp)]
        return lower_binary(self.mnemonic, value, inputs, outputs, p, np.array(numbers, np.int32))


@dataclass(frozen=True, slots=True)
class Div(Op):
    """a / b of floats. A quotient by a constant is imported as a product."""

    mnemonic: ClassVar[str] = "div"
    may_run_in_place: ClassVar[bool] = True

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        expect(all(x.element is F32 for x in inputs), f"div takes f32, not {inputs[0]} and {inputs[1]}")
        return (TensorType(broadcast_shape(inputs), F32),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (arrays[0] / arrays[1],)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        raise TypeError("div has no integer form")

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        return lower_binary(self.mnemonic, lambda a, b: a / b, inputs, outputs)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Refusal("a quotient of two computed tensors has no integer form")


def _is_wide(a: TensorType, b: TensorType, to: QuantizedType) -> bool:
    return (a.element, b.element, to.element).count(I16) >= 2


def _is_wide_product(a: TensorType, b: TensorType) -> bool:
    return a.element is I16 and b.element is I16


def _product_factor(a: TensorType, b: TensorType, to: QuantizedType) -> float:
    return a.codes.scale * b.codes.scale / to.scale


def _half(shift: Expression) -> Expression:
    """2**(shift - 1): one half, before the shift."""
    return Constant(1, shift.element) << (shift - 1)


@imports("Add", "Sum")
def import_add(node: OnnxNode) -> Results:
    return [reduce(lambda a, b: node.emit(Add(), a, b), aligned_operands(node))]


@imports("Sub")
def import_sub(node: OnnxNode) -> Results:
    return [node.emit(Sub(), *aligned_operands(node))]


@imports("Mul")
def import_mul(node: OnnxNode) -> Results:
    return [node.emit(Mul(), *aligned_operands(node))]


@imports("Neg")
def import_neg(node: OnnxNode) -> Results:
    x = node.value(0)
    return [node.emit(Mul(), x, node.constant(np.full((1,) * x.type.rank, -1.0)))]


@imports("Div")
def import_div(node: OnnxNode) -> Results:
    """By a constant: times its reciprocal. A number by a tensor: a function of the tensor."""
    numerator, divisor = node.inputs
    if isinstance(divisor, np.ndarray):
        by = reals(node, divisor)
        if np.any(by == 0):
            raise node.error("the divisor is a constant with zeros")
        return [node.emit(Mul(), *aligned_operands(node, node.value(0), 1 / by))]
    if isinstance(numerator, np.ndarray) and numerator.size == 1:
        by = aligned_operands(node)[1]
        return [node.emit(Unary(Function.RECIPROCAL, float(reals(node, numerator).item())), by)]
    return [node.emit(Div(), *aligned_operands(node))]


@imports("Pow")
def import_pow(node: OnnxNode) -> Results:
    """Of a computed tensor by one known number."""
    exponents = np.unique(np.asarray(node.array(1), np.float64))
    if exponents.size != 1:
        raise node.error("the exponent differs by element", "only one exponent for all elements is supported")
    x, exponent = node.value(0), float(exponents[0])
    if exponent == 1:
        return [x]
    if exponent == 2:
        return [node.emit(Mul(), x, x)]
    if exponent == -1:
        return [node.emit(Unary(Function.RECIPROCAL, 1.0), x)]
    function = Unary(Function.SQRT) if exponent == 0.5 else Unary(Function.POWER, exponent)
    return [node.emit(function, x)]
