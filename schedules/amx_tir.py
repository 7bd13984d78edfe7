"""TIR of a convolution on matrix tiles.

A block of pixels by channels is summed up in tile registers over the whole reduction, stored to scratch, and
requantized from there by vector code that stands between the tile instructions of the next block: the two use
different ports. Blocks at the ends of rows and shares overlap their neighbours instead of being cut:
what they compute twice is the same.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder

from schedules.amx import AmxPlan
from schedules.amx_block import Block
from schedules.amx_finish import Before, Finish, moved_in
from schedules.amx_tiles import configure, emit_tile
from schedules.convolution_copy import copy_rows
from schedules.convolution_tir import clipped, declared
from schedules.intrinsics import Buffer, Expr, tir, tirx


def amx_function(plan: AmxPlan) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        tir.func_attr({"global_symbol": plan.symbol, "tirx.noalias": True})
        operands = {name: declared(plan, name) for name in plan.operands}
        configure(plan)
        with tir.parallel(0, plan.tiles) as share:
            Share(plan, operands, share).emit()
        emit_tile("tilerelease")
    return builder.get()


class Share:
    """Emits one share: a block of output pixels by a range of panels of output channels."""

    def __init__(self, plan: AmxPlan, operands: dict[str, Buffer], share: Expr) -> None:
        self.plan, self.g, self.config, self.operands = plan, plan.geometry, plan.config, operands
        blocks, g, c = plan.blocks, plan.geometry, plan.config
        panel_block, rest = share % blocks.panels, share // blocks.panels
        column_block, rest = rest % blocks.columns, rest // blocks.columns
        row_block, self.image = rest % blocks.rows, rest // blocks.rows
        self.panel = panel_block * c.share_panels
        self.column = column_block * c.share_columns
        self.row = row_block * c.share_rows
        self.panels = clipped(c.share_panels, plan.panels, self.panel)
        self.rows = clipped(c.share_rows, g.height, self.row)
        self.columns = clipped(c.share_columns, g.width, self.column)

    def emit(self) -> None:
        g = self.g
        if g.copies:
            origin = (self.image, self.row, self.column)
            extent = (self.rows, self.columns)
            copy_rows(g, self.plan.scratch_row, self.operands, origin, extent)
            self.source, self.row_pitch = self.operands["scratch"], self.plan.scratch_row
            self.origin: Expr = 0
        else:
            self.source, self.row_pitch = self.operands["input"], g.form.in_width * g.input_pitch
            row = self.image * g.form.in_height + self.row * g.stride[0]
            self.origin = row * self.row_pitch + self.column * g.stride[1] * g.pixel_pitch
        whole = self.config.vectors
        if not self.plan.ragged:
            self._panels(self.panel, self.panels, whole, 0)
            return
        last = self.plan.panels - 1
        if self.plan.panels > 1:
            count = tirx.min(tirx.const(1, "int32") * self.panels, last - self.panel)
            self._panels(self.panel, count, whole, 0)
        with tir.If(self.panel + self.panels > last), tir.Then():
            vectors = self.plan.panel_vectors[-1]
            self._panels(tirx.const(last, "int32"), 1, vectors, self.plan.surplus_lanes)

    def _panels(self, first: Expr, count: Expr, vectors: int, surplus: int) -> None:
        """All pixels for `count` panels of `vectors` tiles from panel `first` on."""
        c = self.config
        below, beside = _ceil_div(self.rows, c.rows), _ceil_div(self.columns, c.width)
        # The first block has nothing before it and takes garbage to its own place, which it then overwrites.
        before = Before(self.plan)
        before.become(first, self._pixel(0, self._leftmost(0)))
        with tir.If(tirx.const(0, "int32") < count), tir.Then():
            with tir.serial(0, count) as p, tir.serial(0, below) as i, tir.serial(0, beside) as j:
                y, x = tir.Bind(self._topmost(i)), tir.Bind(self._leftmost(j))
                number = i * beside + j
                Block(self, first + p, (y, x, number), Finish(self, vectors, surplus, before)).emit()
                before.become(first + p, self._pixel(y, x))
            Finish(self, vectors, surplus, before).everything()

    def _topmost(self, block: Expr) -> Expr:
        """First row of a block of rows in the share; the last one moves up to end with it."""
        return moved_in(block * self.config.rows, self.rows, self.config.rows)

    def _leftmost(self, block: Expr) -> Expr:
        """First column of a block in the share; in a flat image's last share perhaps before its own."""
        return moved_in(block * self.config.width, self.columns, self.config.width)

    def _pixel(self, y: Expr, x: Expr) -> Expr:
        """Number of an output pixel of the whole batch."""
        row = self.image * self.g.height + self.row + y
        return row * self.g.width + self.column + x


def _ceil_div(extent: Expr, size: int) -> Expr:
    return -(-extent // size) if isinstance(extent, int) else (extent + (size - 1)) // size
