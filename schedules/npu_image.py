"""Images of products inside a core: how a tile's part of one lies there, and how it gets there."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.loops.form import Convolution
from schedules.npu_emit import Address, Emitter, Run, load
from schedules.npu_tiling import Fold, Tiling, folded_taps
from sim.isa import Engine, Fill, Load, LocalStrides, Memory, Operands, Strides, Window

_ENGINES = (Engine.LOAD, Engine.FETCH)


@dataclass(frozen=True, slots=True)
class Tile:
    """Outputs [y, y + rows) x [x, x + columns) of an image of the batch."""

    batch: int
    y: int
    x: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class _Span:
    """What outputs see of one axis of the image: pixels [begin, begin + count) behind `pad` that lie outside,
    of `local` ones that are held."""

    begin: int
    count: int
    pad: int
    local: int


class Images:
    """Slots for images of one core. zero: the code of what lies outside; base: the first slot's byte."""

    def __init__(
        self,
        e: Emitter,
        core: int,
        form: Convolution,
        tiling: Tiling,
        source: Address,
        zero: int,
        base: int = 0,
    ) -> None:
        self.e, self.core, self.form, self.tiling = e, core, form, tiling
        self.source, self.zero, self.base = source, zero, base
        self.slots = e.slots(core, Memory.ACTIVATION, base, tiling.image_slot_bytes, tiling.image_slots)
        self.pads: dict[int, tuple[object, ...]] = {}  # of each slot, where pads have been filled in

    def take(self, tile: Tile, begin: int, channels: int) -> int:
        """Where channels [begin, begin + channels) of what a tile sees lie, loaded if they do not yet."""
        local, fresh = self.slots.take((tile, begin, channels))
        if fresh:
            slot = (local - self.base) // self.tiling.image_slot_bytes
            engine = _ENGINES[slot % self.tiling.image_engines]
            if self.tiling.fold is Fold.NONE:
                self.fill(engine, tile, begin, channels, local)
            else:
                self._folded(engine, tile, begin, channels, local)
        return local

    def window(self, tile: Tile) -> Window:
        f, fold = self.form, self.tiling.fold
        y, x = self.rows(tile), self.columns(tile)
        whole = fold is Fold.WINDOW
        return Window(
            engine=Engine.MAC,
            kernel_y=1 if whole else f.kernel_height,
            kernel_x=f.kernel_width if fold is Fold.NONE else 1,
            stride_y=1 if whole else f.stride[0],
            stride_x=f.stride[1],
            dilation_y=1 if whole else f.dilation[0],
            dilation_x=f.dilation[1],
            pad_top=0 if whole else y.pad,
            pad_left=x.pad if fold is Fold.NONE else 0,
            height=y.local,
            width=x.local,
        )

    def operands(self, tile: Tile, held: int, channels: int) -> Operands:
        """held: channels of the local image; channels: those of a product."""
        f = self.form
        pixel = self.pixel_bytes(held)
        return Operands(
            act_bits=f.input.bits,
            wgt_bits=f.weight.bits,
            act_zero=self.zero,
            wgt_zero=0,
            channels=channels * folded_taps(f, self.tiling.fold)[1],
            row_stride=self.columns(tile).local * pixel,
            pixel_stride=pixel,
        )

    def pixel_bytes(self, channels: int) -> int:
        copies = self.form.kernel_height if self.tiling.fold is Fold.WINDOW else 1
        return self.form.input.bytes_for(channels) * copies

    def rows(self, tile: Tile) -> _Span:
        if self.tiling.fold is Fold.WINDOW:
            return _Span(0, 0, 0, tile.rows)
        begin, count, pad = seen(self.form, 0, tile.y, tile.rows)
        return _Span(begin, count, pad, count)

    def columns(self, tile: Tile) -> _Span:
        f = self.form
        if self.tiling.fold is Fold.NONE:
            begin, count, pad = seen(f, 1, tile.x, tile.columns)
            return _Span(begin, count, pad, count)
        begin = tile.x * f.stride[1] - f.pad[1]
        span = (tile.columns - 1) * f.stride[1] + f.kernel_width
        inside = max(0, min(f.in_width, begin + span) - max(0, begin))
        return _Span(max(0, begin), inside, min(max(0, -begin), span), span)

    def _external(self, tile: Tile, y: int, x: int, channel: int) -> tuple[Address, int]:
        """Of a pixel's channel, and the bytes between pixels."""
        f, of = self.form, self.form.input
        pitch = of.bytes_for(f.input_pitch or f.in_channels)
        pixel = (tile.batch * f.in_height + y) * f.in_width + x
        return self.source + (pixel * pitch + of.bytes_for(channel)), pitch

    def fill(self, engine: Engine, tile: Tile, begin: int, channels: int, local: int) -> None:
        """Brings what a tile sees of some channels to a slot."""
        y, x = self.rows(tile), self.columns(tile)
        source, pitch = self._external(tile, y.begin, x.begin, begin)
        row = self.pixel_bytes(channels)
        runs = [Run(y.count, self.form.in_width * pitch, x.local * row), Run(x.count, pitch, row)]
        load(self.e, self.core, source, Memory.ACTIVATION, local, runs, row, engine)

    def _folded(self, engine: Engine, tile: Tile, begin: int, channels: int, local: int) -> None:
        """With pads: the zero point fills the slot where they do not lie there from an earlier tile."""
        y, x = self.rows(tile), self.columns(tile)
        whole = self.tiling.fold is Fold.WINDOW
        inside = [self._seen_by(tile, i) for i in range(self.form.kernel_height)] if whole else []
        pads = (y.local, x.local, x.pad, x.count, channels, *inside)
        complete = x.count == x.local and all(count == y.local for _, count in inside)
        if self.pads.get(local) != pads and not complete:
            self._fill(engine, local, y.local, x.local * self.pixel_bytes(channels))
        self.pads[local] = pads
        if not x.count:
            return
        if whole:
            for i, (first, count) in enumerate(inside):
                if count:
                    self._scattered(engine, tile, (i, first, count), (begin, channels), local)
            plain = LocalStrides(engine=engine, row=0, plane=0, element=1, element_bytes=1)
            self.e.set(self.core, plain)  # `load` counts on it where a row is alone
            return
        source, pitch = self._external(tile, y.begin, x.begin, begin)
        row = self.pixel_bytes(channels)
        runs = [Run(y.count, self.form.in_width * pitch, x.local * row), Run(x.count, pitch, row)]
        load(self.e, self.core, source, Memory.ACTIVATION, local + x.pad * row, runs, row, engine)

    def _seen_by(self, tile: Tile, kernel_row: int) -> tuple[int, int]:
        """Rows of the tile, first and count, for which a row of the kernel lies inside the image."""
        f = self.form
        at = tile.y * f.stride[0] - f.pad[0] + kernel_row * f.dilation[0]
        first = max(0, -(at // f.stride[0]))
        last = (f.in_height - 1 - at) // f.stride[0]
        return first, max(0, min(tile.rows - 1, last) - first + 1)

    def _fill(self, engine: Engine, local: int, rows: int, row_bytes: int) -> None:
        low, high = self.zero & 255, self.zero >> 8 & 255
        pattern = low | (low if self.form.input.dtype.itemsize == 1 else high) << 8
        strides = LocalStrides(engine=engine, row=row_bytes, plane=0, element=1, element_bytes=1)
        self.e.set(self.core, strides)
        fill = Fill(
            engine=engine,
            memory=Memory.ACTIVATION,
            local=local,
            row_bytes=row_bytes,
            rows=rows,
            planes=1,
            pattern=pattern,
        )
        self.e.add(self.core, fill)

    def _scattered(
        self,
        engine: Engine,
        tile: Tile,
        rows: tuple[int, int, int],
        channels: tuple[int, int],
        local: int,
    ) -> None:
        """What a row of the kernel sees, its elements kernel_height apart. rows: of the kernel; first and
        count, of the tile."""
        f, size, x = self.form, self.form.input.dtype.itemsize, self.columns(tile)
        i, first, count = rows
        at = (tile.y + first) * f.stride[0] - f.pad[0] + i * f.dilation[0]
        source, pitch = self._external(tile, at, x.begin, channels[0])
        pixel, row = self.pixel_bytes(channels[1]), f.stride[0] * f.in_width * pitch
        wide = x.local * pixel
        begin = local + first * wide + x.pad * pixel + i * size
        width = channels[1] * size
        if width == pitch:  # pixels lie one behind the other
            outside = Strides(engine=engine, row=row, plane=0)
            inside = (wide, 0)
            counts = (x.count * width, count, 1)
        else:
            outside = Strides(engine=engine, row=pitch, plane=row)
            inside = (pixel, wide)
            counts = (width, x.count, count)
        self.e.set(self.core, outside)
        self._spread(engine, source, begin, inside, counts)

    def _spread(
        self,
        engine: Engine,
        source: Address,
        local: int,
        strides: tuple[int, int],
        counts: tuple[int, int, int],
    ) -> None:
        """Elements kernel_height apart. strides: of local rows and planes; counts: bytes of a row, rows,
        planes."""
        size = self.form.input.dtype.itemsize
        inside = LocalStrides(
            engine=engine,
            row=strides[0],
            plane=strides[1],
            element=self.form.kernel_height * size,
            element_bytes=size,
        )
        self.e.set(self.core, inside)
        moved = Load(
            engine=engine,
            dram=source.dram,
            external=source.byte,
            memory=Memory.ACTIVATION,
            local=local,
            row_bytes=counts[0],
            rows=counts[1],
            planes=counts[2],
        )
        self.e.add(self.core, moved)


def seen(f: Convolution, axis: int, first: int, count: int) -> tuple[int, int, int]:
    """What outputs [first, first + count) see of the image along an axis: begin, length, and the pad in
    front of it. Outputs that see nothing get one row, behind a pad that they do not look beyond."""
    extent, kernel = ((f.in_height, f.kernel_height), (f.in_width, f.kernel_width))[axis]
    begin = first * f.stride[axis] - f.pad[axis]
    span = (count - 1) * f.stride[axis] + (kernel - 1) * f.dilation[axis] + 1
    if begin + span <= 0 or begin >= extent:
        return 0, 1, span
    return max(0, begin), min(extent, begin + span) - max(0, begin), max(0, -begin)
