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


def deflate(raw: Array) -> Array:
    """uint8 bytes -> compressed uint8 bytes."""
    data = np.ascontiguousarray(raw, np.uint8).reshape(-1)
    parts = [_pack_block(data[i : i + BLOCK]) for i in range(0, data.size, BLOCK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def inflate(packed: Array, raw_bytes: int) -> Array:
    """The `raw_bytes` bytes that `deflate` made `packed` of.

    Errors: ValueError where `packed` ends early, has bytes left, or is none of `deflate`.
    """
    parts: list[Array] = []
    at = 0
    for begin in range(0, raw_bytes, BLOCK):
        part, used = _unpack_block(packed[at:], min(BLOCK, raw_bytes - begin))
        parts.append(part)
        at += used
    if at != packed.size:
        raise ValueError(f"{packed.size} compressed bytes, {at} are used")
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _pack_block(data: Array) -> Array:
    signed = data.view(np.int8).astype(np.int64)
    folded = np.where(signed < 0, -2 * signed - 1, 2 * signed)
    bits = [int((folded >> k).sum()) + data.size * (1 + k) for k in range(8)]
    k = int(np.argmin(bits))
    ends = np.cumsum((folded >> k) + 1)
    unary = np.ones(int(ends[-1]), np.uint8)
    unary[ends - 1] = 0
    rests = ((folded[:, None] >> np.arange(k)) & 1).astype(np.uint8).reshape(-1)
    parts = [np.packbits(part, bitorder="little") for part in (rests, unary)]
    if parts[0].size + parts[1].size >= data.size:
        return np.concatenate([np.array([STORED], np.uint8), data])
    return np.concatenate([np.array([k], np.uint8), *parts])


def _unpack_block(packed: Array, count: int) -> tuple[Array, int]:
    """`count` bytes, and how many of `packed` they took."""
    if not packed.size:
        raise ValueError("the compressed bytes end before a block")
    k = int(packed[0])
    behind = 1 + (count if k == STORED else (count * k + 7) // 8)
    if packed.size < behind or (k > 7 and k != STORED):
        raise ValueError(f"the compressed bytes end inside of a block, or its width {k} is none")
    if k == STORED:
        return packed[1:behind].copy(), behind
    # Never longer than the block itself, which would have been stored.
    unary = np.unpackbits(packed[behind : behind + BLOCK], bitorder="little")
    ends = np.flatnonzero(unary == 0)[:count]
    if ends.size < count:
        raise ValueError("the compressed bytes end inside of a block")
    rests = np.unpackbits(packed[1:behind], bitorder="little")[: count * k]
    rest = (rests.reshape(count, k).astype(np.int64) << np.arange(k)).sum(axis=1)
    folded = (np.diff(ends, prepend=-1) - 1 << k) | rest
    values = np.where(folded & 1, ~(folded >> 1), folded >> 1).astype(np.uint8)
    return values, behind + int(ends[-1]) // 8 + 1
