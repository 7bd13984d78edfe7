"""Element types of tensors: what one code or number is, and which values it may take."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ElementType(Enum):
    """Element of a tensor. The value of each member is its spelling in the IR's text.

    `B1` is bipolar: its two values are -1 and +1 (packed as 0 and 1), and it has no zero point. Nothing but
    the sign of a number decides between them, and 0 counts as positive.
    `BOOL` and `I64` occur inside loop forms only, never as the type of a tensor in the IR.
    """

    B1 = "b1"
    I2 = "i2"
    I4 = "i4"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    BOOL = "bool"

    @property
    def bits(self) -> int:
        """Bits of one element where it is stored packed."""
        return _BITS[self]

    @property
    def is_code(self) -> bool:
        """Whether elements are quantized codes, which need a scale to mean a real value."""
        return self in _CODES

    @property
    def is_integer(self) -> bool:
        return self not in (ElementType.F32, ElementType.BOOL)

    @property
    def low(self) -> int:
        """Smallest value; errors on F32."""
        return -1 if self is ElementType.B1 else -(1 << (self._integer_bits() - 1))

    @property
    def high(self) -> int:
        """Largest value; errors on F32."""
        return 1 if self is ElementType.B1 else (1 << (self._integer_bits() - 1)) - 1

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of a weight code: the most negative code is never used.

        Leaving it out makes the sum of two int8 products fit an int16. Binary weights are ±1.
        """
        return 1 if self is ElementType.B1 else (1 << (self._integer_bits() - 1)) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy type that holds unpacked elements; sub-byte codes take one int8 each."""
        return np.dtype(_DTYPES[self])

    def _integer_bits(self) -> int:
        if not self.is_integer:
            raise ValueError(f"{self.value} has no integer range")
        return self.bits

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of an activation of this shape in memory."""
        return math.prod(self.stored_shape(shape)) * self.dtype.itemsize

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of an activation in memory: an element of `dtype` each. Bits are packed along the last axis, whose
        rows take whole bytes."""
        if self is not ElementType.B1 or not shape:
            return shape
        return (*shape[:-1], -(-shape[-1] // 8))

    def bytes_for(self, count: int) -> int:
        """Bytes that `count` packed elements take."""
        return (count * self.bits + 7) // 8


_BITS = {
    ElementType.B1: 1,
    ElementType.I2: 2,
    ElementType.I4: 4,
    ElementType.I8: 8,
    ElementType.I16: 16,
    ElementType.I32: 32,
    ElementType.I64: 64,
    ElementType.F32: 32,
    ElementType.BOOL: 8,
}
_CODES = frozenset({ElementType.B1, ElementType.I2, ElementType.I4, ElementType.I8, ElementType.I16})
_DTYPES = {
    ElementType.B1: np.int8,
    ElementType.I2: np.int8,
    ElementType.I4: np.int8,
    ElementType.I8: np.int8,
    ElementType.I16: np.int16,
    ElementType.I32: np.int32,
    ElementType.I64: np.int64,
    ElementType.F32: np.float32,
    ElementType.BOOL: np.bool_,
}
