"""What convolution and dense layers share: the quantized weights, the bias, and the requantize factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.ir.op import Op, Quantized, QuantizedOperand, Refusal, expect
from compiler.ir.types import TensorType, quantized
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import bipolar, nearest_factors, requantize
from compiler.numerics.quantization import (
    Quantization,
    QuantizedType,
    quantize_array,
    symmetric_scales,
)

INT32_LIMIT = (1 << 31) - 1
Clamp = tuple[float, float] | None


def accumulator_scales(x: TensorType, weight: TensorType) -> Array:
    """Real value of one unit of the accumulator, per output channel (axis 0 of the weights), float64."""
    return x.codes.scale * np.array(weight.codes.quantization.scales, np.float64)


def bias_type(x: TensorType, weight: TensorType) -> TensorType:
    """i32 codes on the accumulator's scales; the axis is 0 where the weights are per channel."""
    scales = tuple(float(s) for s in accumulator_scales(x, weight))
    axis = weight.codes.quantization.axis
    return TensorType((weight.shape[0],), ElementType.I32, Quantization(scales, 0, axis))


def output_type(inputs: Sequence[TensorType], shape: tuple[int, ...], to: QuantizedType | None) -> TensorType:
    """Type of a contraction's result: f32 from f32, `to` from codes, raw accumulators for to = None."""
    x, weight = inputs[0], inputs[1]
    if x.element is ElementType.F32:
        expect(to is None, f"a float contraction of {x} cannot give {to}")
        expect(weight.element is ElementType.F32, f"input is {x}, weight is {weight}: quantize both or none")
        return TensorType(shape, ElementType.F32)
    expect(weight.is_quantized, f"input is {x}, weight is {weight}: quantize both or none")
    if x.element is ElementType.B1:
        expect(weight.element is ElementType.B1, f"input is {x}, weight is {weight}: b1 meets b1 alone")
    expect(len(inputs) == 3, f"an integer contraction of {x} needs a bias (zeros will do)")
    bias = inputs[2]
    expect(bias == bias_type(x, weight), f"bias is {bias}, the accumulators are {bias_type(x, weight)}")
    if to is not None:
        return quantized(shape, to)
    q = bias.codes.quantization
    axis = None if q.axis is None else len(shape) - 1
    return TensorType(shape, ElementType.I32, Quantization(q.scales, 0, axis))


def output_factors(inputs: Sequence[TensorType], to: QuantizedType) -> tuple[Array, Array]:
    """Multiplier and shift of each output channel, two int32 arrays."""
    channels = inputs[1].shape[0]
    factors = accumulator_scales(inputs[0], inputs[1]) / to.scale
    return nearest_factors(np.broadcast_to(factors, (channels,)))


def requantized(accumulator: Array, inputs: Sequence[TensorType], to: QuantizedType, clamp: Clamp) -> Array:
    """Codes of int64 accumulators [..., channels]."""
    low, high = to.clamp_codes(clamp)
    if to.element is ElementType.B1:
        return bipolar(accumulator, low, high).astype(to.element.dtype)
    multiplier, shift = output_factors(inputs, to)
    return requantize(accumulator, multiplier, shift, to.zero_point, low, high).astype(to.element.dtype)


def form_constants(
    inputs: Sequence[TensorType], arrays: Sequence[Array], to: QuantizedType | None, clamp: Clamp
) -> dict[str, Array]:
    """Constant operands of a `Convolution` form, from the codes of weight and bias."""
    constants: dict[str, Array] = {"weight": arrays[0], "bias": arrays[1]}
    zero_point = inputs[0].codes.zero_point
    if to is None:
        return {**constants, "parameters": np.array([zero_point, 0, 0, 0], np.int32)}
    low, high = to.clamp_codes(clamp)
    parameters = np.array([zero_point, to.zero_point, low, high], np.int32)
    if to.element is ElementType.B1:
        return {**constants, "parameters": parameters}
    multiplier, shift = output_factors(inputs, to)
    return {**constants, "multiplier": multiplier, "shift": shift, "parameters": parameters}


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """Weight and bias of a contraction after quantization, with output channels on axis 0."""

    weight_type: TensorType
    weight: Array
    bias_type: TensorType
    bias: Array


def quantize_weights(
    x: TensorType,
    weight: QuantizedOperand,
    bias: QuantizedOperand | None,
    element: ElementType,
    rounding: float = 0.5,
) -> QuantizedWeights:
    """Symmetric weights and an int32 bias. Where a channel's worst-case accumulator could leave int32, its
    scale is raised just enough: it loses precision, never correctness.

    rounding: added to the bias before its floor is taken.
    """
    assert weight.constant is not None
    real = np.asarray(weight.constant, np.float64)
    real_bias = np.zeros(real.shape[0]) if bias is None or bias.constant is None else bias.constant
    axis = 0 if weight.by_channel else None
    scales = np.array(symmetric_scales(real, axis, element).scales, np.float64)
    # A bias may take at most half of the accumulator's range.
    floor = np.abs(np.asarray(real_bias, np.float64)) / (x.codes.scale * (1 << 30))
    scales = np.maximum(scales, floor if weight.by_channel else floor.max(initial=0))
    for _ in range(16):
        quantization = Quantization(tuple(float(np.float32(s)) for s in scales), 0, axis)
        weight_type = TensorType(real.shape, element, quantization)
        codes = quantize_array(real, weight_type.codes)
        b_type = bias_type(x, weight_type)
        b_codes = np.floor(np.asarray(real_bias, np.float64) / accumulator_scales(x, weight_type) + rounding)
        worst = worst_accumulators(x, codes, b_codes)
        if np.all(worst <= INT32_LIMIT):
            return QuantizedWeights(weight_type, codes, b_type, b_codes.astype(np.int32))
        excess = np.maximum(1.0, worst / INT32_LIMIT * 1.001)
        scales = scales * (excess if weight.by_channel else excess.max())
    raise ValueError("no weight scale keeps the accumulator in int32")


def takes_bits(inputs: Sequence[QuantizedOperand], weights: ElementType) -> bool:
    """For `Op.takes_bits`: whether the weights are or become bipolar."""
    weight = inputs[1].constant
    return weight is not None and (weights is ElementType.B1 or _is_bipolar(weight))


def _is_bipolar(weight: Array) -> bool:
    """Whether each output channel knows one magnitude alone, so that b1 codes are exact."""
    magnitude = np.abs(weight.reshape(weight.shape[0], -1))
    return bool(np.all(magnitude == magnitude[:, :1]) and np.all(magnitude > 0))


def quantize_contraction(
    op: Op, to: QuantizedType, inputs: Sequence[QuantizedOperand], weights: ElementType
) -> Quantized | Refusal:
    """For `Op.quantize`: the integer operator `op`, whose result is `to`, with weight (input 1) and bias
    (input 2) as codes."""
    if inputs[1].constant is None or (len(inputs) == 3 and inputs[2].constant is None):
        return Refusal("weight or bias is computed at run time")
    bias = inputs[2] if len(inputs) == 3 else None
    if inputs[0].type.element is ElementType.B1:
        weights = ElementType.B1
    # An integer sum is >= -b exactly where it is >= -floor(b): the sign of the real sum is kept.
    rounding = 0.0 if to.element is ElementType.B1 else 0.5
    q = quantize_weights(inputs[0].type, inputs[1], bias, weights, rounding)
    return Quantized(op, {1: (q.weight_type, q.weight), 2: (q.bias_type, q.bias)})


def worst_accumulators(x: TensorType, weight: Array, bias: Array) -> Array:
    """Largest magnitude of each output channel's accumulator over all inputs, float64."""
    flat = weight.reshape(weight.shape[0], -1).astype(np.float64)
    positive, negative = np.maximum(flat, 0).sum(axis=1), np.minimum(flat, 0).sum(axis=1)
    low, high = (c - x.codes.zero_point for c in (x.element.low, x.element.high))
    largest = positive * high + negative * low + bias
    smallest = positive * low + negative * high + bias
    return np.maximum(np.abs(largest), np.abs(smallest))


def overflow_reason(inputs: Sequence[TensorType], constants: Sequence[Array | None]) -> str | None:
    """For `Op.overflow`: why a contraction with these constants may leave int32, or None."""
    if not inputs[0].is_quantized or len(constants) < 3 or constants[1] is None or constants[2] is None:
        return None
    worst = worst_accumulators(inputs[0], constants[1], constants[2])
    channel = int(worst.argmax())
    if worst[channel] <= INT32_LIMIT:
        return None
    length = constants[1].size // constants[1].shape[0]
    return f"the accumulator of channel {channel} (a sum of {length} products) can reach {worst[channel]:.3g}"
