"""Dot products and rescaling of aarch64 (Advanced SIMD); vectors have four lanes."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from schedules.intrinsics import Buffer, Expr, PlainInstructions, broadcast, constant, reinterpret, tirx

_intrinsic = tirx.call_llvm_pure_intrin


class NeonInstructions(PlainInstructions):
    """Baseline aarch64: products of widened lanes (SMLAL), rescaling by name."""

    narrows = MappingProxyType({8: 4, 16: 1})

    def narrow(
        self, scaled: Sequence[Expr], zero: Expr, low: Expr, high: Expr, lanes: int, dtype: str
    ) -> Expr:
        """Four vectors to bytes by saturating narrowing: exact, as it moves only values outside the clamp."""
        if len(scaled) == 1:
            return super().narrow(scaled, zero, low, high, lanes, dtype)
        offset = broadcast(tirx.Cast("int16", zero), 8)
        name = f"llvm.aarch64.neon.{'sqxtun' if dtype == 'uint8' else 'sqxtn'}.v8i8"
        halves: list[Expr] = []
        for pair in (scaled[:2], scaled[2:]):
            words = [_intrinsic("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", v) for v in pair]
            shifted = _intrinsic("int16x8", "llvm.sadd.sat", tirx.Shuffle(words, list(range(8))), offset)
            halves.append(_intrinsic("int8x8", name, shifted))
        codes = reinterpret(f"{dtype}x16", tirx.Shuffle(halves, list(range(16))))
        lowest, highest = (broadcast(tirx.Cast(dtype, bound), 16) for bound in (low, high))
        return tirx.max(tirx.min(codes, highest), lowest)

    def move_left(self, a: Expr, limit: Expr, left: Expr, lanes: int) -> Expr:
        return _intrinsic("int32x4", "llvm.aarch64.neon.sqshl.v4i32", a, left)

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """SQDMULH keeps one bit more than the high half, SRSHL rounds: shift is -(bits to the right)."""
        high = _intrinsic("int32x4", "llvm.aarch64.neon.sqdmulh.v4i32", a, multiplier)
        return _intrinsic("int32x4", "llvm.aarch64.neon.srshl.v4i32", high, shift)


class SignedDot(NeonInstructions):
    """SDOT by lane: one 16-byte load of activations serves four steps."""

    products = 4

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        words = reinterpret("int32x4", source.vload([offset + step // 4 * 16], "int8x16"))
        word = tirx.Shuffle([words], [step % 4])
        return reinterpret("int8x16", broadcast(word, lanes))

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        # Activations second: the operand that SDOT can take by lane.
        return _intrinsic("int32x4", name, accumulator, weights, activations)


class SignedMatrix(NeonInstructions):
    """SMMLA: a register of activations is eight products of two pixels, one of weights of two channels, and
    an accumulator holds [pixel, channel]."""

    products = 8
    pixels = 2
    registers = 2

    def gather(self, source: Buffer, offsets: Sequence[Expr], step: int, lanes: int) -> Expr:
        """16 bytes of each pixel serve two steps."""
        both = [source.vload([offset + step // 2 * 16], "int8x16") for offset in offsets]
        first = step % 2 * 8
        return tirx.Shuffle(both, [16 * pixel + first + i for pixel in range(2) for i in range(8)])

    def start(self, bias: Expr, lanes: int) -> list[Expr]:
        return [tirx.Shuffle([bias], [2 * half, 2 * half + 1] * 2) for half in range(2)]

    def fold(self, accumulators: Sequence[Expr], bias: Expr, lanes: int) -> list[Expr]:
        return [
            tirx.Shuffle(list(accumulators), [2 * pixel, 2 * pixel + 1, 2 * pixel + 4, 2 * pixel + 5])
            for pixel in range(2)
        ]

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
        return _intrinsic("int32x4", name, accumulator, activations, weights)


class WideningDot(NeonInstructions):
    """SMULL and SMLAL, then SADALP: an accumulator holds four parts of one channel's sum.

    Exact because weights never are -128: the sum of two products fits 16 bits.
    """

    products = 16
    registers = 4

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        return source.vload([offset + 16 * step], "int8x16")

    def start(self, bias: Expr, lanes: int) -> list[Expr]:
        """Zeros, which need no instruction where there is a single step."""
        return [constant(0, "int32", 4)] * 4

    def fold(self, accumulators: Sequence[Expr], bias: Expr, lanes: int) -> list[Expr]:
        a, b, c, d = accumulators
        return [_add(_add_pairs(_add_pairs(a, b), _add_pairs(c, d)), bias)]

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        low, high = (_products(activations, weights, half) for half in range(2))
        return _add_wide(accumulator, low + high)

    def accumulate_half(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        return _add_wide(accumulator, _products(activations, weights, 0))


def _products(a: Expr, b: Expr, half: int) -> Expr:
    """Eight 16-bit products of one half of 16 bytes."""
    halves = [tirx.Shuffle([v], list(range(8 * half, 8 * half + 8))) for v in (a, b)]
    return _intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", *halves)


def _add_wide(accumulator: Expr, products: Expr) -> Expr:
    """Neighbouring products added to each lane (SADALP), modulo 2**32."""
    return _add(accumulator, _intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products))


def _add(a: Expr, b: Expr) -> Expr:
    """a + b modulo 2**32: LLVM takes overflow of signed sums for undefined."""
    return reinterpret("int32x4", reinterpret("uint32x4", a) + reinterpret("uint32x4", b))


def _add_pairs(a: Expr, b: Expr) -> Expr:
    """Sums of neighbouring lanes of a, then those of b."""
    return _intrinsic("int32x4", "llvm.aarch64.neon.addp.v4i32", a, b)
