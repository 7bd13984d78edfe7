"""How activations of b1 lie in memory.

+1 is the bit 1 and -1 the bit 0; eight channels make a byte, the first in the lowest bit. A pixel takes whole
bytes, and bits behind its last channel are 0.
"""

from __future__ import annotations

import numpy as np

from compiler.numerics.element import Array


def packed_bytes(channels: int) -> int:
    """Bytes of one pixel."""
    return -(-channels // 8)


def pack_bits(codes: Array) -> Array:
    """Codes [..., channels] -> uint8 [..., bytes]."""
    return np.packbits(codes > 0, axis=-1, bitorder="little")


def unpack_bits(packed: Array, channels: int) -> Array:
    """The inverse of `pack_bits`: int8 codes."""
    bits = np.unpackbits(packed, axis=-1, count=channels, bitorder="little")
    return (bits.astype(np.int8) * 2 - 1).astype(np.int8)
