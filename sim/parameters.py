"""Entries of the parameter memory: 9 bytes for bias, multiplier and shift of one output channel.

Little end first: bias (32 bits, signed), multiplier - 2**30 (30 bits: its highest bit is always set), shift
(6 bits), 4 bits of 0. Twelve plain bytes would cost a third more traffic, which small networks feel.
"""

from __future__ import annotations

import numpy as np

from compiler.numerics.element import Array
from sim.config import PARAMETER_BYTES

_LEADING = 1 << 30


def pack_parameters(bias: Array, multiplier: Array, shift: Array) -> Array:
    """uint8 [9 n] of n channels. multiplier in [2**30, 2**31), shift in [1, 62].

    Errors: ValueError where a number does not fit its field.
    """
    b, m, s = (np.asarray(x, np.int64).reshape(-1) for x in (bias, multiplier, shift))
    for name, x, low, high in (
        ("bias", b, -(1 << 31), (1 << 31) - 1),
        ("multiplier", m, _LEADING, 2 * _LEADING - 1),
        ("shift", s, 1, 62),
    ):
        if x.size and not (low <= x.min() and x.max() <= high):
            raise ValueError(f"a {name} in [{x.min()}, {x.max()}] lies outside of [{low}, {high}]")
    packed = np.zeros((b.size, PARAMETER_BYTES), np.uint8)
    packed[:, 0:4] = b.astype("<i4").view(np.uint8).reshape(-1, 4)
    factor = (m - _LEADING) | (s << 30)
    packed[:, 4:] = factor.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : PARAMETER_BYTES - 4]
    return packed.reshape(-1)


def unpack_parameters(data: Array) -> tuple[Array, Array, Array]:
    """bias, multiplier, shift (int64 [n]) of uint8 [9 n]."""
    rows = np.ascontiguousarray(data, np.uint8).reshape(-1, PARAMETER_BYTES)
    bias = np.ascontiguousarray(rows[:, :4]).view("<i4").reshape(-1).astype(np.int64)
    wide = np.zeros((len(rows), 8), np.uint8)
    wide[:, : PARAMETER_BYTES - 4] = rows[:, 4:]
    factor = wide.view("<i8").reshape(-1)
    return bias, (factor & (_LEADING - 1)) + _LEADING, (factor >> 30) & 63
