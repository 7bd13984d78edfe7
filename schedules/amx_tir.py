"""TIR of a convolution on matrix tiles.

A block of pixels by channels is summed up in tile registers over the whole reduction, stored to scratch, and
requantized from there by vector code that stands between the tile instructions of the next block: the two use
different ports. Blocks at the ends of rows and shares overlap their neighbours instead of being cut: what they
compute twice is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import IRBuilder

from schedules.amx import AmxPlan
from schedules.amx_config import ROW_BYTES, TILE_LANES, TILE_ROWS, TILES, steps_of
from schedules.convolution_copy import copy_rows
from schedules.convolution_packing import ChannelField, Parameter
from schedules.intrinsics import Buffer, Expr, load, reinterpret, store, tir, tirx
from schedules.intrinsics_x86 import ByteDot

# Blocks of up to this many steps are written out; longer ones are loops.
_UNROLLED_STEPS = 8


def amx_function(plan: AmxPlan) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        tir.func_attr({"global_symbol": plan.symbol, "tirx.noalias": True})
        operands = {name: _operand(plan, name) for name in plan.operands}
        _configure(plan)
        with tir.parallel(0, plan.tiles) as share:
            _Share(plan, operands, share).emit()
        _tile("tilerelease")
    return builder.get()


def _operand(plan: AmxPlan, name: str) -> Buffer:
    count, dtype = plan.operand_type(name)
    itemsize = int(dtype.lstrip("uint")) // 8
    return tir.arg(name, tir.buffer((count,), dtype, align=itemsize))


def _tile(name: str, *arguments: Expr) -> None:
    """An instruction of the tile unit; LLVM keeps them in order."""
    tir.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _register(number: int) -> Expr:
    return tirx.const(number, "int8")


def _load_tile(register: int, source: Buffer, offset: Expr, stride: Expr) -> None:
    _tile("tileloadd64", _register(register), tirx.address_of(source[offset]), tirx.Cast("int64", stride))


class _Registers:
    """Numbers of the tile registers: sums, then inputs, then weights. The side that passes by uses two in
    turn, so that the next tile is loaded while one multiplies."""

    def __init__(self, pixel_tiles: int, vectors: int) -> None:
        self.vectors = vectors
        self.first_input = pixel_tiles * vectors
        self.keeps_inputs = pixel_tiles <= vectors
        self.inputs = pixel_tiles if self.keeps_inputs else min(2, pixel_tiles)
        self.weights = min(2, vectors) if self.keeps_inputs else vectors

    def sum(self, pixel_tile: int, vector: int) -> int:
        return pixel_tile * self.vectors + vector

    def input(self, pixel_tile: int) -> int:
        return self.first_input + pixel_tile % self.inputs

    def weight(self, vector: int) -> int:
        return self.first_input + self.inputs + vector % self.weights


def _configure(plan: AmxPlan) -> None:
    """Sizes of the tiles, as LDTILECFG takes them: palette 1, bytes of a row from 16 on, rows from 48 on.

    A panel of fewer vectors keeps to the registers of a whole one, so that one configuration serves both.
    """
    c = plan.config
    registers = _Registers(c.tiles, c.vectors)
    shapes = {registers.sum(t, v): (c.pixels, ROW_BYTES) for t in range(c.tiles) for v in range(c.vectors)}
    shapes |= {registers.input(t): (c.pixels, c.depth) for t in range(c.tiles)}
    shapes |= {registers.weight(v): (c.depth // 4, ROW_BYTES) for v in range(c.vectors)}
    table = [1] + [0] * (ROW_BYTES - 1)
    for number, (rows, row_bytes) in shapes.items():
        assert number < TILES and rows <= TILE_ROWS
        table[16 + 2 * number], table[48 + number] = row_bytes, rows
    settings = tir.alloc_buffer((ROW_BYTES,), "uint8", scope="local")
    for i, value in enumerate(table):
        store(settings, i, tirx.const(value, "uint8"), 1)
    _tile("ldtilecfg", tirx.address_of(settings[0]))


class _Share:
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
        self.panels = _clipped(c.share_panels, plan.panels, self.panel)
        self.rows = _clipped(c.share_rows, g.height, self.row)
        self.columns = _clipped(c.share_columns, g.width, self.column)

    def emit(self) -> None:
        g = self.g
        if g.copies:
            origin = (self.image, self.row, self.column)
            copy_rows(self.plan, self.operands, origin, (self.rows, self.columns))
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
        # What is requantized meanwhile: the first block has nothing before it and takes garbage to its own
        # place, which it then overwrites.
        state = tir.alloc_buffer((3,), "int32", scope="local")
        tiles_below = -(-self.rows // c.rows) if isinstance(self.rows, int) else _above(self.rows, c.rows)
        beside = -(-self.columns // c.width) if isinstance(self.columns, int) else _above(self.columns, c.width)
        _set(state, _PANEL, first)
        _set(state, _PIXEL, self._pixel(0, self._leftmost(0)))
        _set(state, _SUMS, tirx.const(self.plan.sums_at, "int32"))
        with tir.If(count > 0) if not isinstance(count, int) else _always(), tir.Then():
            with tir.serial(0, count) as p, tir.serial(0, tiles_below) as i, tir.serial(0, beside) as j:
                y = tir.Bind(self._topmost(i))
                x = tir.Bind(self._leftmost(j))
                block = _Block(self, first + p, (y, x), vectors, surplus, state)
                block.emit()
                _set(state, _PANEL, first + p)
                _set(state, _PIXEL, self._pixel(y, x))
                _set(state, _SUMS, 2 * self.plan.sums_at + self.plan.sums_bytes - state[_SUMS])
            _Finish(self, vectors, surplus, state).everything()

    def _topmost(self, block: Expr) -> Expr:
        """First row of a block of rows in the share; the last one moves up to end with it."""
        return _moved_in(block * self.config.rows, self.rows, self.config.rows)

    def _leftmost(self, block: Expr) -> Expr:
        """First column of a block in the share. A flat image's last share may begin before its own columns."""
        return _moved_in(block * self.config.width, self.columns, self.config.width)

    def _pixel(self, y: Expr, x: Expr) -> Expr:
        """Number of an output pixel of the whole batch."""
        row = self.image * self.g.height + self.row + y
        return row * self.g.width + self.column + x


_PANEL, _PIXEL, _SUMS = range(3)


def _set(state: Buffer, field: int, value: Expr) -> None:
    store(state, field, tirx.const(0, "int32") + value, 1)


def _above(extent: Expr, size: int) -> Expr:
    return (extent + (size - 1)) // size


def _moved_in(start: Expr, extent: Expr, size: int) -> Expr:
    if isinstance(extent, int) and extent % size == 0:
        return start
    return tirx.min(start + tirx.const(0, "int32"), extent - size)


def _clipped(block: int, total: int, start: Expr) -> Expr:
    """Extent of a block that starts at `start`; a number where all blocks are equal."""
    return block if total % block == 0 else tirx.min(tirx.const(block, "int32"), total - start)


def _always() -> Any:
    return tir.If(tirx.const(True, "bool"))


class _Block:
    """Emits the tile instructions of one block, with the block before it requantized between them."""

    def __init__(
        self, share: _Share, panel: Expr, at: tuple[Expr, Expr], vectors: int, surplus: int, state: Buffer
    ) -> None:
        self.share, self.plan, self.g, self.config = share, share.plan, share.g, share.config
        self.panel, self.vectors, self.state = panel, vectors, state
        self.y, self.x = at
        self.registers = _Registers(self.config.tiles, self.config.vectors)
        self.finish = _Finish(share, vectors, surplus, state)
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
                _load_tile(self.registers.sum(t, v), channels, bias + v * TILE_LANES, tirx.const(0, "int64"))

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
            with tir.serial(0, apart) if apart > 1 else _once() as s:
                self._step(r * apart + s)
            self.finish.one(r)
        if steps > rounds * apart:
            with tir.serial(0, steps - rounds * apart) as s:
                self._step(rounds * apart + s)
        self.finish.some(rounds, batches)

    def _step(self, step: Expr) -> None:
        for part in self._parts(step):
            part()

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
            for other in range(len(kept)):
                self._multiply(*((other, number) if keeps_inputs else (number, other)))

        return [lambda number=number: part(number) for number in range(len(passing))]

    def _multiply(self, t: int, v: int) -> None:
        operands = (self.registers.sum(t, v), self.registers.input(t), self.registers.weight(v))
        _tile("tdpbusd", *(_register(number) for number in operands))

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
        _load_tile(self.registers.input(tile), self.share.source, offset, pitch)

    def _load_weight(self, vector: int, step: Expr) -> None:
        offset = self.weights + (step * self.vectors + vector) * self.plan.tile_bytes
        row = tirx.const(ROW_BYTES, "int64")
        _load_tile(self.registers.weight(vector), self.share.operands["weight"], offset, row)

    def _store(self) -> None:
        """Sums go to the half of scratch that is not being requantized."""
        c, scratch = self.config, self.share.operands["scratch"]
        sums = 2 * self.plan.sums_at + self.plan.sums_bytes - self.state[_SUMS]
        row = self.vectors * ROW_BYTES
        for t in range(c.tiles):
            for v in range(self.vectors):
                address = tirx.address_of(scratch[sums + t * c.pixels * row + v * ROW_BYTES])
                _tile("tilestored64", _register(self.registers.sum(t, v)), address, tirx.const(row, "int64"))
        with tir.If(self.share.operands["parameters"][int(Parameter.MOVES_LEFT)] != 0), tir.Then():
            self._move_left(tir.Bind(sums))

    def _move_left(self, sums: Expr) -> None:
        """Large factors: a uniform branch, never taken in most layers."""
        scratch = self.share.operands["scratch"]
        with tir.serial(0, self.config.tiles * self.config.pixels) as pixel:
            for v in range(self.vectors):
                at = sums + (pixel * self.vectors + v) * ROW_BYTES
                limit, left = (self._channel(f, v) for f in (ChannelField.LIMIT, ChannelField.LEFT))
                moved = ByteDot().move_left(_sums(scratch, at), limit, left, TILE_LANES)
                store(scratch, at, reinterpret(f"uint8x{ROW_BYTES}", moved), ROW_BYTES)

    def _channel(self, field: ChannelField, v: int) -> Expr:
        return _channel(self.plan, self.share.operands, self.panel, field, v)


def _channel(plan: AmxPlan, operands: dict[str, Buffer], panel: Expr, field: ChannelField, v: int) -> Expr:
    """A constant of the 16 channels of tile v of a panel."""
    width = plan.config.vectors * TILE_LANES
    offset = (panel * len(ChannelField) + int(field)) * width + v * TILE_LANES
    return load(operands["channels"], offset, "int32", TILE_LANES)


def _sums(scratch: Buffer, offset: Expr) -> Expr:
    """A row of a stored tile."""
    raw = load(scratch, offset, "uint8", ROW_BYTES)
    return reinterpret(f"int32x{TILE_LANES}", raw)


class _once:
    """A loop of one round, without the loop."""

    def __enter__(self) -> Expr:
        return tirx.const(0, "int32")

    def __exit__(self, *_: object) -> None: ...


class _Finish:
    """Requantizes and stores the block that `state` tells, in batches of a few vectors."""

    def __init__(self, share: _Share, vectors: int, surplus: int, state: Buffer) -> None:
        self.share, self.plan, self.g, self.config = share, share.plan, share.g, share.config
        self.vectors, self.surplus, self.state = vectors, surplus, state
        self.code = ByteDot()
        self.together = self.code.narrows[self.g.form.output.bits]
        # Pixels of a batch, so that whole groups of vectors are narrowed together.
        self.pixels = min(self.config.pixels, max(1, self.together // vectors))
        self.batches_of_tile = -(-self.config.pixels // self.pixels)
        self.batches = self.config.tiles * self.batches_of_tile
        self.dtype = self.plan.operand_type("output")[1]

    def everything(self) -> None:
        self.some(0, self.batches)

    def some(self, begin: int, end: int) -> None:
        if end > begin:
            with tir.serial(0, end - begin) as b:
                self.one(begin + b)

    def one(self, batch: Expr) -> None:
        """A batch by its number, which may be an expression."""
        tile = tir.Bind(batch // self.batches_of_tile)
        first = (batch - tile * self.batches_of_tile) * self.pixels
        pixel = tir.Bind(_moved_in(first, self.config.pixels, self.pixels))
        c = self.config
        row, column = tile // c.columns, tile % c.columns
        sums = self.state[_SUMS] + (tile * c.pixels + pixel) * (self.vectors * ROW_BYTES)
        place = self.state[_PIXEL] + row * self.g.width + column * c.pixels + pixel
        count = self.pixels * self.vectors
        self.sums = tir.Bind(sums)
        for begin in range(0, count, self.together):
            self._narrow(tir.Bind(place), list(range(begin, min(count, begin + self.together))))

    def _parameter(self, field: Parameter) -> Expr:
        return self.share.operands["parameters"][int(field)]

    def _narrow(self, place: Expr, batch: list[int]) -> None:
        """Rescales vectors k = pixel * vectors + v of the batch and stores their codes."""
        zero, low, high = (self._parameter(f) for f in (Parameter.ZERO_POINT, Parameter.LOW, Parameter.HIGH))
        fields = (ChannelField.MULTIPLIER, ChannelField.ROUNDING, ChannelField.SHIFT)
        operands, scaled = self.share.operands, list[Expr]()
        for k in batch:
            constants = [
                _channel(self.plan, operands, self.state[_PANEL], f, k % self.vectors) for f in fields
            ]
            scaled.append(tir.Bind(self._rescaled(k, *constants)))
        scaled += [scaled[-1]] * (self.together - len(scaled))
        codes = tir.Bind(self.code.narrow(scaled, zero, low, high, TILE_LANES, self.dtype))
        for run in self._runs(batch):
            lanes = list(range((run[0] - batch[0]) * TILE_LANES, (run[-1] - batch[0] + 1) * TILE_LANES))
            value = tirx.Shuffle([codes], lanes) if len(lanes) < self.together * TILE_LANES else codes
            pixel, v = divmod(run[0], self.vectors)
            self._store(place + pixel, v, len(run), value)

    def _rescaled(self, k: int, multiplier: Expr, rounding: Expr, shift: Expr) -> Expr:
        """Sums in memory come shifted by half a lane pair for the price of a load."""
        scratch, at = self.share.operands["scratch"], self.sums + k * ROW_BYTES
        pairs = f"int64x{TILE_LANES // 2}"
        even, odd = (
            reinterpret(pairs, load(scratch, at + shifted, "uint8", ROW_BYTES)) for shifted in (0, 4)
        )
        return self.code.rescale_halves(even, odd, multiplier, rounding, shift, TILE_LANES)

    def _runs(self, batch: list[int]) -> list[list[int]]:
        """The batch cut into runs whose channels are neighbours in memory, all valid or one vector."""
        runs: list[list[int]] = []
        for k in batch:
            v = k % self.vectors
            partial = self.surplus and v == self.vectors - 1
            joins = runs and v > 0 and not partial
            runs[-1].append(k) if joins else runs.append([k])
        return runs

    def _store(self, pixel: Expr, v: int, count: int, value: Expr) -> None:
        output = self.share.operands["output"]
        first = (self.state[_PANEL] * self.config.vectors + v) * TILE_LANES
        offset = pixel * self.g.output_pitch + first
        if not self.surplus or v < self.vectors - 1:
            store(output, offset, value, count * TILE_LANES)
            return
        staged = tir.alloc_buffer((TILE_LANES,), self.dtype, scope="local")
        store(staged, 0, value, TILE_LANES)
        done, valid = 0, TILE_LANES - self.surplus
        while done < valid:
            piece = 1 << ((valid - done).bit_length() - 1)
            store(output, offset + done, load(staged, done, self.dtype, piece), piece)
            done += piece
