"""Minimum and maximum of two tensors, broadcast as numpy does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
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
from compiler.ir.types import TensorType
from compiler.loops.expression import maximum, minimum
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.activation import Clip
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.operands import (
    aligned_operands,
    broadcast_shape,
    constants_in,
    lower_binary,
    reals,
)


class _Extreme(Op):
    """Minimum and Maximum: codes of one quantization compare as their real values do."""

    __slots__ = ()
    keeps_quantization: ClassVar[bool] = True
    may_run_in_place: ClassVar[bool] = True

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        a, b = inputs
        same = a.element is b.element and a.quantization == b.quantization
        expect(same, f"{self.mnemonic} of {a} and {b}: both need one quantization")
        expect(a.quantization is None or a.quantization.axis is None, f"{a} has more than one scale")
        return (a.with_shape(broadcast_shape(inputs)),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Quantized(self, constants_in(inputs, to[0]))


@dataclass(frozen=True, slots=True)
class Minimum(_Extreme):
    """min(a, b)."""

    mnemonic: ClassVar[str] = "minimum"

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.minimum(arrays[0], arrays[1]),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        return lower_binary(self.mnemonic, minimum, inputs, outputs)


@dataclass(frozen=True, slots=True)
class Maximum(_Extreme):
    """max(a, b)."""

    mnemonic: ClassVar[str] = "maximum"

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (np.maximum(arrays[0], arrays[1]),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        return lower_binary(self.mnemonic, maximum, inputs, outputs)


@imports("Min")
def import_min(node: OnnxNode) -> Results:
    return [_import_extreme(node, Minimum())]


@imports("Max")
def import_max(node: OnnxNode) -> Results:
    return [_import_extreme(node, Maximum())]


def _import_extreme(node: OnnxNode, op: Minimum | Maximum) -> Value:
    """Two by two; a known number becomes a bound of `Clip`, which fuses into what computes its input."""
    numbers = [reals(node, x).item() for x in node.inputs if isinstance(x, np.ndarray) and x.size == 1]
    tensors = [x for x in node.inputs if not (isinstance(x, np.ndarray) and x.size == 1)]
    result = reduce(lambda a, b: node.emit(op, a, b), aligned_operands(node, *tensors))
    for number in numbers:
        bound = Clip(high=number) if isinstance(op, Minimum) else Clip(low=number)
        result = node.emit(bound, result)
    return result
