"""Dense layers: the last axis by constant weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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
from compiler.ir.types import TensorType
from compiler.loops.form import Convolution
from compiler.numerics.convolve import integer_matmul
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.contraction import (
    Clamp,
    form_constants,
    output_type,
    overflow_reason,
    quantize_contraction,
    requantized,
    takes_bits,
)


@dataclass(frozen=True, slots=True)
class Dense(Op):
    """input [..., K] * weight [N, K] + bias [N] -> [..., N].

    clamp: bounds of the real result (a fused activation). to: type of the codes that the accumulators are
    requantized to; None for f32 and for raw i32 accumulators.
    """

    mnemonic: ClassVar[str] = "dense"
    reads_bits: ClassVar[bool] = True
    writes_bits: ClassVar[bool] = True
    clamp: Clamp = None
    to: QuantizedType | None = None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        x, weight = inputs[0], inputs[1]
        expect(x.rank >= 1 and weight.rank == 2, f"dense of {x} by {weight}: the weight needs two axes")
        expect(
            x.shape[-1] == weight.shape[1],
            f"reduction sizes differ: input {x} has K={x.shape[-1]}, weight {weight} has K={weight.shape[1]}",
        )
        if len(inputs) == 3:
            expect(inputs[2].shape == weight.shape[:1], f"bias {inputs[2]} for {weight.shape[0]} channels")
        return (output_type(inputs, (*x.shape[:-1], weight.shape[0]), self.to),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        result = arrays[0] @ arrays[1].T
        if len(arrays) == 3:
            result = result + arrays[2]
        return (result if self.clamp is None else np.clip(result, *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        centred = arrays[0].astype(np.int32) - inputs[0].codes.zero_point
        accumulator = integer_matmul(centred, arrays[1].T) + arrays[2]
        if self.to is None:
            return (accumulator.astype(np.int32),)
        return (requantized(accumulator, inputs, self.to, self.clamp),)

    def takes_strides(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
        return is_row_slice(shape, strides)

    def overflow(self, inputs: Types, constants: Sequence[Array | None]) -> str | None:
        return overflow_reason(inputs, constants)

    def macs(self, inputs: Types) -> int:
        return inputs[0].count * inputs[1].shape[0]

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return quantize_contraction(replace(self, to=to[0]), to[0], inputs, weights)

    def takes_bits(self, inputs: Sequence[QuantizedOperand], weights: ElementType) -> bool:
        return takes_bits(inputs, weights)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """The rows are the pixels of an image of height 1, convolved 1x1."""
        x, weight, y = inputs[0], inputs[1], outputs[0]
        arrays = [c for c in (inputs[1].constant, inputs[2].constant) if c is not None]
        rows, channels = x.type.count // x.type.shape[-1], weight.type.shape[0]
        form = Convolution(
            batch=1,
            in_height=1,
            in_width=rows,
            in_channels=x.type.shape[-1],
            out_height=1,
            out_width=rows,
            out_channels=channels,
            kernel_height=1,
            kernel_width=1,
            input=x.type.element,
            weight=weight.type.element,
            output=y.type.element,
            input_pitch=_pitch(x),
            output_pitch=_pitch(y),
        )
        arrays[0] = arrays[0].reshape(channels, 1, 1, -1)
        return Lowered(form, (0,), form_constants([o.type for o in inputs], arrays, self.to, self.clamp))


def _pitch(operand: Operand) -> int | None:
    """Elements between neighbouring rows; None where they are dense. Rows are evenly spaced: see
    `is_row_slice`."""
    strides, shape = operand.strides, operand.type.shape
    if strides is None or len(shape) < 2:
        return None
    # Axes of extent 1 say nothing of the pitch.
    return next((s for s, n in zip(strides[-2::-1], shape[-2::-1], strict=True) if n > 1), strides[-2])


def is_row_slice(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements of a row are contiguous and neighbouring rows lie a constant pitch apart."""
    rows = [(s, n) for s, n in zip(strides[:-1], shape[:-1], strict=True) if n > 1]
    even = all(s == inner * n for (s, _), (inner, n) in pairwise(rows))
    return (strides[-1] == 1 or shape[-1] == 1) and even
