"""How a machine counts the bits that differ between words of activations and of weights.

A vector has `lanes` int32 lanes, one for each output channel; a word is 32 bits of the reduction in every
lane. A count is kept in `registers` vectors of int32, whose meaning is the machine's own until `total`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from compiler.lowering.machine import CpuMachine, DotProduct
from schedules.intrinsics import Expr, constant, reinterpret, tirx


class Popcount:
    """Any machine, and AVX-512 with VPOPCNTD: exclusive or, population count, add."""

    words = 1  # that one step takes
    registers = 1
    operations = 3.0  # vector instructions of a word

    def step(
        self, counts: Sequence[Expr], activations: Sequence[Expr], weights: Sequence[Expr], lanes: int
    ) -> list[Expr]:
        """The counts after up to `words` words more."""
        differing = [_bits(a ^ w, lanes) for a, w in zip(activations, weights, strict=True)]
        return [reduce(lambda x, y: x + y, differing, counts[0])]

    def total(self, counts: Sequence[Expr], lanes: int) -> Expr:
        """Number of bits that differ, int32."""
        return counts[0]


class CarrySave(Popcount):
    """AVX-512 with VPOPCNTDQ: two words go through a full adder, and only its carry is counted.

    A full adder of the bits c, x1 = a1 ^ w1 and x2 = a2 ^ w2 is three VPTERNLOGD, exclusive ors included:
        t = c ^ a1 ^ w1,   s = t ^ a2 ^ w2 = c ^ x1 ^ x2,   carry = t ? ~s : c
    because the carry is c where c = x1 (t = 0), and else x2 = t ^ s, which for t = 1 is ~s. With the count
    and the add that is 2.5 instructions a word instead of 3, on two ports; deeper adders (Harley and Seal)
    save nothing: each costs two instructions and saves the count and the add of one word.
    """

    words = 2
    registers = 2
    operations = 2.5

    def step(
        self, counts: Sequence[Expr], activations: Sequence[Expr], weights: Sequence[Expr], lanes: int
    ) -> list[Expr]:
        twos, ones = counts
        zero = constant(0, "int32", lanes)
        a1, a2 = (*activations, zero)[:2]
        w1, w2 = (*weights, zero)[:2]
        t = _ternary(ones, a1, w1, 0b10010110, lanes)
        s = _ternary(t, a2, w2, 0b10010110, lanes)
        carry = _ternary(ones, t, s, 0b01110100, lanes)
        return [twos + _bits(carry, lanes), s]

    def total(self, counts: Sequence[Expr], lanes: int) -> Expr:
        twos, ones = counts
        return twos + twos + _bits(ones, lanes)


class ByteCount(Popcount):
    """Machines that count within bytes (Arm's CNT, VPSHUFB on x86): the counts of a few words are added as
    bytes, at most words * 8 = 32 each, and then widened."""

    words = 4
    operations = 3.25

    def step(
        self, counts: Sequence[Expr], activations: Sequence[Expr], weights: Sequence[Expr], lanes: int
    ) -> list[Expr]:
        bytes_ = f"int8x{4 * lanes}"
        differing = [
            tirx.call_llvm_pure_intrin(bytes_, "llvm.ctpop", reinterpret(bytes_, a ^ w))
            for a, w in zip(activations, weights, strict=True)
        ]
        return [self.widened(counts[0], reduce(lambda x, y: x + y, differing), lanes)]

    def widened(self, count: Expr, bytes_: Expr, lanes: int) -> Expr:
        """count + the four bytes of each lane."""
        raise NotImplementedError


class ArmCount(ByteCount):
    """EOR, CNT, ADD; then UADDLP and UADALP."""

    add_pairs = "llvm.aarch64.neon.uaddlp"

    def widened(self, count: Expr, bytes_: Expr, lanes: int) -> Expr:
        pairs = tirx.call_llvm_pure_intrin("int16x8", f"{self.add_pairs}.v8i16.v16i8", bytes_)
        return count + tirx.call_llvm_pure_intrin("int32x4", f"{self.add_pairs}.v4i32.v8i16", pairs)


class Arm32Count(ArmCount):
    """The same by the names of 32-bit Arm: VEOR, VCNT, VADD; then VPADDL and VPADAL."""

    add_pairs = "llvm.arm.neon.vpaddlu"


class ArmDotCount(ByteCount):
    """EOR, CNT; UDOT with ones adds four bytes to a lane."""

    words = 1
    operations = 3.0

    def widened(self, count: Expr, bytes_: Expr, lanes: int) -> Expr:
        name = "llvm.aarch64.neon.udot.v4i32.v16i8"
        return tirx.call_llvm_pure_intrin("int32x4", name, count, bytes_, constant(1, "int8", 16))


class X86Count(ByteCount):
    """VPSHUFB looks the counts of half bytes up; VPMADDUBSW and VPMADDWD with ones add four bytes."""

    operations = 9.0

    def widened(self, count: Expr, bytes_: Expr, lanes: int) -> Expr:
        bits = 32 * lanes
        family = {128: ("ssse3.pmadd.ub.sw.128", "sse2.pmadd.wd")}
        family |= {256: ("avx2.pmadd.ub.sw", "avx2.pmadd.wd")}
        family |= {512: ("avx512.pmaddubs.w.512", "avx512.pmaddw.d.512")}
        to_words, to_lanes = (f"llvm.x86.{name}" for name in family[bits])
        ones = constant(1, "int8", 4 * lanes), constant(1, "int16", 2 * lanes)
        words = tirx.call_llvm_pure_intrin(f"int16x{2 * lanes}", to_words, bytes_, ones[0])
        return count + tirx.call_llvm_pure_intrin(f"int32x{lanes}", to_lanes, words, ones[1])


class X86DotCount(ByteCount):
    """VPSHUFB and VPDPBUSD with ones."""

    words = 1
    operations = 8.0

    def widened(self, count: Expr, bytes_: Expr, lanes: int) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        ones = constant(1, "int8", 4 * lanes)
        unsigned = reinterpret(f"uint8x{4 * lanes}", bytes_)
        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, count, unsigned, ones)


def bit_counter(machine: CpuMachine) -> Popcount:
    """The quickest way of the machine to count."""
    match machine.dot:
        case DotProduct.SDOT | DotProduct.SMMLA:
            return ArmDotCount()
        case DotProduct.SMLAL:
            return ArmCount()
        case DotProduct.VMLAL:
            return Arm32Count()
        case DotProduct.VNNI | DotProduct.PMADDWD | DotProduct.PMADDUBSW if machine.counts_bits:
            return CarrySave()
        case DotProduct.VNNI:
            return X86DotCount()
        case DotProduct.PMADDWD | DotProduct.PMADDUBSW:
            return X86Count()
        case DotProduct.NONE:
            return Popcount()


def _bits(word: Expr, lanes: int) -> Expr:
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", "llvm.ctpop", word)


def _ternary(a: Expr, b: Expr, c: Expr, table: int, lanes: int) -> Expr:
    """Bit 4 * a + 2 * b + c of the table, bit by bit."""
    name = f"llvm.x86.avx512.pternlog.d.{32 * lanes}"
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, a, b, c, tirx.const(table, "int32"))
