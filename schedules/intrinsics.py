"""The vector arithmetic of a convolution kernel, as TIR expressions: plain, and what machines override.

Expressions are TVM's, which carry no types. Vectors have `lanes` int32 lanes; `products` is how many
activations and weights one step takes per lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tvm.tirx
import tvm.tirx.script.builder.ir

# TVM's annotations exclude the Python numbers that its functions take, so its modules are untyped here.
tirx: Any = tvm.tirx
tir: Any = tvm.tirx.script.builder.ir  # statements, added to the function under construction
Expr = Any
Buffer = Any


def broadcast(scalar: Expr, lanes: int) -> Expr:
    return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar


def load(buffer: Buffer, offset: Expr, dtype: str, lanes: int) -> Expr:
    """buffer[offset : offset + lanes]; dtype is the buffer's."""
    return buffer.vload([offset], f"{dtype}x{lanes}") if lanes > 1 else buffer[offset]


def store(buffer: Buffer, offset: Expr, value: Expr, lanes: int) -> None:
    """buffer[offset : offset + lanes] = value."""
    tir.buffer_store(buffer, value, [tirx.Ramp(offset, 1, lanes) if lanes > 1 else offset])


def store_bits(buffer: Buffer, offset: Expr, bits: Expr, lanes: int, valid: int) -> None:
    """Bytes of a uint8 buffer from `offset` on: the first lane in the lowest bit. bits: bool vector of 8, 16,
    … lanes, of which the first `valid` count; the rest of their last byte becomes 0, and none is stored."""
    # TVM keeps a bool in a byte, a uint1 in a bit: so the vector is one integer, as LLVM has it.
    word = reinterpret(f"uint{lanes}", tirx.Cast(f"uint1x{lanes}", bits))
    if valid >= lanes:
        count = lanes // 8
        store(buffer, offset, word if count == 1 else reinterpret(f"uint8x{count}", word), count)
        return
    masked = word & tirx.const((1 << valid) - 1, f"uint{lanes}")
    for i in range(-(-valid // 8)):
        shifted = tirx.shift_right(masked, tirx.const(8 * i, f"uint{lanes}"))
        store(buffer, offset + i, tirx.Cast("uint8", shifted), 1)


def constant(value: int, dtype: str, lanes: int) -> Expr:
    return broadcast(tirx.const(value, dtype), lanes)


def cast(dtype: str, lanes: int, value: Expr) -> Expr:
    return tirx.Cast(f"{dtype}x{lanes}" if lanes > 1 else dtype, value)


def reinterpret(dtype: str, value: Expr) -> Expr:
    return tirx.reinterpret(dtype, value)


class PlainInstructions:
    """Any machine: one product per step, widened to int32; LLVM finds the multiplies that it can."""

    products = 1
    # Output pixels whose sums one accumulator holds, and registers of weights in a vector of channels: there
    # is an accumulator for each group of `pixels` pixels and each register of weights.
    pixels = 1
    registers = 1
    # How many vectors of results `narrow` turns into codes together, by bits of the code.
    narrows: Mapping[int, int] = MappingProxyType({8: 1, 16: 1})

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        """The activations of step `step` behind `offset`, the same for every lane. May read up to
        16 bytes from the first step of an unrolled group on."""
        return broadcast(tirx.Cast("int32", source[offset + step]), lanes)

    @property
    def folds(self) -> bool:
        """Whether `fold` does anything."""
        return self.pixels * self.registers > 1

    def gather(self, source: Buffer, offsets: Sequence[Expr], step: int, lanes: int) -> Expr:
        """The activations of step `step` of a group of pixels, behind their offsets."""
        (offset,) = offsets
        return self.spread(source, offset, step, lanes)

    def start(self, bias: Expr, lanes: int) -> list[Expr]:
        """Accumulators of a vector of channels and a group of pixels before the first step."""
        return [bias]

    def fold(self, accumulators: Sequence[Expr], bias: Expr, lanes: int) -> list[Expr]:
        """Sums of a vector of channels, for each pixel of a group, from their accumulators; with the bias
        that `start` left out."""
        return list(accumulators)

    def prefetch(self, buffer: Buffer, offset: Expr, count: int) -> None:
        """Asks for `count` bytes behind `offset` of a buffer of bytes, which may lie beyond its end; nothing
        where it is not known to pay."""

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        """accumulator + products; weights: int8 vector [lane, product]."""
        return accumulator + activations * cast("int32", lanes, weights)

    def accumulate_half(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        """The same for a step whose second half of products is zero."""
        return self.accumulate(accumulator, activations, weights, lanes)

    def move_left(self, a: Expr, limit: Expr, left: Expr, lanes: int) -> Expr:
        """a << left; where a lies outside [~limit, limit], any number as far out or farther on its side."""
        lowest = constant(-1, "int32", lanes) - limit
        return tirx.shift_left(tirx.max(tirx.min(a, limit), lowest), left)

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """((a * multiplier >> 32) + rounding) >> shift, exactly; rounding = 2**(shift - 1)."""
        product = cast("int64", lanes, a) * cast("int64", lanes, multiplier)
        high = cast("int32", lanes, tirx.shift_right(product, constant(32, "int64", lanes)))
        return tirx.shift_right(high + rounding, shift)

    def narrow(
        self, scaled: Sequence[Expr], zero: Expr, low: Expr, high: Expr, lanes: int, dtype: str
    ) -> Expr:
        """Codes clamp(scaled + zero, low, high) of all given vectors in a row, as `dtype`; scalars zero,
        low and high are int32, and low and high lie in dtype's range."""
        (value,) = scaled
        shifted = value + broadcast(zero, lanes)
        clamped = tirx.max(tirx.min(shifted, broadcast(high, lanes)), broadcast(low, lanes))
        return cast(dtype, lanes, clamped)
