"""Dot products and rescaling of x86: AVX-512 and AVX2, with VNNI and without."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from schedules.intrinsics import (
    Buffer,
    Expr,
    PlainInstructions,
    broadcast,
    cast,
    constant,
    reinterpret,
    tir,
    tirx,
)

_LINE = 64  # bytes of a cache line

PACK_WORDS = {
    4: "llvm.x86.sse2.packssdw.128",
    8: "llvm.x86.avx2.packssdw",
    16: "llvm.x86.avx512.packssdw.512",
}
_PACK_SIGNED = {
    4: "llvm.x86.sse2.packsswb.128",
    8: "llvm.x86.avx2.packsswb",
    16: "llvm.x86.avx512.packsswb.512",
}
PACK_UNSIGNED = {
    4: "llvm.x86.sse2.packuswb.128",
    8: "llvm.x86.avx2.packuswb",
    16: "llvm.x86.avx512.packuswb.512",
}
MULTIPLY_WORDS = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_MULTIPLY_BYTES = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
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
                words, "llvm.sadd.sat", tirx.call_llvm_pure_intrin(words, PACK_WORDS[lanes], a, b), offset
            )
            for a, b in (scaled[:2], scaled[2:])
        ]
        name = (PACK_UNSIGNED if dtype == "uint8" else _PACK_SIGNED)[lanes]
        packed = tirx.call_llvm_pure_intrin(f"int8x{4 * lanes}", name, *halves)
        parts = lanes // 4
        order = [4 * part + vector for vector in range(4) for part in range(parts)]
        sorted_words = tirx.Shuffle([reinterpret(f"int32x{lanes}", packed)], order) if parts > 1 else packed
        codes = reinterpret(f"{dtype}x{4 * lanes}", sorted_words)
        lowest, highest = (broadcast(tirx.Cast(dtype, bound), 4 * lanes) for bound in (low, high))
        return tirx.max(tirx.min(codes, highest), lowest)

    def prefetch(self, buffer: Buffer, offset: Expr, count: int) -> None:
        """PREFETCHT0 of each cache line. It walks page tables, which hardware prefetching does not: weights
        of a library lie in small pages, as many as its network has weights."""
        into_l1 = [tirx.const(value, "int32") for value in (0, 3, 1)]  # to read, into all levels, data
        for line in range(0, count, _LINE):
            address = tirx.address_of(buffer[offset + line])
            tir.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, *into_l1))

    def rescale(self, a: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int) -> Expr:
        """High halves by VPMULDQ, which multiplies the even lanes: odd lanes are shifted down to it."""
        upper = tirx.Shuffle([a], [i | 1 for i in range(lanes)])
        return self.rescale_halves(a, upper, multiplier, rounding, shift, lanes)

    def rescale_halves(
        self, even: Expr, odd: Expr, multiplier: Expr, rounding: Expr, shift: Expr, lanes: int
    ) -> Expr:
        """The same of vectors whose even lanes are the even ones, and the odd ones."""
        uppers = tirx.Shuffle([multiplier], [i | 1 for i in range(lanes)])
        products = [_even_products(even, multiplier, lanes), _even_products(odd, uppers, lanes)]
        high = tirx.Shuffle(products, [i | 1 if i % 2 == 0 else lanes + i for i in range(lanes)])
        return tirx.shift_right(high + rounding, shift)


def _even_products(a: Expr, b: Expr, lanes: int) -> Expr:
    """64-bit products of the even lanes, as pairs of lanes."""
    wide, half = f"int64x{lanes // 2}", constant(32, "int64", lanes // 2)
    product = _low_halves(reinterpret(wide, a), half) * _low_halves(reinterpret(wide, b), half)
    return reinterpret(f"int32x{lanes}", product)


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


class PairDot(X86Instructions):
    """VPMADDUBSW, then VPMADDWD by ones: four products per lane. Exact for weights of which no pair sums to
    more than 128, see `convolution_pairs`; those of less than 8 bits never do."""

    products = 4

    def spread(self, source: Buffer, offset: Expr, step: int, lanes: int) -> Expr:
        word = reinterpret("int32", source.vload([offset + 4 * step], "uint8x4"))
        return reinterpret(f"uint8x{4 * lanes}", broadcast(word, lanes))

    def accumulate(self, accumulator: Expr, activations: Expr, weights: Expr, lanes: int) -> Expr:
        return self._add(accumulator, activations, weights, lanes)

    def accumulate_flipped(
        self, accumulator: Expr, activations: Expr, magnitudes: Expr, flips: Expr, lanes: int
    ) -> Expr:
        """The same with unsigned weights and activations whose sign and offset `flips` changes."""
        flipped = reinterpret(f"int8x{4 * lanes}", activations) ^ flips
        return self._add(accumulator, magnitudes, flipped, lanes)

    def _add(self, accumulator: Expr, unsigned: Expr, signed: Expr, lanes: int) -> Expr:
        result, words, u32 = f"int32x{lanes}", f"int16x{2 * lanes}", f"uint32x{lanes}"
        pairs = tirx.call_llvm_pure_intrin(words, _MULTIPLY_BYTES[lanes], unsigned, signed)
        ones = constant(1, "int16", 2 * lanes)
        sums = tirx.call_llvm_pure_intrin(result, MULTIPLY_WORDS[lanes], pairs, ones)
        # Unsigned: the bias wraps, and LLVM takes overflow of signed sums for undefined.
        return reinterpret(result, reinterpret(u32, accumulator) + reinterpret(u32, sums))


class WordDot(X86Instructions):
    """Two products of int16 activations and weights per lane: VPDPWSSD, or VPMADDWD and an add.

    For 16-bit activations; `PairDot` takes 8-bit ones.
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
        return accumulator + tirx.call_llvm_pure_intrin(result, MULTIPLY_WORDS[lanes], activations, words)
