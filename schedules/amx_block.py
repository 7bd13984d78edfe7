"""TIR of one block on matrix tiles: products, with the block before it requantized between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from schedules.amx_config import ROW_BYTES, TILE_LANES, steps_of
from schedules.amx_finish import Finish, channel_constants, stored_sums
from schedules.amx_tiles import Registers, emit_tile, load_tile, prefetch_line, tile_number
from schedules.convolution_packing import ChannelField, Parameter
from schedules.intrinsics import Expr, reinterpret, store, tir, tirx
from schedules.intrinsics_x86 import ByteDot

if TYPE_CHECKING:
    from schedules.amx_tir import Share

# Blocks of up to this many steps are written out; longer ones are loops.
_UNROLLED_STEPS = 8


class _Once:
    """A loop of one round, without the loop."""

    def __enter__(self) -> Expr:
        return tirx.const(0, "int32")

    def __exit__(self, *_: object) -> None: ...


class Block:
    """Emits the tile instructions of one block, with the block before it requantized between them."""

    def __init__(self, share: Share, panel: Expr, at: tuple[Expr, Expr, Expr], finish: Finish) -> None:
        """at: row and column in the share, and the block's number in its panel."""
        self.share, self.plan, self.g, self.config = share, share.plan, share.g, share.config
        self.panel, self.finish, self.vectors = panel, finish, finish.vectors
        self.y, self.x, self.number = at
        self.registers = Registers(self.config.tiles, self.config.vectors)
        self.places = [(i, j) for i in range(self.config.rows) for j in range(self.config.columns)]

    def emit(self) -> None:
        self._start()
        stride = self.g.stride
        row = self.share.origin + self.y * stride[0] * self.share.row_pitch
        self.base = tir.Bind(row + self.x * stride[1] * self.g.pixel_pitch)
        self.weights = tir.Bind(self.panel * self.plan.panel_bytes)
        self._contract()
        self._store()

    def _start(self) -> None:
        """Sums begin with the bias, the same row sixteen times: a stride of 0."""
        width = self.config.vectors * TILE_LANES
        bias = (self.panel * len(ChannelField) + int(ChannelField.BIAS)) * width
        channels = self.share.operands["channels"]
        for t in range(self.config.tiles):
            for v in range(self.vectors):
                load_tile(self.registers.sum(t, v), channels, bias + v * TILE_LANES, tirx.const(0, "int64"))

    def _contract(self) -> None:
        steps, batches = steps_of(self.g), self.finish.batches
        if steps <= _UNROLLED_STEPS:
            parts = [part for s in range(steps) for part in self._parts(s)]
            for i, part in enumerate(parts):
                part()
                self.finish.some(batches * i // len(parts), batches * (i + 1) // len(parts))
            return
        # As many steps before each batch, and the steps that are left behind all, or the batches.
        rounds = min(steps, batches)
        apart = steps // rounds
        with tir.serial(0, rounds) as r:
            with tir.serial(0, apart) if apart > 1 else _Once() as s:
                self._step(r * apart + s)
            self.finish.one(r)
        if steps > rounds * apart:
            with tir.serial(0, steps - rounds * apart) as s:
                self._step(rounds * apart + s)
        self.finish.some(rounds, batches)

    def _step(self, step: Expr) -> None:
        for part in self._parts(step):
            part()

    def _prefetch(self, step: Expr) -> None:
        """An even part of the next panel's weights, which come from beyond the second-level cache."""
        lines = self.plan.prefetched_lines
        first = (self.number * steps_of(self.g) + step) * lines
        for line in range(lines):
            offset = self.weights + self.plan.panel_bytes + (first + line) * ROW_BYTES
            prefetch_line(self.share.operands["weight"], offset)

    def _parts(self, step: Expr) -> list[Callable[[], None]]:
        """What loads the tiles of one step and multiplies each of inputs by each of weights: the side that is
        kept with the first tile of the other one, then a tile of that at a time."""
        inputs = [lambda t=t: self._load_input(t, step) for t in range(len(self.places))]
        weights = [lambda v=v: self._load_weight(v, step) for v in range(self.vectors)]
        keeps_inputs = self.registers.keeps_inputs
        kept, passing = (inputs, weights) if keeps_inputs else (weights, inputs)

        def part(number: int) -> None:
            if number == 0:
                for load_kept in kept:
                    load_kept()
            passing[number]()
            if number == len(passing) - 1:
                self._prefetch(step)
            for other in range(len(kept)):
                self._multiply(*((other, number) if keeps_inputs else (number, other)))

        return [lambda number=number: part(number) for number in range(len(passing))]

    def _multiply(self, t: int, v: int) -> None:
        operands = (self.registers.sum(t, v), self.registers.input(t), self.registers.weight(v))
        emit_tile("tdpbusd", *(tile_number(number) for number in operands))

    def _load_input(self, tile: int, step: Expr) -> None:
        g, form = self.g, self.g.form
        i, j = self.places[tile]
        chunks = steps_of(g) // g.segments
        segment, chunk = step // chunks, step % chunks
        kernel_row, kernel_column = segment // g.segment_columns, segment % g.segment_columns
        offset = self.base + i * g.stride[0] * self.share.row_pitch
        offset = offset + j * self.config.pixels * g.stride[1] * g.pixel_pitch
        offset = offset + kernel_row * form.dilation[0] * self.share.row_pitch
        offset = offset + kernel_column * form.dilation[1] * g.pixel_pitch + chunk * self.config.depth
        pitch = tirx.const(g.stride[1] * g.pixel_pitch, "int64")
        load_tile(self.registers.input(tile), self.share.source, offset, pitch)

    def _load_weight(self, vector: int, step: Expr) -> None:
        offset = self.weights + (step * self.vectors + vector) * self.plan.tile_bytes
        row = tirx.const(ROW_BYTES, "int64")
        load_tile(self.registers.weight(vector), self.share.operands["weight"], offset, row)

    def _store(self) -> None:
        """Sums go to the half of scratch that is not being requantized."""
        c, scratch = self.config, self.share.operands["scratch"]
        sums = self.finish.before.other_sums
        row = self.vectors * ROW_BYTES
        for t in range(c.tiles):
            for v in range(self.vectors):
                address = tirx.address_of(scratch[sums + t * c.pixels * row + v * ROW_BYTES])
                emit_tile(
                    "tilestored64", tile_number(self.registers.sum(t, v)), address, tirx.const(row, "int64")
                )
        with tir.If(self.share.operands["parameters"][int(Parameter.MOVES_LEFT)] != 0), tir.Then():
            self._move_left(tir.Bind(sums))

    def _move_left(self, sums: Expr) -> None:
        """Large factors: a uniform branch, never taken in most layers."""
        fields = (ChannelField.LIMIT, ChannelField.LEFT)
        scratch = self.share.operands["scratch"]
        with tir.serial(0, self.config.tiles * self.config.pixels) as pixel:
            for v in range(self.vectors):
                at = sums + (pixel * self.vectors + v) * ROW_BYTES
                limit, left = (channel_constants(self.share, self.panel, f, v) for f in fields)
                moved = ByteDot().move_left(stored_sums(scratch, at), limit, left, TILE_LANES)
                store(scratch, at, reinterpret(f"uint8x{ROW_BYTES}", moved), ROW_BYTES)
