"""TIR of a Winograd kernel: see `winograd` for the method. Scratch is bytes, vectors have 256 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm.script.ir_builder import IRBuilder

from schedules.convolution_copy import copy_rows
from schedules.convolution_packing import ChannelField, Parameter
from schedules.intrinsics import Buffer, Expr, broadcast, cast, constant, load, reinterpret, store, tir, tirx
from schedules.intrinsics_x86 import WordDot
from schedules.winograd import BLOCK, LANES, POSITIONS, WinogradPlan

_WORDS = 2 * LANES  # int16 lanes


def winograd_function(plan: WinogradPlan) -> Any:
    """PrimFunc of the plan, named by its symbol."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(plan.symbol)
        tir.func_attr({"global_symbol": plan.symbol, "tirx.noalias": True})
        operands = {name: _operand(plan, name) for name in plan.operands}
        with tir.parallel(0, plan.tiles) as share:
            _Share(plan, operands, share).emit()
    return builder.get()


def _operand(plan: WinogradPlan, name: str) -> Buffer:
    count, dtype = plan.operand_type(name)
    itemsize = int(dtype.lstrip("uint")) // 8
    return tir.arg(name, tir.buffer((count,), dtype, align=itemsize))


class _Share:
    """Emits one share: a block of rows of tiles by a range of panels of output channels."""

    def __init__(self, plan: WinogradPlan, operands: dict[str, Buffer], share: Expr) -> None:
        self.plan, self.form, self.config = plan, plan.form, plan.config
        self.operands, self.scratch = operands, operands["scratch"]
        self.code = WordDot(fused=False)
        self.channels = plan.form.in_channels
        panel_block, rest = share % plan.panel_blocks, share // plan.panel_blocks
        self.panel = panel_block * plan.config.share_panels
        self.tile_row = rest % plan.row_blocks * plan.config.share_rows
        self.image = rest // plan.row_blocks

    def emit(self) -> None:
        plan, rows = self.plan, self.config.share_rows
        origin, extent = (self.image, self.tile_row * 2, 0), (2 * rows, 2 * plan.tile_columns)
        copy_rows(plan.geometry, plan.scratch_row, self.operands, origin, extent)
        blocks = self.channels // BLOCK
        with tir.serial(0, rows) as y, tir.serial(0, plan.tile_columns) as x, tir.serial(0, blocks) as block:
            self._transform_inputs(y, x, block * BLOCK)
        with tir.serial(0, self.config.share_panels) as p:
            panel = tir.Bind(self.panel + p)
            with tir.serial(0, POSITIONS) as position:
                self._over_tiles(lambda tile, count: self._multiply(panel, position, tile, count))
            with tir.serial(0, rows) as y, tir.serial(0, plan.tile_columns) as x:
                for vector in range(self.config.vectors):
                    self._finish(panel, vector, y, x)

    def _over_tiles(self, body: Callable[[Expr, int], None]) -> None:
        """body(first tile, number of tiles)"""
        whole, rest = divmod(self.plan.share_tiles, self.config.tiles)
        with tir.serial(0, whole) as i:
            body(i * self.config.tiles, self.config.tiles)
        if rest:
            body(tirx.const(whole * self.config.tiles, "int32"), rest)

    def _transform_inputs(self, y: Expr, x: Expr, channel: Expr) -> None:
        """V = B' d B of one tile and block of channels."""
        first = tir.Bind(2 * y * self.plan.scratch_row + 2 * x * self.channels + channel)

        def patch(i: int, j: int) -> Expr:
            offset = first + (i * self.plan.scratch_row + j * self.channels)
            return tir.Bind(cast("int16", BLOCK, load(self.scratch, offset, "uint8", BLOCK)))

        columns = [_input_sums([patch(i, j) for i in range(4)]) for j in range(4)]
        rows = [_input_sums([columns[j][i] for j in range(4)]) for i in range(4)]
        tile = y * self.plan.tile_columns + x
        for position in range(POSITIONS):
            value = rows[position // 4][position % 4]
            byte = self._inputs_byte(position, tile) + 2 * channel
            store(self.scratch, byte, reinterpret(f"uint8x{2 * BLOCK}", value), 2 * BLOCK)

    def _inputs_byte(self, position: Expr | int, tile: Expr) -> Expr:
        start = self.plan.inputs_byte + position * self.plan.inputs_pitch
        return start + tile * (2 * self.channels)

    def _sums_byte(self, position: Expr | int, tile: Expr, vector: int) -> Expr:
        start = self.plan.sums_byte + position * self.plan.sums_pitch
        return start + (tile * self.config.vectors + vector) * (4 * LANES)

    def _multiply(self, panel: Expr, position: Expr, tile: Expr, count: int) -> None:
        """Sums over channels of `count` tiles at one position for one panel."""
        vectors, weight = self.config.vectors, self.operands["weight"]
        sums = tir.alloc_buffer((count * vectors * LANES,), "int32", scope="local")
        places = [(t, v, (t * vectors + v) * LANES) for t in range(count) for v in range(vectors)]
        for _, _, slot in places:
            store(sums, slot, constant(0, "int32", LANES), LANES)
        pairs = self.channels // 2
        activations = tir.Bind(self._inputs_byte(position, tile))
        weights = tir.Bind((panel * POSITIONS + position) * (pairs * vectors * _WORDS))
        with tir.serial(0, pairs) as k:
            at = weights + k * (vectors * _WORDS)
            w = [tir.Bind(load(weight, at + v * _WORDS, "int16", _WORDS)) for v in range(vectors)]
            for t in range(count):
                pair = self.scratch.vload([activations + k * 4 + t * (2 * self.channels)], "uint8x4")
                a = tir.Bind(reinterpret(f"int16x{_WORDS}", broadcast(reinterpret("int32", pair), LANES)))
                for v in range(vectors):
                    slot = (t * vectors + v) * LANES
                    value = self.code.accumulate(load(sums, slot, "int32", LANES), a, w[v], LANES)
                    store(sums, slot, value, LANES)
        for t, v, slot in places:
            value = reinterpret(f"uint8x{4 * LANES}", load(sums, slot, "int32", LANES))
            store(self.scratch, self._sums_byte(position, tile + t, v), value, 4 * LANES)

    def _finish(self, panel: Expr, vector: int, y: Expr, x: Expr) -> None:
        """The 2x2 outputs of a tile for one vector of channels."""
        tile = y * self.plan.tile_columns + x

        def product(i: int, j: int) -> Expr:
            byte = self._sums_byte(4 * i + j, tile, vector)
            return tir.Bind(reinterpret(f"uint32x{LANES}", load(self.scratch, byte, "uint8", 4 * LANES)))

        columns = [_output_sums([product(i, j) for i in range(4)]) for j in range(4)]
        outputs = [v for i in range(2) for v in _output_sums([columns[j][i] for j in range(4)])]
        sums = tir.alloc_buffer((4 * LANES,), "int32", scope="local")
        bias = tir.Bind(reinterpret(f"uint32x{LANES}", self._channel(panel, ChannelField.BIAS, vector)))
        for i, quadruple in enumerate(outputs):
            exact = tirx.shift_right(reinterpret(f"int32x{LANES}", quadruple), constant(2, "int32", LANES))
            shifted = reinterpret(f"uint32x{LANES}", exact) + bias
            store(sums, i * LANES, reinterpret(f"int32x{LANES}", shifted), LANES)
        self._store(panel, vector, y, x, self._requantized(panel, vector, sums))

    def _requantized(self, panel: Expr, vector: int, sums: Buffer) -> Expr:
        """Codes of the four outputs in a row."""
        code, parameters = self.code, self.operands["parameters"]

        def field(name: ChannelField) -> Expr:
            return tir.Bind(self._channel(panel, name, vector))

        with tir.If(parameters[int(Parameter.MOVES_LEFT)] != 0), tir.Then():
            limit, left = field(ChannelField.LIMIT), field(ChannelField.LEFT)
            for i in range(4):
                value = load(sums, i * LANES, "int32", LANES)
                store(sums, i * LANES, code.move_left(value, limit, left, LANES), LANES)
        multiplier, rounding = field(ChannelField.MULTIPLIER), field(ChannelField.ROUNDING)
        shift = field(ChannelField.SHIFT)
        values = [load(sums, i * LANES, "int32", LANES) for i in range(4)]
        scaled = [tir.Bind(code.rescale(v, multiplier, rounding, shift, LANES)) for v in values]
        zero, low, high = (parameters[int(p)] for p in (Parameter.ZERO_POINT, Parameter.LOW, Parameter.HIGH))
        return tir.Bind(code.narrow(scaled, zero, low, high, LANES, "uint8"))

    def _channel(self, panel: Expr, field: ChannelField, vector: int) -> Expr:
        width = self.config.vectors * LANES
        offset = (panel * len(ChannelField) + int(field)) * width + vector * LANES
        return load(self.operands["channels"], offset, "int32", LANES)

    def _store(self, panel: Expr, vector: int, y: Expr, x: Expr, codes: Expr) -> None:
        """Outputs of the last tiles may lie outside the image."""
        form, pitch = self.form, self.plan.geometry.output_pitch
        channel = (panel * self.config.vectors + vector) * LANES
        row, column = (self.tile_row + y) * 2, x * 2
        pixel = tir.Bind((self.image * form.out_height + row) * form.out_width + column)

        def put(i: int, j: int) -> None:
            part = tirx.Shuffle([codes], list(range((2 * i + j) * LANES, (2 * i + j + 1) * LANES)))
            store(self.operands["output"], (pixel + i * form.out_width + j) * pitch + channel, part, LANES)

        for i in range(2):
            for j in range(2):
                inside = [row + i < form.out_height] if i and form.out_height % 2 else []
                inside += [column + j < form.out_width] if j and form.out_width % 2 else []
                if not inside:
                    put(i, j)
                    continue
                with tir.If(tirx.all(*inside)), tir.Then():
                    put(i, j)


def _input_sums(d: Sequence[Expr]) -> list[Expr]:
    """B' d."""
    return [tir.Bind(v) for v in (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])]


def _output_sums(m: Sequence[Expr]) -> list[Expr]:
    """A' m; unsigned, because LLVM takes overflow of signed sums for undefined."""
    return [tir.Bind(v) for v in (m[0] + m[1] + m[2], m[1] - m[2] - m[3])]
