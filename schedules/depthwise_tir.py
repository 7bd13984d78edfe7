"""The loops of a depthwise convolution, scheduled: see `depthwise` for the method."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder

from schedules.depthwise_layout import FACTORS, VECTORS, ChannelGroup, DepthwiseLayout
from schedules.depthwise_vectors import (
    Factors,
    Vector,
    dot,
    emit,
    interleave_rows,
    narrow,
    rescale,
    shuffle,
    tirx,
)

Index = Any  # TVM's expressions carry no types


def depthwise_function(layout: DepthwiseLayout, symbol: str) -> Any:
    """PrimFunc over the operands of `DepthwisePlan.operands`, all flat; scratch is bytes."""
    with IRBuilder() as builder, emit.prim_func(s_tir=True):
        emit.func_name(symbol)
        emit.func_attr({"tirx.noalias": True})
        _Kernel(layout).emit()
    return builder.get()


@dataclass(frozen=True, slots=True)
class _Constants:
    """What one vector of a group needs for a whole row; it stays in registers."""

    bias: Vector
    weights: list[Vector]
    factors: Factors | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a group of channels and a band stand: in the image, and in the packed constants."""

    group: ChannelGroup
    image: Index
    band: Index
    channel: Index
    lane: Index  # lanes of all groups before


class _Kernel:
    """Emits its statements into the open function."""

    def __init__(self, layout: DepthwiseLayout) -> None:
        self.layout, self.form = layout, layout.form
        f = layout.form
        self.in_pitch = f.input_pitch or f.in_channels
        self.out_pitch = f.output_pitch or f.out_channels
        lanes = sum(g.width for g in layout.groups)
        steps = sum(len(s) for s in layout.steps)
        pixels_in, pixels_out = f.batch * f.in_height * f.in_width, f.batch * f.out_height * f.out_width
        self.input = _operand("input", pixels_in * self.in_pitch, layout.input_dtype)
        self.weight = _operand("weight", lanes * steps * layout.depth, layout.weight_dtype)
        self.bias = _operand("bias", lanes, "int32")
        self.rescale = _operand("rescale", FACTORS * lanes, "int32") if f.requantizes else None
        self.parameters = _operand("parameters", 5, "int32")
        self.output = _operand("output", pixels_out * self.out_pitch, layout.output_dtype)
        self.scratch = _operand("scratch", layout.scratch_bytes, "uint8")

    def emit(self) -> None:
        layout, per_tile = self.layout, self.layout.config.bands
        with emit.parallel(0, self.form.batch * layout.tiles_per_image) as tile:
            image = emit.bind(tirx.floordiv(tile, layout.tiles_per_image))
            first = emit.bind(tirx.floormod(tile, layout.tiles_per_image) * per_tile)
            lane = 0
            for group, count in _runs(layout.groups):
                self._pad_columns(group)
                with emit.serial(0, count) as g, emit.serial(0, per_tile) as b:
                    band = emit.bind(first + b)
                    with _when(band < layout.bands, layout.bands % per_tile != 0):
                        before = g * group.width
                        place = _Place(
                            group, image, band, emit.bind(group.start + before), emit.bind(lane + before)
                        )
                        self._gather(place)
                        self._contract(place)
                lane += count * group.width

    def _band_byte(self, group: ChannelGroup, column: Index, row_group: int, v: Index = 0) -> Index:
        vectors = (column * self.layout.row_groups + row_group) * VECTORS + v
        return vectors * (group.lanes * self.layout.lane_bytes)

    def _word_byte(self, group: ChannelGroup, slot: Index, v: Index) -> Index:
        """Results of a block of columns, before narrowing, stand behind the band."""
        return self.layout.band_bytes + 64 + (slot * VECTORS + v) * (4 * group.lanes)

    def _pad_columns(self, group: ChannelGroup) -> None:
        """Columns outside the image keep the zero point while groups of one width are computed."""
        layout, size = self.layout, group.lanes * self.layout.depth
        inner = layout.inner_columns
        for begin, end in ((0, inner.start), (inner.stop, layout.band_columns)):
            if begin < end:
                vectors = layout.row_groups * VECTORS
                with emit.serial(begin * vectors, end * vectors) as i:
                    zero = self._zero_point(layout.band_dtype, size)
                    self._store_bytes(
                        i * (group.lanes * layout.lane_bytes), zero, group.lanes * layout.lane_bytes
                    )

    def _zero_point(self, dtype: str, count: int) -> Vector:
        return tirx.Broadcast(tirx.Cast(dtype, self.parameters[0]), count)

    def _gather(self, at: _Place) -> None:
        """The input rows of a band, interleaved, into scratch; rows outside the image are the zero point."""
        layout, f = self.layout, self.form
        top = emit.bind(at.band * (layout.config.rows * f.stride[0]) - f.pad[0])
        reach = layout.row_offsets[-1]

        def columns(checked: bool) -> None:
            with emit.serial(layout.inner_columns.start, layout.inner_columns.stop) as x:
                for row_group in range(layout.row_groups):
                    self._gather_column(at, row_group, top, x, checked)

        last = (layout.bands - 1) * layout.config.rows * f.stride[0] - f.pad[0]
        if not layout.inner_columns:
            return
        if f.pad[0] <= 0 and last + reach < f.in_height:
            columns(checked=False)
            return
        with emit.If(tirx.all(top >= 0, top + reach < f.in_height)):
            with emit.Then():
                columns(checked=False)
            with emit.Else():
                columns(checked=True)

    def _gather_column(self, at: _Place, row_group: int, top: Index, x: Index, checked: bool) -> None:
        layout, f = self.layout, self.form
        pixel = at.image * (f.in_height * f.in_width) + x - f.pad[1]

        def load(d: int, begin: int, count: int) -> Vector:
            # A lane's spare rows have weight 0: any row will do for them.
            offset = layout.row_offsets[min(row_group * layout.depth + d, len(layout.row_offsets) - 1)]
            row = top + offset
            index = (row * f.in_width + pixel) * self.in_pitch + at.channel + begin
            value = self.input.vload([index], f"{layout.input_dtype}x{count}")
            if checked:
                zero = self._zero_point(layout.input_dtype, count)
                value = tirx.if_then_else(tirx.all(row >= 0, row < f.in_height), value, zero)
            return emit.bind(value)

        vectors = interleave_rows(layout, at.group.lanes, load)
        size = at.group.width * layout.lane_bytes // len(vectors)
        first = self._band_byte(at.group, x, row_group)
        for i, vector in enumerate(vectors):
            self._store_bytes(first + i * size, vector, size)

    def _contract(self, at: _Place) -> None:
        """The output rows of a band."""
        layout, f = self.layout, self.form
        rows, steps = layout.config.rows, sum(len(s) for s in layout.steps)
        weights = emit.bind(at.lane * (steps * layout.depth))
        for row in range(rows):
            oh = at.band * rows + row
            with _when(oh < f.out_height, f.out_height % rows != 0):
                pixel = emit.bind((at.image * f.out_height + oh) * f.out_width)
                if layout.keeps_words:
                    self._row_in_registers(at, row, weights, pixel)
                else:
                    self._row_in_blocks(at, row, weights, pixel)
            weights = emit.bind(weights + len(layout.steps[row]) * at.group.width * layout.depth)

    def _row_in_registers(self, at: _Place, row: int, weights: Index, pixel: Index) -> None:
        """A row tile by tile, narrowed out of registers."""

        def tiles(scale_up: bool) -> None:
            with emit.serial(0, self.layout.column_tiles) as tile:
                column = emit.bind(self._column(tile))
                words = self._words_of_tile(at, row, weights, column, scale_up)
                for c, vectors in enumerate(words):
                    self._store_codes(at, pixel + column + c, vectors)

        if not self.form.requantizes:
            tiles(scale_up=False)
            return
        with emit.If(self.parameters[4] == 0):
            with emit.Then():
                tiles(scale_up=False)
            with emit.Else():
                tiles(scale_up=True)

    def _words_of_tile(
        self, at: _Place, row: int, weights: Index, column: Index, scale_up: bool
    ) -> list[list[Vector]]:
        """[column, vector]: rescaled results. Two vectors at a time: where a lane is 16 bits, they lie in one
        register of the band."""
        layout, f, lanes = self.layout, self.form, at.group.lanes
        columns = range(layout.config.columns)
        words: list[list[Vector]] = [[] for _ in columns]
        first = emit.bind(column * f.stride[1])
        size = lanes * layout.depth
        for pair in (0, 2):
            constants = [self._constants(at, row, weights, v, taps=False) for v in (pair, pair + 1)]
            values = [[c.bias for _ in columns] for c in constants]
            for s, (kw, row_group) in enumerate(layout.steps[row]):
                index = weights + (s * VECTORS + pair) * size
                taps = emit.bind(self.weight.vload([index], f"{layout.weight_dtype}x{2 * size}"))
                for c in columns:
                    x = self._band_pair(
                        at.group, first + (c * f.stride[1] + kw * f.dilation[1]), row_group, pair
                    )
                    for i, half in enumerate((range(size), range(size, 2 * size))):
                        operands = shuffle([x], half), shuffle([taps], half)
                        values[i][c] = dot(layout, lanes, values[i][c], *operands)
            for c in columns:
                for constant, value in zip(constants, values, strict=True):
                    factors = constant.factors
                    word = (
                        value[c] if factors is None else rescale(layout, lanes, value[c], factors, scale_up)
                    )
                    words[c].append(emit.bind(word))
        return words

    def _band_pair(self, group: ChannelGroup, column: Index, row_group: int, v: int) -> Vector:
        layout, size = self.layout, 2 * group.lanes * self.layout.depth
        index = self._band_byte(group, column, row_group, v)
        return emit.bind(
            self._load_bytes(index, f"{layout.band_dtype}x{size}", 2 * group.lanes * layout.lane_bytes)
        )

    def _row_in_blocks(self, at: _Place, row: int, weights: Index, pixel: Index) -> None:
        """A row in blocks of columns: vector by vector, then narrowed together."""
        layout, f = self.layout, self.form
        with emit.serial(0, layout.blocks) as block:
            tile = emit.bind(block * layout.block_tiles)
            count = emit.bind(tirx.min(layout.block_tiles, layout.column_tiles - tile))
            if f.requantizes:
                with emit.If(self.parameters[4] == 0):
                    with emit.Then():
                        self._block(at, row, weights, tile, count, scale_up=False)
                    with emit.Else():
                        self._block(at, row, weights, tile, count, scale_up=True)
            else:
                self._block(at, row, weights, tile, count, scale_up=False)
            with emit.serial(0, count) as i:
                self._narrow(at, pixel, tile, i)

    def _column(self, tile: Index) -> Index:
        """First output column of a tile; the last one overlaps its neighbour where columns do not divide."""
        columns = self.layout.config.columns
        return tirx.min(tile * columns, self.form.out_width - columns)

    def _block(self, at: _Place, row: int, weights: Index, tile: Index, count: Index, scale_up: bool) -> None:
        with emit.serial(0, VECTORS) as v:
            constants = self._constants(at, row, weights, v)
            with emit.serial(0, count) as i:
                self._accumulate(at, row, v, self._column(tile + i), i, constants, scale_up)

    def _constants(self, at: _Place, row: int, weights: Index, v: Index, *, taps: bool = True) -> _Constants:
        """taps: whether the weights are wanted as well."""
        layout, lanes = self.layout, at.group.lanes
        size = lanes * layout.depth

        def words(buffer: Any, index: Index) -> Vector:
            return emit.bind(buffer.vload([index], f"int32x{lanes}"))

        loaded = [
            emit.bind(
                self.weight.vload([weights + (s * VECTORS + v) * size], f"{layout.weight_dtype}x{size}")
            )
            for s in range(len(layout.steps[row]) if taps else 0)
        ]
        factors = None
        if self.form.requantizes:
            first = (at.lane + v * lanes) * FACTORS
            factors = Factors(*(words(self.rescale, first + i * lanes) for i in range(FACTORS)))
        return _Constants(words(self.bias, at.lane + v * lanes), loaded, factors)

    def _accumulate(
        self, at: _Place, row: int, v: Index, ow: Index, slot: Index, constants: _Constants, scale_up: bool
    ) -> None:
        """Vector v of a tile of columns, rescaled, into scratch."""
        layout, f, lanes = self.layout, self.form, at.group.lanes
        columns = range(layout.config.columns)
        first = emit.bind(ow * f.stride[1])
        values = [constants.bias for _ in columns]
        dtype = f"{layout.band_dtype}x{lanes * layout.depth}"
        for w, (kw, row_group) in zip(constants.weights, layout.steps[row], strict=True):
            for c in columns:
                column = first + (c * f.stride[1] + kw * f.dilation[1])
                index = self._band_byte(at.group, column, row_group, v)
                x = self._load_bytes(index, dtype, lanes * layout.lane_bytes)
                values[c] = dot(layout, lanes, values[c], x, w)
        for c in columns:
            if constants.factors is not None:
                values[c] = rescale(layout, lanes, values[c], constants.factors, scale_up)
            index = self._word_byte(at.group, slot * layout.config.columns + c, v)
            self._store_bytes(index, values[c], 4 * lanes)

    def _narrow(self, at: _Place, pixel: Index, tile: Index, slot: Index) -> None:
        """The codes of a tile of columns, out of the words in scratch."""
        layout, group = self.layout, at.group
        first = emit.bind(pixel + self._column(tile + slot))
        for c in range(layout.config.columns):
            indices = [self._word_byte(group, slot * layout.config.columns + c, v) for v in range(VECTORS)]
            vectors = [
                emit.bind(self._load_bytes(i, f"int32x{group.lanes}", 4 * group.lanes)) for i in indices
            ]
            self._store_codes(at, first + c, vectors)

    def _store_codes(self, at: _Place, pixel: Index, vectors: Sequence[Vector]) -> None:
        group = at.group
        codes = narrow(self.layout, group.lanes, vectors, self.parameters)
        if group.stored < group.width:
            codes = shuffle([codes], range(group.stored))
        first = pixel * self.out_pitch + at.channel
        emit.buffer_store(self.output, codes, [tirx.Ramp(first, 1, group.stored)])

    def _store_bytes(self, byte: Index, value: Vector, count: int) -> None:
        emit.buffer_store(
            self.scratch, tirx.reinterpret(f"uint8x{count}", value), [tirx.Ramp(byte, 1, count)]
        )

    def _load_bytes(self, byte: Index, dtype: str, count: int) -> Vector:
        return tirx.reinterpret(dtype, self.scratch.vload([byte], f"uint8x{count}"))


def _operand(name: str, size: int, dtype: str) -> Any:
    return emit.arg(name, emit.buffer((size,), dtype, layout=None))


def _runs(groups: Sequence[ChannelGroup]) -> list[tuple[ChannelGroup, int]]:
    """Groups that follow each other in equal steps, as (first, count)."""
    last = groups[-1]
    if len(groups) == 1 or (last.lanes == groups[0].lanes and last.start == groups[-2].start + last.width):
        return [(groups[0], len(groups))]
    return [(groups[0], len(groups) - 1), (last, 1)]


@contextmanager
def _when(condition: Any, needed: bool) -> Generator[None]:
    """A guard, where it can fail at all."""
    if not needed:
        yield
        return
    with emit.If(condition), emit.Then():
        yield
