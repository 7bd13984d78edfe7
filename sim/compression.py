"""Lossless compression of weights, which `Inflate` undoes on the way into a core: Rice codes in two streams.

Bytes in blocks of 512 (the last may be shorter). A byte v, signed, becomes u = 2 v, or -2 v - 1 where it is
negative, and u is written as its lowest k bits and u >> k in unary (so many ones and a zero). A block is a
byte that holds k, the low bits of all numbers, and all unary numbers, each part little end first and filled
up to a byte; k = 15 marks a block that is stored as it is. Two streams let a decoder find several numbers in
a cycle, and with the unary one behind it can keep up with what arrives. A block costs at most a byte more
than it holds.
"""

from __future__ import annotations

import numpy as np

from compiler.numerics.element import Array

BLOCK, STORED = 512, 15
_SHIFTS = np.arange(8, dtype=np.uint8)[:, None]


def deflate(raw: Array) -> Array:
    """uint8 bytes -> compressed uint8 bytes."""
    data = np.ascontiguousarray(raw, np.uint8).reshape(-1)
    parts = [_pack_block(data[i : i + BLOCK]) for i in range(0, data.size, BLOCK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def inflate(packed: Array, raw_bytes: int) -> Array:
    """The `raw_bytes` bytes that `deflate` made `packed` of.

    Errors: ValueError where `packed` ends early, has bytes left, or is none of `deflate`.
    """
    raw = np.zeros(raw_bytes, np.uint8)
    zeros = np.flatnonzero(np.unpackbits(packed, bitorder="little") == 0)
    # How many zeros lie before each byte.
    before = np.concatenate([[0], np.cumsum(8 - np.bitwise_count(packed), dtype=np.int64)])
    at = 0
    for begin in range(0, raw_bytes, BLOCK):
        count = min(BLOCK, raw_bytes - begin)
        k, behind = _head(packed, at, count)
        if k == STORED:
            raw[begin : begin + count] = packed[at + 1 : behind]
            at = behind
            continue
        ends = zeros[before[behind] : before[behind] + count]
        # Never longer than the block itself, which would have been stored.
        if ends.size < count or ends[-1] >= 8 * (behind + BLOCK):
            raise ValueError("the compressed bytes end inside of a block")
        folded = ends.copy()
        folded[1:] -= ends[:-1]
        folded[0] -= 8 * behind - 1
        folded -= 1
        folded <<= k
        if k:
            rests = np.unpackbits(packed[at + 1 : behind], count=count * k, bitorder="little")
            folded |= np.packbits(rests.reshape(count, k), axis=1, bitorder="little")[:, 0]
        raw[begin : begin + count] = (folded >> 1) ^ -(folded & 1)
        at = int(ends[-1]) // 8 + 1
    if at != packed.size:
        raise ValueError(f"{packed.size} compressed bytes, {at} are used")
    return raw


def _head(packed: Array, at: int, count: int) -> tuple[int, int]:
    """Width of the low bits of a block of `count` bytes, and where what is behind them begins."""
    if at >= packed.size:
        raise ValueError("the compressed bytes end before a block")
    k = int(packed[at])
    behind = at + 1 + (count if k == STORED else (count * k + 7) // 8)
    if packed.size < behind or (k > 7 and k != STORED):
        raise ValueError(f"the compressed bytes end inside of a block, or its width {k} is none")
    return k, behind


def _pack_block(data: Array) -> Array:
    signed = data.view(np.int8).astype(np.int16)
    folded = np.where(signed < 0, -2 * signed - 1, 2 * signed).astype(np.uint8)
    bits = (folded >> _SHIFTS).sum(axis=1, dtype=np.int64) + data.size * (1 + np.arange(8))
    k = int(np.argmin(bits))
    ends = np.cumsum((folded >> k) + np.int64(1))
    unary = np.ones(int(ends[-1]), np.uint8)
    unary[ends - 1] = 0
    rests = np.unpackbits(folded[:, None], axis=1, count=k, bitorder="little").reshape(-1)
    parts = [np.packbits(part, bitorder="little") for part in (rests, unary)]
    if parts[0].size + parts[1].size >= data.size:
        return np.concatenate([np.array([STORED], np.uint8), data])
    return np.concatenate([np.array([k], np.uint8), *parts])
