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

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """SQDMULH keeps one bit more than the high half, SRSHL rounds it off: the same nested floor."""
        high = _intrinsic("int32x4", "llvm.aarch64.neon.sqdmulh.v4i32", a, multiplier)
        right = constant(-1, "int32", lanes) - shift
        return _intrinsic("int32x4", "llvm.aarch64.neon.srshl.v4i32", high, right)


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
