"""TIR of a convolution kernel: shares, micro-tiles and their ragged ends, from a plan's decisions.

A micro-tile keeps pixels x vectors of int32 accumulators in registers over the whole reduction. Ragged
ends are micro-tiles of their own size rather than predicates (a predicated tile cannot be tensorized,
and a predicate in the inner loop costs more than the tile), which is why the nest is written here and
not derived by schedule primitives. The outermost loop is parallel over shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tvm.script.ir_builder import IRBuilder

from schedules.convolution_copy import copy_rows
from schedules.convolution_instructions import instructions
from schedules.convolution_layout import ConvolutionLayout
from schedules.convolution_tile import MicroTile, run_all
from schedules.intrinsics import Buffer, Expr, store, tir, tirx


def convolution_function(plan: ConvolutionLayout) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        tir.func_attr({"global_symbol": plan.symbol, "tirx.noalias": True})
        operands = {name: declared(plan, name) for name in plan.operands}
        with tir.parallel(0, plan.tiles) as share:
            Share(plan, operands, share).emit()
    return builder.get()


class HasOperands(Protocol):
    """A plan that tells elements and dtype of each operand."""

    def operand_type(self, name: str) -> tuple[int, str]: ...


def declared(plan: HasOperands, name: str) -> Buffer:
    """A flat buffer aligned to its elements only, because operands may be slices of wider tensors."""
    count, dtype = plan.operand_type(name)
    itemsize = int(dtype.lstrip("uint")) // 8
    return tir.arg(name, tir.buffer((count,), dtype, align=itemsize))


class Share:
    """Emits one share: a block of output pixels by a range of panels of output channels."""

    def __init__(self, plan: ConvolutionLayout, operands: dict[str, Buffer], share: Expr) -> None:
        self.plan, self.g, self.config = plan, plan.geometry, plan.config
        self.operands = operands
        self.code = instructions(plan)
        self.row_pitch = plan.row_pitch
        blocks = plan.blocks
        panel_block, rest = share % blocks.panels, share // blocks.panels
        column_block, rest = rest % blocks.columns, rest // blocks.columns
        row_block, self.image = rest % blocks.rows, rest // blocks.rows
        self.panel = panel_block * self.config.share_panels
        self.column = column_block * self.config.share_columns
        self.row = row_block * self.config.share_rows
        self.panels = clipped(self.config.share_panels, plan.panels, self.panel)
        self.rows = clipped(self.config.share_rows, self.g.height, self.row)
        self.columns = clipped(self.config.share_columns, self.g.width, self.column)
        self.last_columns = column_block == blocks.columns - 1

    def emit(self) -> None:
        g = self.g
        if g.copies:
            origin = (self.image, self.row, self.column)
            extent = (self.rows, self.columns)
            copy_rows(g, self.plan.scratch_row, self.operands, origin, extent)
            self.source = self.operands["scratch"]
            self.origin: Expr = 0
        else:
            self.source = self.operands["input"]
            row = self.image * g.form.in_height + self.row * g.stride[0]
            self.origin = row * self.row_pitch + self.column * g.stride[1] * g.pixel_pitch
        if self.config.overlaps:
            self._over_panels(self._overlapping)
        elif self.config.panels_inner:
            self._over_pixels(lambda *pixels: self._over_panels(lambda *panel: self._micro(*pixels, *panel)))
        else:
            self._over_panels(lambda *panel: self._over_pixels(lambda *pixels: self._micro(*pixels, *panel)))

    def _over_pixels(self, body: Callable[[Expr, Expr, int], None]) -> None:
        """body(row, column, columns of the micro-tile), relative to the share."""
        height, width = self.config.rows, self.config.columns
        tail = self.g.width % width
        with tir.serial(0, self.rows // height) as y:
            with tir.serial(0, self.columns // width) as x:
                body(y * height, x * width, width)
            if tail:
                with tir.If(self.last_columns), tir.Then():
                    body(y * height, self.columns - tail, tail)

    def _overlapping(self, panel: Expr, ragged: bool) -> None:
        """All pixels for one panel; a micro-tile is finished during the products of its right neighbour."""
        height, width = self.config.rows, self.config.columns
        tail, tiles = self.g.width % width, tirx.const(1, "int32") * (self.columns // width)
        with tir.serial(0, self.rows // height) as y:
            column = tir.alloc_buffer((1,), "int32", scope="local")
            store(column, 0, tirx.const(0, "int32"), 1)
            # The first micro-tile finishes zeros in its own place, which it then overwrites.
            before = MicroTile(self, y * height, column[0], width, panel, ragged)
            before.clear()
            with tir.serial(0, tiles) as x:
                tile = MicroTile(self, y * height, x * width, width, panel, ragged)
                tile.accumulate_while(before.finish())
                before.take_over(tile)
                store(column, 0, x * width, 1)
            with tir.If(tiles > 0), tir.Then():
                run_all(before.finish())
            if tail:
                with tir.If(self.last_columns), tir.Then():
                    MicroTile(self, y * height, self.columns - tail, tail, panel, ragged).emit()

    def _over_panels(self, body: Callable[[Expr, bool], None]) -> None:
        """body(panel, whether it is the ragged last panel of a channel group)."""
        per_group = self.plan.panels_per_group
        with tir.serial(0, self.panels) as offset:
            panel = self.panel + offset
            if per_group == 1 or not self.plan.ragged_panels:
                body(panel, self.plan.ragged_panels)
                return
            with tir.If(panel % per_group == per_group - 1):
                with tir.Then():
                    body(panel, True)
                with tir.Else():
                    body(panel, False)

    def _micro(self, y: Expr, x: Expr, columns: int, panel: Expr, ragged: bool) -> None:
        MicroTile(self, y, x, columns, panel, ragged).emit()


def clipped(block: int, total: int, start: Expr) -> Expr:
    """Extent of a block that starts at `start`; a number where all blocks are equal."""
    return block if total % block == 0 else tirx.min(tirx.const(block, "int32"), total - start)
