"""Softmax over the last axis."""

from __future__ import annotations

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
from compiler.loops.expression import Axis, Constant, Expression, minimum
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.shape import Reshape, Transpose, activation_buffers

I32, I64 = ElementType.I32, ElementType.I64
# Tables of a 16-bit input: exp(-d * scale) = coarse[d >> 8] * fine[d & 255], both factors in Q30.
FACTOR_BITS = 30


@dataclass(frozen=True, slots=True)
class Softmax(Op):
    """exp(x - max) / sum of exp(x - max) along the last axis.

    Codes: with d = max - q and e = exp(-d * scale) in fixed point of F bits (16 for an 8-bit result, 30
    for a 16-bit one), rounded half up from a table or from the product of two, and b the bits of a result,
        result = min(floor(e * 2**b / sum of e + 1/2), 2**b - 1) - 2**(b - 1)
    on the scale 2**-b with zero point -2**(b - 1). A probability of 1 saturates.
    """

    mnemonic: ClassVar[str] = "softmax"
    to: QuantizedType | None = None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(x.rank >= 1 and x.shape[-1] >= 1, f"softmax needs a last axis, not {x}")
        if x.element is ElementType.F32:
            expect(self.to is None, f"a softmax of {x} cannot give {self.to}")
            return (x,)
        expect(x.element in (ElementType.I8, ElementType.I16), f"softmax takes i8 or i16 codes, not {x}")
        expect(self.to is not None, f"an integer softmax of {x} needs the type of its result")
        assert self.to is not None
        fixed = self.fixed_output(self.to.element)
        expect(self.to == fixed, f"softmax gives {fixed}, not {self.to}")
        return (quantized(x.shape, self.to),)

    def fixed_output(self, element: ElementType) -> QuantizedType | None:
        """[0, 1) in steps of 2**-bits."""
        return QuantizedType(element, Quantization((2.0**-element.bits,), element.low))

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        exponential = np.exp(arrays[0] - arrays[0].max(axis=-1, keepdims=True))
        return (exponential / exponential.sum(axis=-1, keepdims=True),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        codes = arrays[0].astype(np.int64)
        distance = codes.max(axis=-1, keepdims=True) - codes
        tables = self._tables(inputs[0])
        if inputs[0].element is ElementType.I8:
            exponential = tables["table"].astype(np.int64)[distance]
        else:
            coarse, fine = (tables[name].astype(np.int64) for name in ("coarse", "fine"))
            drop = 2 * FACTOR_BITS - self._fraction_bits
            exponential = (coarse[distance >> 8] * fine[distance & 255] + (1 << (drop - 1))) >> drop
        total = exponential.sum(axis=-1, keepdims=True)
        bits = self.to.element.bits
        ratio = ((exponential << (bits + 1)) + total) // (total << 1)
        result = np.minimum(ratio, (1 << bits) - 1) + self.to.element.low
        return (result.astype(self.to.element.dtype),)

    @property
    def _fraction_bits(self) -> int:
        assert self.to is not None
        return 16 if self.to.element is ElementType.I8 else 30

    def _tables(self, x: TensorType) -> dict[str, Array]:
        """Contents of the tables of 256 int32 each, by name."""
        steps = np.arange(256, dtype=np.float64) * x.codes.scale
        if x.element is ElementType.I8:
            return {"table": _fixed(np.exp(-steps), self._fraction_bits)}
        return {
            "coarse": _fixed(np.exp(-256 * steps), FACTOR_BITS),
            "fine": _fixed(np.exp(-steps), FACTOR_BITS),
        }

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        fixed = self.fixed_output(to[0].element)
        if to[0] != fixed:
            return Refusal(f"an integer softmax gives {fixed}, not {to[0]}")
        return Quantized(replace(self, to=to[0]))

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        assert self.to is not None
        x, y = activation_buffers(inputs, outputs)
        tables = self._tables(inputs[0].type)
        constants = [Buffer(name, t.shape, I32, Role.CONSTANT) for name, t in tables.items()]
        *rows, last = axes = y.axes()
        row, k = (*rows, Axis("row", 1)), Axis("k", last.extent)
        # Twice the sum, and the numerator beside it, fit int32 up to 16383 exponentials in Q16.
        wide = I32 if self._fraction_bits == 16 and last.extent < 1 << 14 else I64
        highest = Buffer("highest", (*y.shape[:-1], 1), x.element, Role.SCRATCH)
        exponential = Buffer("exponential", y.shape, I32, Role.SCRATCH)
        total = Buffer("total", highest.shape, wide, Role.SCRATCH)
        distance = highest.load(*rows, 0).cast(I32) - x.load(*axes).cast(I32)
        bits = self.to.element.bits
        divisor = total.load(*rows, 0)
        ratio = ((exponential.load(*axes).cast(wide) << (bits + 1)) + divisor) // (divisor << 1)
        result = (minimum(ratio, (1 << bits) - 1) + self.to.element.low).cast(y.element)
        lowest, zero = Constant(x.element.low, x.element), Constant(0, wide)
        stages = (
            Stage("highest", row, x.load(*rows, k), (k,), Reduction.MAX, lowest),
            Stage("exponential", axes, self._exponential(constants, distance)),
            Stage("total", row, exponential.load(*rows, k).cast(wide), (k,), initial=zero),
            Stage("output", axes, result),
        )
        buffers = (x, *constants, y, highest, exponential, total)
        return Lowered(LoopForm("softmax", buffers, stages), (0,), tables)

    def _exponential(self, tables: Sequence[Buffer], distance: Expression) -> Expression:
        if len(tables) == 1:
            return tables[0].load(distance)
        coarse, fine = tables[0].load(distance >> 8), tables[1].load(distance & 255)
        drop = 2 * FACTOR_BITS - self._fraction_bits
        return ((coarse.cast(I64) * fine.cast(I64) + (1 << (drop - 1))) >> drop).cast(I32)


def _fixed(real: Array, bits: int) -> Array:
    return np.floor(np.ldexp(real, bits) + 0.5).astype(np.int32)


@imports("Softmax")
def import_softmax(node: OnnxNode) -> Results:
    """Before opset 13, all axes from `axis` (1 by default) on are one; since then `axis` (the last by
    default) alone counts."""
    x = node.value(0)
    rank, shape = x.type.rank, x.type.shape
    axis = node.integer("axis", 1 if node.opset < 13 else -1)
    if not -rank <= axis < rank:
        raise node.error(f"axis {axis} is no axis of {x.type}")
    axis %= rank
    if axis == rank - 1:
        return (node.emit(Softmax(), x),)
    if node.opset < 13:
        flat = node.emit(Reshape((int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))), x)
        return (node.emit(Reshape(shape), node.emit(Softmax(), flat)),)
    exchange = list(range(rank))
    exchange[axis], exchange[-1] = exchange[-1], exchange[axis]
    moved = node.emit(Transpose(tuple(exchange)), x)
    return (node.emit(Transpose(tuple(exchange)), node.emit(Softmax(), moved)),)
