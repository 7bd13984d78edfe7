"""TIR of kernels of bipolar codes: the shares of other convolutions, with micro-tiles that count bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import IRBuilder

from schedules.binary_geometry import WORD
from schedules.binary_instructions import bit_counter
from schedules.binary_layout import BinaryLayout
from schedules.convolution_instructions import arithmetic
from schedules.convolution_tile import MicroTile
from schedules.convolution_tir import Share, declared
from schedules.intrinsics import Buffer, Expr, broadcast, constant, load, reinterpret, store, tir, tirx


def binary_function(plan: BinaryLayout) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        tir.func_attr({"global_symbol": plan.symbol, "tirx.noalias": True})
        operands = {name: declared(plan, name) for name in plan.operands}
        with tir.parallel(0, plan.tiles) as share:
            BinaryShare(plan, operands, share).emit()
    return builder.get()


class BinaryShare(Share):
    """A share whose micro-tiles are of bits."""

    def __init__(self, plan: BinaryLayout, operands: dict[str, Buffer], share: Expr) -> None:
        super().__init__(plan, operands, share)
        self.binary, self.code = plan, arithmetic(plan.machine)

    def _micro(self, y: Expr, x: Expr, columns: int, panel: Expr, ragged: bool) -> None:
        BinaryTile(self, y, x, columns, panel, ragged).emit()


class BinaryTile(MicroTile):
    """Counts the differing bits of some pixels and vectors of channels, and makes results of the counts."""

    def __init__(self, share: BinaryShare, y: Expr, x: Expr, columns: int, panel: Expr, ragged: bool) -> None:
        super().__init__(share, y, x, columns, panel, ragged)
        self.layout, self.counter = share.binary, bit_counter(share.binary.machine)

    def emit(self) -> None:
        self._allocate()
        for slot in range(len(self._places()) * self.counter.registers):
            store(self.counts, slot * self.lanes, constant(0, "int32", self.lanes), self.lanes)
        self._accumulate()
        for i, (p, v) in enumerate(self._places()):
            total = self.counter.total(self._counts(i), self.lanes)
            if not self.gives_bits:
                biases = self.share.operands["biases"]
                bias = load(biases, self._bias(p) + v * self.lanes, "int32", self.lanes)
                total = bias - (total + total)
            self.set(p, v, total)
        self._finish()

    def _allocate(self) -> None:
        super()._allocate()
        size = len(self._places()) * self.counter.registers * self.lanes
        self.counts = tir.alloc_buffer((size,), "int32", scope="local")

    def _counts(self, place: int) -> list[Expr]:
        first, lanes = place * self.counter.registers, self.lanes
        return [load(self.counts, (first + r) * lanes, "int32", lanes) for r in range(self.counter.registers)]

    def _segments(self, base: Expr, weights: Expr, first_row: int) -> None:
        g, form, share, words = self.g, self.g.form, self.share, self.counter.words
        segment_bytes = g.steps * self.vectors * self.layout.vector_bytes
        # Whole words go in steps of a few; what is left of the segment ends within a word.
        whole = g.run // WORD
        steps, left = divmod(whole, words)
        with tir.serial(first_row, g.segment_rows) as i, tir.serial(0, g.segment_columns) as j:
            origin = base + i * form.dilation[0] * share.row_pitch + j * form.dilation[1] * g.pixel_pitch
            segment = weights + (i * g.segment_columns + j) * segment_bytes
            with tir.serial(0, steps) as step:
                self._words(origin, segment, step * words, [WORD] * words)
            tail = [WORD] * left + ([g.run % WORD] if g.run % WORD else [])
            for first in range(0, len(tail), words):
                self._words(origin, segment, steps * words + first, tail[first : first + words])

    def _words(self, origin: Expr, segment: Expr, first: Expr, sizes: Sequence[int]) -> None:
        """Counts the words from `first` on, of which `sizes` bytes each are valid."""
        weight, size = self.share.operands["weight"], self.layout.vector_bytes
        weights = [
            [tir.Bind(self._weight(weight, segment + ((first + k) * self.vectors + v) * size))
             for k in range(len(sizes))]
            for v in range(self.vectors)
        ]  # fmt: skip
        activations = tir.Bind(origin + first * WORD)
        for p, offset in enumerate(self.pixel_offsets()):
            words = [
                tir.Bind(broadcast(self._word(activations + (offset + k * WORD), n), self.lanes))
                for k, n in enumerate(sizes)
            ]
            for v in range(self.vectors):
                place = p * self.vectors + v
                counts = self.counter.step(self._counts(place), words, weights[v], self.lanes)
                for r, count in enumerate(counts):
                    store(self.counts, (place * self.counter.registers + r) * self.lanes, count, self.lanes)

    def _weight(self, weight: Buffer, offset: Expr) -> Expr:
        return reinterpret(f"int32x{self.lanes}", load(weight, offset, "int8", self.layout.vector_bytes))

    def _word(self, offset: Expr, size: int) -> Expr:
        """`size` bytes of activations as an int32; those behind them belong to another pixel or to nobody."""
        source = self.share.source
        if size == WORD:
            return reinterpret("int32", source.vload([offset], "uint8x4"))
        parts = [tirx.shift_left(tirx.Cast("int32", source[offset + i]), 8 * i) for i in range(size)]
        word = parts[0]
        for part in parts[1:]:
            word = word | part
        return word

    def _bias(self, p: int) -> Expr:
        """Place of the biases of pixel p and the first channel of the panel."""
        first = self.panel * self.layout.panel_width
        if not self.g.padded:
            return first
        i, j = self.pixels[p]
        borders, height = self.share.operands["borders"], self.g.form.out_height
        row = borders[self.share.row + self.y + i]
        return first + row + borders[height + self.share.column + self.x + j]

    def _bits(self, p: int, lane: int, lanes: int) -> Expr:
        """+1 where no more bits differ than the threshold."""
        counts = load(self.accumulators, self._slot(p, 0) + lane, "int32", lanes)
        return counts <= load(self.share.operands["biases"], self._bias(p) + lane, "int32", lanes)
