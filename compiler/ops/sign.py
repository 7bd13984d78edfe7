"""The sign of every element: where a network of bipolar activations makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.op import Arrays, Lowered, Op, Operand, Quantized, QuantizedOperand, Refusal, Types
from compiler.ir.types import TensorType
from compiler.loops.expression import Constant, Select
from compiler.loops.form import LoopForm, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.edge import Requantize
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.shape import activation_buffers

F32 = ElementType.F32


@dataclass(frozen=True, slots=True)
class Sign(Op):
    """magnitude where x >= 0, else -magnitude: one bit. Its integer form is a requantize to b1, which an
    operator in front of it takes over: then the sign is that of its exact sum."""

    mnemonic: ClassVar[str] = "sign"
    magnitude: float = 1.0

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return self

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        magnitude = arrays[0].dtype.type(self.magnitude)
        return (np.where(arrays[0] < 0, -magnitude, magnitude),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def fixed_output(self, element: ElementType) -> QuantizedType | None:
        return QuantizedType(ElementType.B1, Quantization((self.magnitude,)))

    def takes_bits(self, inputs: Sequence[QuantizedOperand], weights: ElementType) -> bool:
        return True

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Quantized(Requantize(to[0]), note="0 counts as positive: one bit has no code for it")

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        axes = y.axes()
        signs = Constant(-self.magnitude, F32), Constant(self.magnitude, F32)
        value = Select(x.load(*axes).less(0.0), *signs)
        return Lowered(LoopForm("sign", (x, y), (Stage("output", axes, value),)), (0,))


@imports("Sign")
def import_sign(node: OnnxNode) -> Results:
    """One bit: 0 counts as positive, where ONNX gives 0."""
    return (node.emit(Sign(), node.value(0)),)
