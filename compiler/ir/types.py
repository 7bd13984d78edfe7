"""Types of values: shape, element, quantization."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor with static shape. Codes (i8, …) always carry a quantization; f32 never does;
    i32 (accumulators, biases) may."""

    shape: Shape
    element: ElementType
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if any(d < 0 for d in self.shape):
            raise ValueError(f"negative extent in shape {self.shape}")
        if self.element.is_code and self.quantization is None:
            raise ValueError(f"{self.element.value} codes need a quantization")
        if self.element is ElementType.F32 and self.quantization is not None:
            raise ValueError("f32 carries no quantization")
        q = self.quantization
        if self.element is ElementType.B1 and q is not None and q.zero_point:
            raise ValueError("b1 codes are -1 and +1 and have no zero point")
        if (
            q is not None
            and q.axis is not None
            and (not 0 <= q.axis < len(self.shape) or len(q.scales) != self.shape[q.axis])
        ):
            raise ValueError(f"{len(q.scales)} scales along axis {q.axis} of shape {self.shape}")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all elements, sub-byte codes packed."""
        return self.element.bytes_for(self.count)

    @property
    def is_quantized(self) -> bool:
        return self.element.is_code

    @property
    def codes(self) -> QuantizedType:
        """Element and quantization; errors on types that carry none."""
        if self.quantization is None:
            raise ValueError(f"{self} carries no quantization")
        return QuantizedType(self.element, self.quantization)

    def with_shape(self, shape: Shape) -> TensorType:
        return replace(self, shape=shape)

    def __str__(self) -> str:
        return f"{self.element.value}[{','.join(map(str, self.shape))}]{quantization_text(self.quantization)}"


def f32(*shape: int) -> TensorType:
    return TensorType(shape, ElementType.F32)


def quantized(shape: Shape, of: QuantizedType) -> TensorType:
    return TensorType(shape, of.element, of.quantization)


def quantization_text(q: Quantization | None) -> str:
    """`<scale=0.5, zero_point=-3>` or `<scale=[0.5,0.25], axis=0>`; empty for None."""
    if q is None:
        return ""
    if q.axis is not None:
        return f"<scale=[{','.join(map(repr, q.scales))}], axis={q.axis}>"
    return f"<scale={q.scale!r}, zero_point={q.zero_point}>"
