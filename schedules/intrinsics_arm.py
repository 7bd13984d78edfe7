"""Dot products and rescaling of aarch64 (Advanced SIMD); vectors have four lanes."""

from __future__ import annotations

from schedules.intrinsics import Buffer, Expr, PlainInstructions, broadcast, constant, reinterpret, tirx


class NeonInstructions(PlainInstructions):
    """Baseline aarch64: products of widened lanes (SMLAL), rescaling by name."""

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """SQDMULH keeps one bit more than the high half, SRSHL rounds it off: the same nested floor."""
        high = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sqdmulh.v4i32", a, multiplier)
        right = constant(-1, "int32", lanes) - shift
        return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.srshl.v4i32", high, right)


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
        return tirx.call_llvm_pure_intrin("int32x4", name, accumulator, weights, activations)
