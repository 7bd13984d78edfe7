"""Dot products and rescaling of x86: AVX-512 and AVX2, with VNNI and without."""

from __future__ import annotations

from tvm import tirx

from schedules.intrinsics import Buffer, Expr, PlainInstructions, broadcast, cast, constant, reinterpret


class _X86Instructions(PlainInstructions):
    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """High halves by VPMULDQ, which multiplies the even lanes: odd lanes are shifted down to it."""
        wide = f"int64x{lanes // 2}"
        a64, m64 = reinterpret(wide, a), reinterpret(wide, multiplier)
        half = constant(32, "int64", lanes // 2)
        odd = tirx.shift_right(a64, half) * tirx.shift_right(m64, half)
        even = _low_halves(a64, half) * _low_halves(m64, half)
        unsigned = f"uint64x{lanes // 2}"
        low = tirx.shift_right(reinterpret(unsigned, even), constant(32, "uint64", lanes // 2))
        upper = reinterpret(unsigned, odd) & constant(0xFFFFFFFF00000000, "uint64", lanes // 2)
        return tirx.shift_right(reinterpret(f"int32x{lanes}", low | upper) + rounding, shift)


def _low_halves(wide: Expr, half: Expr) -> Expr:
    """Sign-extended low halves of int64 lanes: VPMULDQ ignores the rest, so LLVM drops both shifts."""
    return tirx.shift_right(tirx.shift_left(wide, half), half)


class ByteDot(_X86Instructions):
    """VPDPBUSD: four products of unsigned activations and signed weights per lane."""

    products = 4

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        word = reinterpret("int32", source.vload([offset + 4 * step], "uint8x4"))
        return reinterpret(f"uint8x{4 * lanes}", broadcast(word, lanes))

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, accumulator, activations, weights)


class WordDot(_X86Instructions):
    """Two products of int16 activations and weights per lane: VPDPWSSD, or VPMADDWD and an add.

    VPMADDUBSW, twice as fast, saturates its sums of two products and is not exact.
    """

    products = 2

    def __init__(self, fused: bool) -> None:
        self.fused = fused

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        word = reinterpret("int32", source.vload([offset + 2 * step], "int16x2"))
        return reinterpret(f"int16x{2 * lanes}", broadcast(word, lanes))

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        result, words = f"int32x{lanes}", cast("int16", 2 * lanes, weights)
        if self.fused:
            name = f"llvm.x86.avx512.vpdpwssd.{32 * lanes}"
            return tirx.call_llvm_pure_intrin(result, name, accumulator, activations, words)
        name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
        return accumulator + tirx.call_llvm_pure_intrin(result, name[lanes], activations, words)
