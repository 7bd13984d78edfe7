"""TIR of a sum of codes: see `sums` for the method."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder

from compiler.loops.sums import SumParameter
from compiler.lowering.machine import DotProduct
from schedules.convolution_tir import clipped
from schedules.intrinsics import Buffer, Expr, broadcast, constant, load, reinterpret, store, tir, tirx
from schedules.intrinsics_x86 import MULTIPLY_WORDS, PACK_UNSIGNED, PACK_WORDS
from schedules.sums import LOW_BITS, SumConstant, SumsPlan

_TENSORS = ("a", "b", "output")
_PART_BYTES = 16  # within which x86 unpacks and packs


def sums_function(plan: SumsPlan) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        may_alias = {"bitloom.may_alias": list(_TENSORS)} if plan.form.in_place else {"tirx.noalias": True}
        tir.func_attr({"global_symbol": plan.symbol, **may_alias})
        operands = {name: _operand(plan, name) for name in plan.operands}
        with tir.parallel(0, plan.tiles) as tile:
            block = _Block(plan, operands)
            first = tile * plan.config.blocks
            with tir.serial(0, clipped(plan.config.blocks, plan.blocks, first)) as i:
                block.emit((first + i) * plan.block)
    return builder.get()


def _operand(plan: SumsPlan, name: str) -> Buffer:
    count, dtype = (plan.elements, "uint8") if name in _TENSORS else (len(SumParameter), "int32")
    return tir.arg(name, tir.buffer((count,), dtype, align=int(dtype.lstrip("uint")) // 8))


class _Block:
    """Constants in registers, and the code of one register of codes."""

    def __init__(self, plan: SumsPlan, operands: dict[str, Buffer]) -> None:
        self.operands, self.size, self.lanes = operands, plan.block, plan.machine.lanes
        self.fused = plan.machine.dot is DotProduct.VNNI
        numbers = {n: tir.Bind(operands["parameters"][int(n)]) for n in SumConstant}
        words, codes = 2 * self.lanes, self.size
        self.pairs = [
            tir.Bind(reinterpret(f"int16x{words}", broadcast(numbers[n], self.lanes)))
            for n in (SumConstant.LOW_PAIR, SumConstant.HIGH_PAIR)
        ]
        self.addend = tir.Bind(broadcast(numbers[SumConstant.ADDEND], self.lanes))
        self.shift = tir.Bind(broadcast(numbers[SumConstant.SHIFT], self.lanes))
        self.zero = tir.Bind(broadcast(tirx.Cast("int16", numbers[SumConstant.ZERO_POINT]), words))
        self.bounds = [
            tir.Bind(broadcast(tirx.Cast("uint8", numbers[n]), codes))
            for n in (SumConstant.LOW, SumConstant.HIGH)
        ]

    def emit(self, offset: Expr) -> None:
        at = tir.Bind(offset)
        a, b = (tir.Bind(load(self.operands[n], at, "uint8", self.size)) for n in ("a", "b"))
        nothing = constant(0, "uint8", self.size)
        mixed = [tir.Bind(self._unpacked(a, b, high)) for high in (False, True)]
        pairs = [self._unpacked(half, nothing, high) for half in mixed for high in (False, True)]
        sums = [tir.Bind(self._scaled(tir.Bind(reinterpret(f"int16x{2 * self.lanes}", p)))) for p in pairs]
        halves = [tir.Bind(self._words(*sums[i : i + 2])) for i in (0, 2)]
        packed = tirx.call_llvm_pure_intrin(f"int8x{self.size}", PACK_UNSIGNED[self.lanes], *halves)
        codes = reinterpret(f"uint8x{self.size}", packed)
        low, high = self.bounds
        store(self.operands["output"], at, tirx.max(tirx.min(codes, high), low), self.size)

    def _unpacked(self, a: Expr, b: Expr, high: bool) -> Expr:
        """PUNPCKLBW or PUNPCKHBW: bytes of a and b by turns, of the lower or upper half of each part."""
        begin = _PART_BYTES // 2 if high else 0
        order = [
            side + part + begin + i
            for part in range(0, self.size, _PART_BYTES)
            for i in range(_PART_BYTES // 2)
            for side in (0, self.size)
        ]
        return tirx.Shuffle([a, b], order)

    def _scaled(self, pair: Expr) -> Expr:
        """(sum of products + addend) >> shift, of int16 pairs; unsigned where it wraps."""
        low, high = self.pairs
        upper = tirx.shift_left(
            self._unsigned(self._dot(None, pair, high)), constant(LOW_BITS, "uint32", self.lanes)
        )
        begun = tir.Bind(reinterpret(f"int32x{self.lanes}", upper + self._unsigned(self.addend)))
        return tirx.shift_right(self._dot(begun, pair, low), self.shift)

    def _dot(self, begun: Expr | None, pair: Expr, factors: Expr) -> Expr:
        """begun + the products of pairs."""
        dtype = f"int32x{self.lanes}"
        if self.fused:
            name = f"llvm.x86.avx512.vpdpwssd.{32 * self.lanes}"
            start = constant(0, "int32", self.lanes) if begun is None else begun
            return tirx.call_llvm_pure_intrin(dtype, name, start, pair, factors)
        products = tirx.call_llvm_pure_intrin(dtype, MULTIPLY_WORDS[self.lanes], pair, factors)
        if begun is None:
            return products
        return reinterpret(dtype, self._unsigned(begun) + self._unsigned(products))

    def _words(self, first: Expr, second: Expr) -> Expr:
        """Both as 16-bit words, plus the zero point, saturating: what that moves lies outside the clamp."""
        dtype = f"int16x{2 * self.lanes}"
        words = tirx.call_llvm_pure_intrin(dtype, PACK_WORDS[self.lanes], first, second)
        return tirx.call_llvm_pure_intrin(dtype, "llvm.sadd.sat", words, self.zero)

    def _unsigned(self, value: Expr) -> Expr:
        return reinterpret(f"uint32x{self.lanes}", value)
