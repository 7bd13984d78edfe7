"""Quantization of tensors: range -> scale and zero point, real numbers <-> codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compiler.numerics.element import Array, ElementType


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale * (code - zero_point).

    scales: one scale, or one per index of `axis`. zero_point is 0 where scales are per channel.
    """

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int | None = None

    def __post_init__(self) -> None:
        if not self.scales or not all(s > 0 and math.isfinite(s) for s in self.scales):
            raise ValueError(f"scales must be positive and finite: {self.scales[:4]}")
        if self.axis is None and len(self.scales) != 1:
            raise ValueError(f"{len(self.scales)} scales without an axis")
        if self.axis is not None and self.zero_point != 0:
            raise ValueError("a per-channel quantization has zero point 0")

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantization."""
        if self.axis is not None:
            raise ValueError("a per-channel quantization has no single scale")
        return self.scales[0]

    def scale_array(self, rank: int) -> Array:
        """Scales as float64, shaped to broadcast against a tensor of `rank` dimensions."""
        scales = np.array(self.scales, np.float64)
        if self.axis is None:
            return scales.reshape((1,) * rank)
        return scales.reshape([-1 if i == self.axis else 1 for i in range(rank)])


@dataclass(frozen=True, slots=True)
class QuantizedType:
    """Element type and quantization together: what `Op.to` asks of an operator's result."""

    element: ElementType
    quantization: Quantization

    @property
    def scale(self) -> float:
        return self.quantization.scale

    @property
    def zero_point(self) -> int:
        return self.quantization.zero_point

    def clamp_codes(self, clamp: tuple[float, float] | None) -> tuple[int, int]:
        """Code bounds of a real clamp [low, high] within the element's range; infinities mean none."""
        low, high = self.element.low, self.element.high
        if clamp is None:
            return low, high
        if self.element is ElementType.B1:  # of the sign of the clamped number
            return (high if clamp[0] >= 0 else low), (low if clamp[1] < 0 else high)
        bounds = [self._bound(c) for c in clamp]
        return max(low, min(high, bounds[0])), max(low, min(high, bounds[1]))

    def _bound(self, real: float) -> int:
        if math.isinf(real):
            return self.element.low if real < 0 else self.element.high
        return math.floor(real / self.scale + 0.5) + self.zero_point


def from_range(
    low: float, high: float, element: ElementType = ElementType.I8, symmetric: bool = False
) -> Quantization:
    """Per-tensor quantization of the real interval [low, high], widened to contain 0.

    The zero point is an exact code, so padding and ReLU are exact. Scales are float32 numbers (as ONNX
    and C hold them). An interval of zero width gets scale 1.
    Errors: ValueError where a bound is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"range [{low}, {high}] is not finite")
    low, high = min(low, 0.0), max(high, 0.0)
    qmin, qmax = element.low, element.high
    if symmetric or element is ElementType.B1:
        bound = max(-low, high)
        return Quantization((_float32(bound / qmax) if bound > 0 else 1.0,))
    width = (high - low) / (qmax - qmin)
    if width < np.finfo(np.float32).tiny:
        return Quantization((1.0,))
    scale = _float32(width)
    zero_point = int(np.clip(math.floor(qmin - low / scale + 0.5), qmin, qmax))
    return Quantization((scale,), zero_point)


def symmetric_scales(weights: Array, axis: int | None, element: ElementType) -> Quantization:
    """Symmetric scales of a weight tensor: largest magnitude (per index of `axis`) -> weight_limit.

    Binary weights take the mean magnitude, which minimises the squared error of scale * sign(w).
    All-zero channels get scale 1.
    """
    magnitude = np.abs(np.asarray(weights, np.float64))
    others = tuple(i for i in range(magnitude.ndim) if i != axis) if axis is not None else None
    size = magnitude.mean(axis=others) if element is ElementType.B1 else magnitude.max(axis=others)
    scales = np.atleast_1d(size) / element.weight_limit
    scales = np.where(scales < np.finfo(np.float32).tiny, 1.0, scales)
    return Quantization(tuple(_float32(s) for s in scales), 0, axis)


def quantize_array(real: Array, to: QuantizedType) -> Array:
    """Codes of `real` at compile time (weights, constants): float64, half up, clamped to the element.

    Binary codes are the sign, with 0 -> +1.
    """
    if to.element is ElementType.B1:
        return np.where(np.asarray(real) < 0, -1, 1).astype(np.int8)
    scaled = np.asarray(real, np.float64) / to.quantization.scale_array(np.ndim(real))
    low = -to.element.weight_limit if to.quantization.axis is not None else to.element.low
    codes = np.floor(scaled + 0.5) + to.quantization.zero_point
    return np.clip(codes, low, to.element.high).astype(to.element.dtype)


def dequantize_array(codes: Array, of: QuantizedType) -> Array:
    """Real values of codes, float64."""
    q = of.quantization
    return (np.asarray(codes, np.float64) - q.zero_point) * q.scale_array(np.ndim(codes))


def reciprocal_scale(scale: float) -> np.float32:
    """The float32 factor that quantizing at run time multiplies by."""
    return np.float32(1.0 / scale)


def quantize_float32(real: Array, to: QuantizedType) -> Array:
    """Codes of float32 `real` at run time, as every target computes them, in float32 throughout:
    clamp(floor(x * reciprocal + 1/2), low - zp, high - zp) + zp; each operation rounds once (no FMA).
    A NaN gives the highest code (the comparison x < high is false). For b1: -1 where x < 0, else +1.
    """
    if to.element is ElementType.B1:
        return np.where(np.asarray(real, np.float32) < 0, -1, 1).astype(np.int8)
    x = np.asarray(real, np.float32) * reciprocal_scale(to.scale) + np.float32(0.5)
    low, high = (np.float32(b - to.zero_point) for b in (to.element.low, to.element.high))
    x = np.floor(x)
    x = np.where(x < high, x, high)
    x = np.where(x > low, x, low)
    return (x.astype(np.int32) + to.zero_point).astype(to.element.dtype)


def dequantize_float32(codes: Array, of: QuantizedType) -> Array:
    """float32(code - zero_point) * float32(scale): one rounding."""
    return (np.asarray(codes, np.int32) - of.zero_point).astype(np.float32) * np.float32(of.scale)


def _float32(x: float) -> float:
    return float(np.float32(x))
