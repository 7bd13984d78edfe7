"""Convolution over two dimensions (one dimension is height 1)."""

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
from compiler.ir.types import TensorType
from compiler.loops.form import Convolution
from compiler.numerics.convolve import Window, convolve, integer_convolve
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
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.layout import channels_first, channels_last
from compiler.ops.window import import_window


@dataclass(frozen=True, slots=True)
class Conv2D(Op):
    """input [N, H, W, C] * weight [O, KH, KW, C/groups] + bias [O] -> [N, OH, OW, O].

    pads: top, left, bottom, right, with real 0. clamp: bounds of the real result (a fused activation).
    to: type of the codes that the accumulators are requantized to; None for f32 and for raw i32
    accumulators.
    """

    mnemonic: ClassVar[str] = "conv2d"
    reads_bits: ClassVar[bool] = True
    writes_bits: ClassVar[bool] = True
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    clamp: Clamp = None
    to: QuantizedType | None = None

    def window(self, weight: TensorType) -> Window:
        return Window((weight.shape[1], weight.shape[2]), self.stride, self.dilation, self.pads)

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        x, weight = inputs[0], inputs[1]
        expect(x.rank == 4 and weight.rank == 4, f"conv2d of {x} by {weight}: both need four axes")
        channels = weight.shape[3] * self.groups
        expect(x.shape[3] == channels, f"input {x} has C={x.shape[3]}, weight {weight} wants {channels}")
        expect(
            weight.shape[0] % self.groups == 0, f"{weight.shape[0]} output channels in {self.groups} groups"
        )
        bits = ElementType.B1 in (x.element, self.to and self.to.element)
        expect(self.groups == 1 or not bits, f"conv2d of {x} to {self.to} in groups: b1 codes have one group")
        height, width = self.window(weight).output(x.shape[1], x.shape[2])
        expect(height > 0 and width > 0, f"the window of {weight} does not fit once into {x}")
        if len(inputs) == 3:
            expect(inputs[2].shape == weight.shape[:1], f"bias {inputs[2]} for {weight.shape[0]} channels")
        return (output_type(inputs, (x.shape[0], height, width, weight.shape[0]), self.to),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        result = convolve(arrays[0], arrays[1], self.window(inputs[1]), self.groups)
        if len(arrays) == 3:
            result = result + arrays[2]
        return (result if self.clamp is None else np.clip(result, *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        centred = arrays[0].astype(np.int32) - inputs[0].codes.zero_point
        accumulator = integer_convolve(centred, arrays[1], self.window(inputs[1]), self.groups)
        accumulator += arrays[2]
        if self.to is None:
            return (accumulator.astype(np.int32),)
        return (requantized(accumulator, inputs, self.to, self.clamp),)

    def takes_strides(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
        return is_pixel_slice(shape, strides)

    def overflow(self, inputs: Types, constants: Sequence[Array | None]) -> str | None:
        return overflow_reason(inputs, constants)

    def macs(self, inputs: Types) -> int:
        (y,) = self.infer(inputs)
        return y.count * inputs[1].count // inputs[1].shape[0]

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return quantize_contraction(replace(self, to=to[0]), to[0], inputs, weights)

    def gives_bits(self) -> bool:
        return self.groups == 1

    def takes_bits(self, inputs: Sequence[QuantizedOperand], weights: ElementType) -> bool:
        return self.groups == 1 and takes_bits(inputs, weights)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, weight, y = inputs[0], inputs[1], outputs[0]
        arrays = [c for c in (inputs[1].constant, inputs[2].constant) if c is not None]
        form = Convolution(
            batch=x.type.shape[0],
            in_height=x.type.shape[1],
            in_width=x.type.shape[2],
            in_channels=x.type.shape[3],
            out_height=y.type.shape[1],
            out_width=y.type.shape[2],
            out_channels=y.type.shape[3],
            kernel_height=weight.type.shape[1],
            kernel_width=weight.type.shape[2],
            input=x.type.element,
            weight=weight.type.element,
            output=y.type.element,
            stride=self.stride,
            dilation=self.dilation,
            pad=(self.pads[0], self.pads[1]),
            groups=self.groups,
            input_pitch=pitch(x),
            output_pitch=pitch(y),
        )
        constants = form_constants([o.type for o in inputs], arrays, self.to, self.clamp)
        return Lowered(form, (0,), constants)


def pitch(operand: Operand) -> int | None:
    """Elements between neighbouring pixels of an NHWC operand; None where it is dense."""
    return None if operand.strides is None else operand.strides[2]


def is_pixel_slice(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether neighbouring pixels lie a constant pitch apart: channels contiguous, rows without gaps."""
    n, h, w, _ = shape
    dense_rows = h == 1 or strides[1] == w * strides[2]
    return strides[3] == 1 and dense_rows and (n == 1 or strides[0] == h * w * strides[2])


@imports("Conv")
def import_conv(node: OnnxNode) -> Results:
    """x [N, C, spatial...] * weight [O, C/group, spatial...] + bias [O]; weight and bias are constants."""
    x, weight = node.value(0), node.array(1)
    if weight.ndim != x.type.rank:
        raise node.error(f"input is {x.type}, the weight has shape {list(weight.shape)}: ranks differ")
    rank, pixels = x.type.rank, channels_last(node, x)
    window = import_window(node, pixels, weight.shape[2:])
    groups = node.integer("group", 1)
    # OIHW -> OHWI; a single spatial axis is the width.
    ohwi = weight.reshape(*weight.shape[:2], *window.kernel).transpose(0, 2, 3, 1)
    operands = [pixels, node.constant(ohwi, f"{node.name}.weight")]
    if node.has(2):
        operands.append(node.constant(node.array(2), f"{node.name}.bias"))
    y = node.emit(Conv2D(window.stride, window.pads, window.dilation, groups), *operands)
    return (channels_first(node, y, rank),)
