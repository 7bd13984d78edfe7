"""Dot products and rescaling of x86: AVX-512 and AVX2, with VNNI and without."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from schedules.intrinsics import Buffer, Expr, PlainInstructions, broadcast, cast, constant, reinterpret, tirx

_PACK_WORDS = {
    4: "llvm.x86.sse2.packssdw.128",
    8: "llvm.x86.avx2.packssdw",
    16: "llvm.x86.avx512.packssdw.512",
}
_PACK_SIGNED = {
    4: "llvm.x86.sse2.packsswb.128",
    8: "llvm.x86.avx2.packsswb",
    16: "llvm.x86.avx512.packsswb.512",
}
_PACK_UNSIGNED = {
    4: "llvm.x86.sse2.packuswb.128",
    8: "llvm.x86.avx2.packuswb",
    16: "llvm.x86.avx512.packuswb.512",
}


class X86Instructions(PlainInstructions):
    """Rescaling and narrowing; products as on any machine."""

    narrows = MappingProxyType({8: 4, 16: 1})

    def narrow(
        self, scaled: Sequence[Expr], zero: Expr, low: Expr, high: Expr, lanes: int, dtype: str
    ) -> Expr:
        """Four vectors to bytes by saturating packs, which save the clamp of most of the way.

        Exact: saturating at 16 bits, before and after the zero point is added, moves only values that
        lie outside the clamp. The packs interleave 128-bit parts; one permutation undoes that.
        """
        if len(scaled) == 1:
            return super().narrow(scaled, zero, low, high, lanes, dtype)
        words = f"int16x{2 * lanes}"
        offset = broadcast(tirx.Cast("int16", zero), 2 * lanes)
        halves = [
            tirx.call_llvm_pure_intrin(
                words, "llvm.sadd.sat", tirx.call_llvm_pure_intrin(words, _PACK_WORDS[lanes], a, b), offset
            )
            for a, b in (scaled[:2], scaled[2:])
        ]
        name = (_PACK_UNSIGNED if dtype == "uint8" else _PACK_SIGNED)[lanes]
        packed = tirx.call_llvm_pure_intrin(f"int8x{4 * lanes}", name, *halves)
        parts = lanes // 4
        order = [4 * part + vector for vector in range(4) for part in range(parts)]
        sorted_words = tirx.Shuffle([reinterpret(f"int32x{lanes}", packed)], order) if parts > 1 else packed
        codes = reinterpret(f"{dtype}x{4 * lanes}", sorted_words)
        lowest, highest = (broadcast(tirx.Cast(dtype, bound), 4 * lanes) for bound in (low, high))
        return tirx.max(tirx.min(codes, highest), lowest)

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """High halves by VPMULDQ, which multiplies the even lanes: odd lanes are shifted down to it."""
        odd = tirx.shift_right(_pairs(a, lanes), constant(32, "int64", lanes // 2))
        return self.rescale_halves(_pairs(a, lanes), odd, multiplier, rounding, shift, lanes)

    def rescale_halves(
        self, even: Expr, odd: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int
    ) -> Expr:
        """The same of int64 lanes whose low halves are the even lanes, and the odd ones."""
        half = constant(32, "int64", lanes // 2)
        m64 = _pairs(multiplier, lanes)
        upper = _low_halves(odd, half) * tirx.shift_right(m64, half)
        lower = _low_halves(even, half) * _low_halves(m64, half)
        unsigned = f"uint64x{lanes // 2}"
        low = tirx.shift_right(reinterpret(unsigned, lower), constant(32, "uint64", lanes // 2))
        high = reinterpret(unsigned, upper) & constant(0xFFFFFFFF00000000, "uint64", lanes // 2)
        return tirx.shift_right(reinterpret(f"int32x{lanes}", low | high) + rounding, shift)


def _pairs(vector: Expr, lanes: int) -> Expr:
    return reinterpret(f"int64x{lanes // 2}", vector)


def _low_halves(wide: Expr, half: Expr) -> Expr:
    """Sign-extended low halves of int64 lanes: VPMULDQ ignores the rest, so LLVM drops both shifts."""
    return tirx.shift_right(tirx.shift_left(wide, half), half)


class ByteDot(X86Instructions):
    """VPDPBUSD: four products of unsigned activations and signed weights per lane."""

    products = 4

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        word = reinterpret("int32", source.vload([offset + 4 * step], "uint8x4"))
        return reinterpret(f"uint8x{4 * lanes}", broadcast(word, lanes))

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, accumulator, activations, weights)


class LiftedDot(ByteDot):
    """VPDPBUSD by weights of 4 or 2 bits that stay at the top of their byte, as signed multiples of 2**lift:
    a shift and a mask unpack them (the topmost field needs the mask alone), and no offset is subtracted.
    Sums are shifted back, exactly, before the bias is added: see `Geometry.lift` for why they fit.
    """

    def __init__(self, lift: int) -> None:
        self.lift = lift

    @property
    def folds(self) -> bool:
        return True

    def start(self, bias: Expr, lanes: int) -> list[Expr]:
        return [constant(0, "int32", lanes)]

    def fold(self, accumulators: Sequence[Expr], bias: Expr, lanes: int) -> list[Expr]:
        (total,) = accumulators
        return [tirx.shift_right(total, constant(self.lift, "int32", lanes)) + bias]

    def lifted(self, packed: Expr, field: int, count: int) -> Expr:
        """The weights of a field times 2**lift, from `count` bytes."""
        bits = 8 - self.lift
        codes, left = reinterpret(f"uint8x{count}", packed), 8 - bits * (field + 1)
        if left:
            codes = tirx.shift_left(codes, constant(left, "uint8", count))
        return reinterpret(f"int8x{count}", codes & constant(256 - (1 << self.lift), "uint8", count))


class WordDot(X86Instructions):
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
