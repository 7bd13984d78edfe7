"""Matrix products: of two activations, and at import the choice between them and dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Value
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
from compiler.ir.types import TensorType, f32, quantized
from compiler.loops.expression import Axis, Constant, Expression, Rescale, clamp
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.convolve import integer_matmul
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import FixedPoint, requantize
from compiler.numerics.quantization import (
    QuantizedType,
    quantize_array,
    symmetric_scales,
)
from compiler.ops.accumulation import Accumulator, spread
from compiler.ops.contraction import Clamp
from compiler.ops.dense import Dense
from compiler.ops.elementwise import Add, Mul
from compiler.ops.importing import Input, OnnxNode, Results, imports
from compiler.ops.operands import aligned_operands
from compiler.ops.shape import Reshape, Transpose

I32 = ElementType.I32


@dataclass(frozen=True, slots=True)
class MatMul(Op):
    """alpha * a [..., M, K] @ b [..., K, N] -> [..., M, N]; leading axes broadcast.

    transpose_a, transpose_b: that operand is stored with its last two axes exchanged. alpha: a positive
    factor, folded into the requantize factor. clamp, to: as in Conv2D; integer operands need `to`. Sums
    are held as `Accumulator` says.
    """

    mnemonic: ClassVar[str] = "matmul"
    transpose_a: bool = False
    transpose_b: bool = False
    alpha: float = 1.0
    clamp: Clamp = None
    to: QuantizedType | None = None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        a, b = inputs
        expect(a.rank >= 2 and b.rank >= 2, f"matmul of {a} and {b}: both need two axes")
        expect(self.alpha > 0, f"alpha must be positive, not {self.alpha}")
        (m, k), (other, n) = self._matrix(a, self.transpose_a), self._matrix(b, self.transpose_b)
        expect(k == other, f"reduction sizes differ: lhs {a} has K={k}, rhs {b} has K={other}")
        try:
            batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            batch = None
        expect(batch is not None, f"the leading axes of {a} and {b} do not broadcast")
        shape = (*(batch or ()), m, n)
        if a.element is ElementType.F32:
            expect(b.element is ElementType.F32 and self.to is None, f"matmul of {a} and {b} to {self.to}")
            return (f32(*shape),)
        expect(a.is_quantized and b.is_quantized, f"matmul of {a} and {b}: quantize both or none")
        per_tensor = a.codes.quantization.axis is None and b.codes.quantization.axis is None
        expect(per_tensor, f"matmul of {a} and {b}: both need one scale per tensor")
        expect(self.to is not None, f"an integer matmul of {a} and {b} needs the type of its result")
        assert self.to is not None
        return (quantized(shape, self.to),)

    @staticmethod
    def _matrix(x: TensorType, transposed: bool) -> tuple[int, int]:
        rows, columns = x.shape[-2:]
        return (columns, rows) if transposed else (rows, columns)

    def _oriented(self, arrays: Arrays) -> tuple[Array, Array]:
        a, b = arrays
        return (
            a.swapaxes(-1, -2) if self.transpose_a else a,
            b.swapaxes(-1, -2) if self.transpose_b else b,
        )

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        a, b = self._oriented(arrays)
        result = (a @ b) * a.dtype.type(self.alpha)
        return (result if self.clamp is None else np.clip(result, *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        a, b = self._oriented(
            [x.astype(np.int32) - t.codes.zero_point for x, t in zip(arrays, inputs, strict=True)]
        )
        total, factor = self._accumulator(inputs).narrow(integer_matmul(a, b)), self._factor(inputs)
        low, high = self.to.clamp_codes(self.clamp)
        result = requantize(total, factor.multiplier, factor.shift, self.to.zero_point, low, high)
        return (result.astype(self.to.element.dtype),)

    def _accumulator(self, inputs: Types) -> Accumulator:
        _, k = self._matrix(inputs[0], self.transpose_a)
        return Accumulator.holding(k * spread(inputs[0].element) * spread(inputs[1].element))

    def _factor(self, inputs: Types) -> FixedPoint:
        assert self.to is not None
        unit = inputs[0].codes.scale * inputs[1].codes.scale * (1 << self._accumulator(inputs).drop)
        return FixedPoint.nearest(unit * self.alpha / self.to.scale)

    def macs(self, inputs: Types) -> int:
        (y,) = self.infer(inputs)
        return y.count * self._matrix(inputs[0], self.transpose_a)[1]

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        """A constant operand takes one symmetric scale: its matrices differ along the leading axes."""
        constants: dict[int, tuple[TensorType, Array]] = {}
        for i, operand in enumerate(inputs):
            if operand.constant is not None:
                of = QuantizedType(weights, symmetric_scales(operand.constant, None, weights))
                codes = quantize_array(operand.constant, of)
                constants[i] = (quantized(codes.shape, of), codes)
        return Quantized(replace(self, to=to[0]), constants)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """parameters = (zero point a, zero point b, multiplier, shift, zero point out, low, high)."""
        assert self.to is not None
        types = [o.type for o in inputs]
        a, b = (_buffer(name, o) for name, o in zip("ab", inputs, strict=True))
        y = Buffer("output", outputs[0].type.shape, outputs[0].type.element, Role.OUTPUT, outputs[0].strides)
        p = Buffer("parameters", (7,), I32, Role.CONSTANT)
        held = self._accumulator(types)
        total = Buffer("total", y.shape, held.element, Role.SCRATCH)
        *batch, m, n = axes = y.axes()
        k = Axis("k", self._matrix(types[0], self.transpose_a)[1])
        left = _element(a, batch, (k, m) if self.transpose_a else (m, k)) - p.load(0)
        right = _element(b, batch, (n, k) if self.transpose_b else (k, n)) - p.load(1)
        product = left.cast(held.element) * right.cast(held.element)
        rescaled = Rescale(held.narrowed(total.load(*axes)), p.load(2), p.load(3))
        value = clamp(rescaled + p.load(4), p.load(5), p.load(6)).cast(y.element)
        stages = (
            Stage("total", axes, product, (k,), initial=Constant(0, held.element)),
            Stage("output", axes, value),
        )
        form = LoopForm("matmul", (a, b, p, y, total), stages)
        factor, (low, high) = self._factor(types), self.to.clamp_codes(self.clamp)
        zero_points = [t.codes.zero_point for t in types]
        numbers = [*zero_points, factor.multiplier, factor.shift, self.to.zero_point, low, high]
        constants = {name: o.constant for name, o in zip("ab", inputs, strict=True) if o.constant is not None}
        computed = tuple(i for i, o in enumerate(inputs) if o.constant is None)
        return Lowered(form, computed, {**constants, "parameters": np.array(numbers, np.int32)})


def _buffer(name: str, operand: Operand) -> Buffer:
    """Constant codes are unpacked, so that sub-byte ones are read as int8."""
    shape, element = operand.type.shape, operand.type.element
    if operand.constant is None:
        return Buffer(name, shape, element, Role.INPUT, operand.strides)
    return Buffer(name, shape, ElementType.I8 if element.bits < 8 else element, Role.CONSTANT)


def _element(x: Buffer, batch: Sequence[Axis], matrix: tuple[Axis, Axis]) -> Expression:
    """The element, as I32, at the given place of the output; extents of 1 broadcast."""
    leading = batch[len(batch) - (len(x.shape) - 2) :]
    indices = [i if extent > 1 else 0 for i, extent in zip(leading, x.shape, strict=False)]
    return x.load(*indices, *matrix).cast(I32)


@imports("MatMul")
def import_matmul(node: OnnxNode) -> Results:
    """A constant matrix makes a dense layer; vectors become matrices of one row or column."""
    a, b = node.inputs[0], node.inputs[1]
    if a is None or b is None:
        raise node.error("MatMul takes two inputs")
    if isinstance(a, Value) and (matrix := _constant_matrix(b, a.type.rank)) is not None:
        weight = node.constant(_column(matrix).T, f"{node.name}.weight")
        y = node.emit(Dense(), a, weight)
        return (y if matrix.ndim == 2 else node.emit(Reshape(y.type.shape[:-1]), y),)
    if isinstance(b, Value) and b.type.rank >= 2 and (matrix := _constant_matrix(a, b.type.rank)) is not None:
        weight = node.constant(matrix.reshape(-1, matrix.shape[-1]), f"{node.name}.weight")
        y = _transposed(node, node.emit(Dense(), _transposed(node, b), weight))
        return (y if matrix.ndim == 2 else node.emit(Reshape((*y.type.shape[:-2], y.type.shape[-1])), y),)
    left, right = node.value(0), node.value(1)
    vectors = left.type.rank == 1, right.type.rank == 1
    if vectors[0]:
        left = node.emit(Reshape((1, *left.type.shape)), left)
    if vectors[1]:
        right = node.emit(Reshape((*right.type.shape, 1)), right)
    y = node.emit(MatMul(), left, right)
    *batch, m, n = y.type.shape
    shape = (*batch, *(() if vectors[0] else (m,)), *(() if vectors[1] else (n,)))
    return (y if shape == y.type.shape else node.emit(Reshape(shape), y),)


@imports("Gemm")
def import_gemm(node: OnnxNode) -> Results:
    """alpha * A' @ B' + beta * C with matrices A', B' as they stand or transposed. A constant A or B makes
    a dense layer, and C its bias, where it is one; any other C is added behind."""
    transposed = bool(node.integer("transA", 0)), bool(node.integer("transB", 0))
    alpha = node.number("alpha", 1.0)
    a, b = node.inputs[0], node.inputs[1]
    bias: Array | None = None
    if b is not None and not isinstance(b, Value):
        x = _transposed(node, node.value(0)) if transposed[0] else node.value(0)
        weight = b if transposed[1] else b.T
        bias = _gemm_bias(node, (x.type.shape[0], weight.shape[0]), axis=1)
        y = _dense(node, x, weight * b.dtype.type(alpha), bias)
    elif isinstance(b, Value) and a is not None and not isinstance(a, Value):
        x = b if transposed[1] else _transposed(node, b)
        weight = a.T if transposed[0] else a
        bias = _gemm_bias(node, (weight.shape[0], x.type.shape[0]), axis=0)
        y = _transposed(node, _dense(node, x, weight * a.dtype.type(alpha), bias))
    else:
        y = node.emit(MatMul(*transposed, alpha=alpha), node.value(0), node.value(1))
    return (y if bias is not None or not node.has(2) else _plus_addend(node, y),)


def _gemm_bias(node: OnnxNode, shape: tuple[int, int], axis: int) -> Array | None:
    """beta * C along `axis` of the result; None where C is absent, computed, or differs along the other.

    Errors: NodeError where C does not broadcast to `shape`.
    """
    if not node.has(2) or isinstance(node.inputs[2], Value):
        return None
    found = node.array(2)
    try:
        full = np.broadcast_to(found, shape)
    except ValueError:
        raise node.error(f"C {list(found.shape)} does not broadcast to {list(shape)}") from None
    lines = full if axis == 1 else full.T
    return lines[0] * found.dtype.type(node.number("beta", 1.0)) if np.all(lines == lines[:1]) else None


def _plus_addend(node: OnnxNode, y: Value) -> Value:
    """y + beta * C."""
    addend, beta = node.inputs[2], node.number("beta", 1.0)
    if isinstance(addend, Value) and beta != 1:
        addend = node.emit(Mul(), *aligned_operands(node, addend, np.array(beta, np.float32)))
    elif addend is not None and not isinstance(addend, Value):
        addend = addend * addend.dtype.type(beta)
    return node.emit(Add(), *aligned_operands(node, y, addend))


def _dense(node: OnnxNode, x: Value, weight: Array, bias: Array | None) -> Value:
    operands = [x, node.constant(weight, f"{node.name}.weight")]
    if bias is not None:
        operands.append(node.constant(bias, f"{node.name}.bias"))
    return node.emit(Dense(), *operands)


def _constant_matrix(x: Input, other_rank: int) -> Array | None:
    """A known vector or matrix, perhaps under leading axes of extent 1 that change no shape."""
    if x is None or isinstance(x, Value):
        return None
    if x.ndim <= 2:
        return x
    return x.reshape(x.shape[-2:]) if x.ndim <= other_rank and set(x.shape[:-2]) == {1} else None


def _column(matrix: Array) -> Array:
    return matrix if matrix.ndim == 2 else matrix[:, None]


def _transposed(node: OnnxNode, x: Value) -> Value:
    """x with its last two axes exchanged."""
    axes = list(range(x.type.rank))
    axes[-2:] = reversed(axes[-2:])
    return node.emit(Transpose(tuple(axes)), x)
