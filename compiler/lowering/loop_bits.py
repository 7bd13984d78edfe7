"""Packed b1 codes in loops: eight to a byte, +1 as the bit 1, the first in the lowest bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import tvm.tirx

# TVM's annotations exclude the Python numbers that its functions take, so its modules are untyped here.
tirx: Any = tvm.tirx
Value = Any


def packed_load(buffer: Any, first: Value, lanes: int) -> Value:
    """int8 codes of `lanes` bits (a power of two) from bit address `first` on, a multiple of it or of 8."""
    byte, one, two = first >> 3, _int8(1), _int8(2)
    if lanes < 8:
        bits = tirx.Cast("int32", buffer[byte]) >> (first & 7)
        if lanes > 1:
            bits = tirx.Broadcast(bits, lanes) >> _ramp(lanes, "int32")
        codes = tirx.Cast(_vector("int8", lanes), bits)
        return (codes & _spread(one, lanes)) * _spread(two, lanes) - _spread(one, lanes)
    count = lanes // 8
    if count == 1:
        spread = tirx.Broadcast(buffer[byte], 8)
    else:  # a shuffle takes as many lanes as it gives
        spread = tirx.Shuffle([buffer.vload([byte], f"uint8x{count}")] * 8, [i // 8 for i in range(lanes)])
    # The bit's own place is tested, which needs no shift by lane.
    places = tirx.Shuffle([tirx.const(1 << i % 8, "uint8") for i in range(lanes)], list(range(lanes)))
    unset = tirx.EQ(spread & places, _spread(tirx.const(0, "uint8"), lanes))
    return tirx.Select(unset, _spread(_int8(-1), lanes), _spread(one, lanes))


def packed_store(buffer: Any, first: Value, codes: Value) -> Value:
    """Statement that stores int8 codes, of 8, 16, ... lanes, at bit address `first`, a multiple of 8; or the
    only code of a row."""
    lanes = codes.ty.dtype.lanes
    if lanes == 1:
        return packed_rest(buffer, first, [codes])
    count = lanes // 8
    positive = codes > _spread(_int8(0), lanes)
    # TVM keeps a bool in a byte, a uint1 in a bit: so the vector is one integer, as LLVM has it.
    word = tirx.reinterpret(f"uint{lanes}", tirx.Cast(f"uint1x{lanes}", positive))
    if count == 1:
        return tirx.BufferStore(buffer, word, [first >> 3])
    place = tirx.Ramp(first >> 3, tirx.const(1, "int32"), tirx.const(count, "int32"))
    return tirx.BufferStore(buffer, tirx.reinterpret(f"uint8x{count}", word), [place])


def packed_rest(buffer: Any, first: Value, codes: Sequence[Value]) -> Value:
    """Statement that stores the last codes of a row, fewer than eight, and 0 behind them."""
    bits = [
        tirx.Select(code > _int8(0), tirx.const(1 << i, "uint8"), tirx.const(0, "uint8"))
        for i, code in enumerate(codes)
    ]
    return tirx.BufferStore(buffer, reduce(lambda a, b: a | b, bits), [first >> 3])


def _int8(value: int) -> Value:
    return tirx.const(value, "int8")


def _ramp(lanes: int, dtype: str) -> Value:
    return tirx.Ramp(tirx.const(0, dtype), tirx.const(1, dtype), tirx.const(lanes, "int32"))


def _spread(value: Value, lanes: int) -> Value:
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"
