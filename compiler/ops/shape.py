"""Operators that move elements and never change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.ir.op import Arrays, Lowered, Op, Operand, QuantizedOperand, Types, expect
from compiler.ir.types import Shape, TensorType
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array, ElementType


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    """The same elements in C order under another shape."""

    mnemonic: ClassVar[str] = "reshape"
    is_view: ClassVar[bool] = True
    keeps_quantization: ClassVar[bool] = True
    reads_bits: ClassVar[bool] = True
    writes_bits: ClassVar[bool] = True
    shape: Shape

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(x.count == math.prod(self.shape), f"cannot reshape {x} to {list(self.shape)}")
        expect(x.quantization is None or x.quantization.axis is None, f"cannot reshape per-channel {x}")
        bits = x.element is ElementType.B1
        expect(
            not bits or self._keeps_bytes(x.shape), f"cannot reshape {x} to {list(self.shape)}: bytes break"
        )
        return (x.with_shape(self.shape),)

    def _keeps_bytes(self, shape: Shape) -> bool:
        """Whether packed bits lie alike under both shapes: rows of the last axis fill bytes, or stay."""
        rows = (*shape[-1:], *self.shape[-1:])
        return shape[-1:] == self.shape[-1:] or (len(rows) == 2 and not any(row % 8 for row in rows))

    def takes_bits(self, inputs: Sequence[QuantizedOperand], weights: ElementType) -> bool:
        return self._keeps_bytes(inputs[0].type.shape)

    def of_channels(self, x: TensorType, count: int) -> Op | None:
        if not self.shape or self.shape[-1] != x.shape[-1]:
            return None
        return replace(self, shape=(*self.shape[:-1], count))

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (arrays[0].reshape(self.shape),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        raise TypeError("reshape is a view")


def unpermuted(numbers: tuple[int, ...], permutation: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers per axis of a transposed tensor, in the order of the tensor's own axes."""
    return tuple(numbers[permutation.index(d)] for d in range(len(permutation)))


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """Output axis d is input axis permutation[d]."""

    mnemonic: ClassVar[str] = "transpose"
    keeps_quantization: ClassVar[bool] = True
    permutation: tuple[int, ...]

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(
            sorted(self.permutation) == list(range(x.rank)),
            f"permutation {list(self.permutation)} does not permute the {x.rank} axes of {x}",
        )
        expect(x.quantization is None or x.quantization.axis is None, f"cannot transpose per-channel {x}")
        return (x.with_shape(tuple(x.shape[p] for p in self.permutation)),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.ascontiguousarray(arrays[0].transpose(self.permutation)),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        axes = y.axes()
        source = [axes[self.permutation.index(d)] for d in range(len(axes))]
        form = LoopForm("transpose", (x, y), (Stage("output", axes, x.load(*source)),))
        return Lowered(form, (0,))


def activation_buffers(inputs: Sequence[Operand], outputs: Sequence[Operand]) -> tuple[Buffer, Buffer]:
    """Buffers "input" and "output" of a node's first operands."""
    x, y = inputs[0], outputs[0]
    return (
        Buffer("input", x.type.shape, x.type.element, Role.INPUT, x.strides),
        Buffer("output", y.type.shape, y.type.element, Role.OUTPUT, y.strides),
    )
