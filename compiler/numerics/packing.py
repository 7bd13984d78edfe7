"""Sub-byte codes <-> bytes: little end first, the element of lowest index in the lowest bits."""

from __future__ import annotations

import numpy as np

from compiler.numerics.element import Array, ElementType


def pack(codes: Array, element: ElementType) -> Array:
    """Flat uint8 array of the codes in C order; the last byte is filled up with zero bits.

    Two's complement fields of `element.bits`; B1 stores +1 as 1 and -1 as 0. Wider elements keep
    their little-endian bytes.
    Errors: ValueError where a code does not fit the element.
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    if flat.size and (flat.min() < element.low or flat.max() > element.high):
        raise ValueError(f"codes [{flat.min()}, {flat.max()}] do not fit {element.value}")
    if element.bits >= 8:
        return flat.astype(element.dtype.newbyteorder("<")).view(np.uint8)
    fields = (flat > 0) if element is ElementType.B1 else flat & ((1 << element.bits) - 1)
    per_byte = 8 // element.bits
    padded = np.zeros(-(-flat.size // per_byte) * per_byte, np.uint8)
    padded[: flat.size] = fields.astype(np.uint8)
    shifts = np.arange(per_byte, dtype=np.uint8) * element.bits
    return np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8)


def unpack(data: Array, element: ElementType, count: int) -> Array:
    """The first `count` codes of packed `data`, in `element.dtype`: the inverse of `pack`."""
    raw = np.ascontiguousarray(data, np.uint8)
    if element.bits >= 8:
        little = raw[: count * element.bits // 8].view(element.dtype.newbyteorder("<"))
        return little.astype(element.dtype)
    shifts = np.arange(8 // element.bits, dtype=np.uint8) * element.bits
    fields = ((raw[:, None] >> shifts) & ((1 << element.bits) - 1)).reshape(-1)[:count].astype(np.int8)
    if element is ElementType.B1:
        return (fields * 2 - 1).astype(np.int8)
    sign = 1 << (element.bits - 1)
    return ((fields ^ sign) - sign).astype(np.int8)
