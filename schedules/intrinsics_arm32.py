"""Dot products and rescaling of 32-bit Arm (ARMv7-A with NEON); vectors have four lanes, in 16 registers."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from schedules.intrinsics import Buffer, Expr, PlainInstructions, broadcast, constant, reinterpret, tirx


def _neon(dtype: str, name: str, *arguments: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.arm.neon.{name}", *arguments)


def rescale(a: Expr, multiplier: Expr, shift: Expr) -> Expr:
    """VQDMULH keeps one bit more than the high half, VRSHL rounds: shift is -(bits to the right)."""
    return _neon("int32x4", "vrshifts.v4i32", _neon("int32x4", "vqdmulh.v4i32", a, multiplier), shift)


def move_left(a: Expr, left: Expr) -> Expr:
    """a << left, saturated (VQSHL)."""
    return _neon("int32x4", "vqshifts.v4i32", a, left)


def narrow_to_bytes(vectors: Sequence[Expr], zero: Expr, low: Expr, high: Expr) -> Expr:
    """Codes clamp(v + zero, low, high) of four vectors, int8x16: scalars zero, low and high are int32.

    By saturating narrowing, which moves only values outside the clamp.
    """
    offset = broadcast(tirx.Cast("int16", zero), 8)
    halves: list[Expr] = []
    for pair in (vectors[:2], vectors[2:]):
        words = [_neon("int16x4", "vqmovns.v4i16", v) for v in pair]
        together = tirx.Shuffle(words, list(range(8)))
        shifted = tirx.call_llvm_pure_intrin("int16x8", "llvm.sadd.sat", together, offset)
        halves.append(_neon("int8x8", "vqmovns.v8i8", shifted))
    codes = tirx.Shuffle(halves, list(range(16)))
    lowest, highest = (broadcast(tirx.Cast("int8", bound), 16) for bound in (low, high))
    return tirx.max(tirx.min(codes, highest), lowest)


class Neon32Instructions(PlainInstructions):
    """Products of widened lanes, rescaling by name."""

    narrows = MappingProxyType({8: 4, 16: 1})

    def narrow(
        self, scaled: Sequence[Expr], zero: Expr, low: Expr, high: Expr, lanes: int, dtype: str
    ) -> Expr:
        if len(scaled) == 1:
            return super().narrow(scaled, zero, low, high, lanes, dtype)
        return narrow_to_bytes(scaled, zero, low, high)

    def move_left(self, a: Expr, limit: Expr, left: Expr, lanes: int) -> Expr:
        return move_left(a, left)

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        return rescale(a, multiplier, shift)


class WideningDot32(Neon32Instructions):
    """VMULL and VMLAL, then VPADAL: an accumulator holds four parts of one channel's sum.

    Exact because weights never are -128: the sum of two products fits 16 bits (2 * 128 * 127 < 2**15).
    """

    products = 16
    registers = 4

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        return source.vload([offset + 16 * step], "int8x16")

    def start(self, bias: Expr, lanes: int) -> list[Expr]:
        return [constant(0, "int32", 4)] * 4

    def fold(self, accumulators: Sequence[Expr], bias: Expr, lanes: int) -> list[Expr]:
        """VPADD takes 64 bits: the two halves of each accumulator are added before."""
        pairs = [_add(_part([a], 0, 2), _part([a], 2, 2), 2) for a in accumulators]
        sums = [_neon("int32x2", "vpadd.v2i32", *pairs[i : i + 2]) for i in (0, 2)]
        return [_add(_part(sums, 0, 4), bias, 4)]

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        low, high = (_products(activations, weights, half) for half in range(2))
        return _neon("int32x4", "vpadals.v4i32.v8i16", accumulator, low + high)

    def accumulate_half(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        return _neon("int32x4", "vpadals.v4i32.v8i16", accumulator, _products(activations, weights, 0))


def _products(a: Expr, b: Expr, half: int) -> Expr:
    """Eight 16-bit products of one half of 16 bytes."""
    return _neon("int16x8", "vmulls.v8i16", *(_part([v], 8 * half, 8) for v in (a, b)))


def _part(vectors: Sequence[Expr], first: int, count: int) -> Expr:
    """`count` lanes of the vectors side by side, from lane `first` on."""
    return tirx.Shuffle(list(vectors), list(range(first, first + count)))


def _add(a: Expr, b: Expr, lanes: int) -> Expr:
    """a + b modulo 2**32: LLVM takes overflow of signed sums for undefined."""
    unsigned = f"uint32x{lanes}"
    return reinterpret(f"int32x{lanes}", reinterpret(unsigned, a) + reinterpret(unsigned, b))
