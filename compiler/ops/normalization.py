"""Batch normalization, which a pass folds into the layer before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.op import Arrays, Lowered, Op, Operand, Quantized, QuantizedOperand, Refusal, Types, expect
from compiler.ir.types import TensorType
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.layout import channels_first, channels_last


@dataclass(frozen=True, slots=True)
class BatchNorm(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias along the last axis of x [..., C].

    Inputs: x, scale, bias, mean, variance; all but x are [C]. Float only: see `affine`.
    """

    mnemonic: ClassVar[str] = "batch_norm"
    epsilon: float = 1e-5

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        expect(len(inputs) == 5, f"batch_norm takes five inputs, not {len(inputs)}")
        x = inputs[0]
        expect(all(t.element is ElementType.F32 for t in inputs), f"batch_norm takes f32, not {x}")
        expect(x.rank >= 2, f"batch_norm of {x}: it needs a batch and channels")
        for name, parameter in zip(("scale", "bias", "mean", "variance"), inputs[1:], strict=True):
            expect(parameter.shape == x.shape[-1:], f"input {x} has C={x.shape[-1]}, {name} is {parameter}")
        return (x,)

    def affine(self, parameters: Arrays) -> tuple[Array, Array]:
        """Factor and offset per channel, in the parameters' precision: y = x * factor + offset.

        parameters: scale, bias, mean, variance.
        """
        scale, bias, mean, variance = parameters
        factor = scale / np.sqrt(variance + variance.dtype.type(self.epsilon))
        return factor, bias - mean * factor

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        factor, offset = self.affine(arrays[1:])
        return (arrays[0] * factor + offset,)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        raise TypeError("batch_norm has no integer form")

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        raise TypeError("batch_norm has no loop form")

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Refusal("no convolution or dense layer before this batch norm could take it in")


@imports("BatchNormalization")
def import_batch_norm(node: OnnxNode) -> Results:
    """Inference only: constant statistics, one output."""
    if node.integer("training_mode", 0) or any(node.outputs[1:]):
        raise node.error("the node updates its statistics", "export the model in inference mode")
    if not node.integer("spatial", 1):
        raise node.error("spatial = 0 (statistics per pixel) is not supported", "export with a newer opset")
    x = node.value(0)
    names = ("scale", "bias", "mean", "variance")
    parameters = [node.constant(node.array(i + 1), f"{node.name}.{name}") for i, name in enumerate(names)]
    op = BatchNorm(node.number("epsilon", 1e-5))
    if x.type.rank == 2:
        return (node.emit(op, x, *parameters),)
    y = node.emit(op, channels_last(node, x), *parameters)
    return (channels_first(node, y, x.type.rank),)
