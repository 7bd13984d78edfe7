"""Lossless compression of weights, which `Inflate` undoes on the way into a core: Rice codes in two streams.

Bytes in blocks of 512 (the last may be shorter). A byte v, signed, becomes u = 2 v, or -2 v - 1 where it is
negative, and u is written as u >> k in unary (so many ones and a zero) and its lowest k bits. A block is two
bytes (k in the lowest 4 bits, the bytes of the unary part in the rest), all unary numbers, all rests, each
part little end first and filled up to a byte; k = 15 marks a block that is stored as it is. Two streams let a
decoder find several numbers in a cycle. A block costs at most two bytes more than it holds.
"""

from __future__ import annotations

import numpy as np

from compiler.numerics.element import Array

BLOCK, HEADER, STORED = 512, 2, 15


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
    parts = [np.packbits(part, bitorder="little") for part in (unary, rests)]
    if parts[0].size + parts[1].size >= data.size:
        return np.concatenate([_header(STORED, 0), data])
    return np.concatenate([_header(k, parts[0].size), *parts])


def _header(k: int, unary_bytes: int) -> Array:
    return np.frombuffer((k | unary_bytes << 4).to_bytes(HEADER, "little"), np.uint8)


def _unpack_block(packed: Array, count: int) -> tuple[Array, int]:
    """`count` bytes, and how many of `packed` they took."""
    header = int.from_bytes(packed[:HEADER].tobytes(), "little")
    k, unary_bytes = header & 15, header >> 4
    used = HEADER + (count if k == STORED else unary_bytes + (count * k + 7) // 8)
    if packed.size < used:
        raise ValueError("the compressed bytes end inside of a block")
    if k == STORED:
        return packed[HEADER:used].copy(), used
    unary = np.unpackbits(packed[HEADER : HEADER + unary_bytes], bitorder="little")
    ends = np.flatnonzero(unary == 0)[:count]
    if k > 7 or ends.size < count:
        raise ValueError("a block of compressed bytes is damaged")
    rests = np.unpackbits(packed[HEADER + unary_bytes : used], bitorder="little")[: count * k]
    rest = (rests.reshape(count, k).astype(np.int64) << np.arange(k)).sum(axis=1)
    folded = (np.diff(ends, prepend=-1) - 1 << k) | rest
    return np.where(folded & 1, ~(folded >> 1), folded >> 1).astype(np.uint8), used
