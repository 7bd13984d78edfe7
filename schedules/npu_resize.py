"""Instructions of bilinear resizes: a pass of VEC along each axis, the first into exact sums of 32 bits.

Sums over the two rows and the two columns may be taken in either order: the axis that leaves less for the
second pass comes first. Outputs whose places lie as far behind the point as those before them, in even steps,
have equal factors: an instruction computes a series of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import ceil

from compiler.numerics.element import ElementType
from schedules.npu_emit import Address, Emitter, Run
from schedules.npu_finish import Codes, Finish
from schedules.npu_functions import elementwise
from schedules.npu_transfer import Extents, Transfer, count_tiles, dense, halvings, move_in, move_out, tiles
from sim.config import NpuConfig
from sim.isa import Binary, Engine, Memory

I32 = ElementType.I32
_TRIED = 6  # tiles, from the largest one that fits on
_MOST_COUNT = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class Series:
    """Outputs begin, begin + step, …: `count` of them. first: the first output's first neighbour, which moves
    by `move` for each further one; apart: from there to the second neighbour, whose weight is `weight`."""

    begin: int
    step: int
    count: int
    first: int
    move: int
    apart: int
    weight: int


@dataclass(frozen=True)  # no slots: a cached property
class Taps:
    """Of each output along an axis, both neighbours and the weight of the second in units of 2**-bits; with a
    weight of 0, the second is the first."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    weight: tuple[int, ...]
    bits: int

    def __len__(self) -> int:
        return len(self.first)

    def seen(self, begin: int, count: int) -> tuple[int, int]:
        """The first input that some outputs look at, and how many there are up to the last one."""
        low = min(self.first[begin : begin + count])
        return low, max(self.second[begin : begin + count]) - low + 1

    def most_seen(self, count: int) -> int:
        """Of all tiles of so many outputs."""
        return max(self.seen(at, min(count, len(self) - at))[1] for at in range(0, len(self), count))

    @cached_property
    def is_identity(self) -> bool:
        return not any(self.weight) and self.first == tuple(range(len(self)))

    def series(self, begin: int, count: int) -> list[Series]:
        """All outputs of a tile; places are counted from the tile's first output and its first input."""
        low, _ = self.seen(begin, count)
        alike: dict[tuple[int, int], list[int]] = {}
        for i in range(begin, begin + count):
            alike.setdefault((self.weight[i], self.second[i] - self.first[i]), []).append(i)
        found: list[Series] = []
        for (weight, apart), outputs in alike.items():
            for run in self._even(outputs):
                i, j = run[0], run[min(1, len(run) - 1)]
                first = self.first[i]
                moved = self.first[j] - first
                found.append(Series(i - begin, j - i, len(run), first - low, moved, apart, weight))
        return found

    def _even(self, outputs: list[int]) -> Iterator[list[int]]:
        """Runs of even steps forward, of outputs and of their neighbours."""
        run: list[int] = []
        for i in outputs:
            if len(run) > 1:
                steps = [(b - a, self.first[b] - self.first[a]) for a, b in (run[:2], (run[-1], i))]
                fits = steps[0] == steps[1]
            else:
                fits = not run or self.first[i] >= self.first[run[0]]
            if not fits:
                yield run
                run = []
            run.append(i)
        yield run


@dataclass(frozen=True, slots=True)
class Resize:
    """[batch, height, width, channels] of 8-bit codes; strides in bytes of all four axes."""

    batch: int
    channels: int
    rows: Taps
    columns: Taps
    source: Address
    source_strides: tuple[int, ...]
    target: Address
    target_strides: tuple[int, ...]
    element: ElementType


@dataclass(frozen=True, slots=True)
class ResizeTile:
    """Rows, columns and channels of the result at a time. columns_first: which axis the first pass is along.
    row: elements of the longest row. Bytes of places: two of images, one of sums, two of results."""

    shape: Extents
    columns_first: bool
    row: int
    image: int
    sums: int
    result: int

    @property
    def bytes(self) -> int:
        return 2 * (self.image + self.result) + self.sums


def resize_tile(r: Resize, config: NpuConfig) -> ResizeTile | None:
    """The cheapest of the largest ones that fit; None where not even one element does."""
    most = config.scratchpad.activation_bytes
    whole = (len(r.rows), len(r.columns), r.channels)
    for apart in (True, False):
        shapes = halvings(whole, lambda t: max(_engines(r, t, config)))
        candidates = (_tile(r, shape, config, apart) for shape in shapes)
        fitting = (t for t in candidates if t.bytes <= most and t.row <= _MOST_COUNT)
        if found := list(islice(fitting, _TRIED)):
            return min(found, key=lambda t: _total(r, t.shape, config))
    return None


def _tile(r: Resize, shape: Extents, config: NpuConfig, apart: bool) -> ResizeTile:
    pads, size = config.scratchpad, r.element.dtype.itemsize
    rows, columns, channels = shape
    height, width = r.rows.most_seen(rows), r.columns.most_seen(columns)
    columns_first = height * columns <= rows * width
    sums = (height * columns if columns_first else rows * width) * channels * I32.dtype.itemsize
    if r.rows.is_identity or r.columns.is_identity:
        sums = 0
    bank = pads.activation_bytes // pads.activation_banks if apart else 1
    places = height * width * channels * size, sums, rows * columns * channels * size
    image, sums, result = (ceil(n / bank) * bank for n in places)
    row = max(width, columns) * channels
    return ResizeTile(shape, columns_first, row, image, sums, result)


def _engines(r: Resize, shape: Extents, config: NpuConfig) -> tuple[float, float, float]:
    """Cycles of LOAD, VEC and STORE for a tile."""
    rows, columns, channels = shape
    height, width = r.rows.most_seen(rows), r.columns.most_seen(columns)
    size, vec = r.element.dtype.itemsize, config.vec
    into = Transfer.of(_runs((height, width, channels), r.source_strides[1:], size), size)
    out = Transfer.of(_runs(shape, r.target_strides[1:], size), size)
    across = min(height, rows) * columns * ceil(channels / vec.lanes)
    down = rows * ceil(min(width, columns) * channels / vec.lanes)
    each = vec.pipeline_cycles + config.issue_cycles
    started = len(r.rows.series(0, rows)) + min(columns, height * len(r.columns.series(0, columns)))
    computing = (across + down) * vec.elementwise_cycles + started * each
    loading = into.cycles(config, r.source.dram)
    return loading, computing, out.cycles(config, r.target.dram, write=True)


def _total(r: Resize, shape: Extents, config: NpuConfig) -> float:
    """Of the layer: nothing overlaps with the first tile's image and the last one's result."""
    engines = _engines(r, shape, config)
    count = r.batch * count_tiles((len(r.rows), len(r.columns), r.channels), shape)
    return count / min(config.cores, count) * max(engines) + sum(engines) - max(engines)


def _runs(shape: Extents, strides: tuple[int, ...], size: int) -> list[Run]:
    return [Run(*t) for t in zip(shape, strides, dense(shape, size), strict=True)]


def emit_resize(e: Emitter, r: Resize, t: ResizeTile) -> None:
    """Tiles of the result in turn on all cores."""
    whole = (r.batch, len(r.rows), len(r.columns), r.channels)
    slots = [
        (
            e.slots(core, Memory.ACTIVATION, 0, t.image, 2),
            e.slots(core, Memory.ACTIVATION, 2 * t.image + t.sums, t.result, 2),
        )
        for core in range(e.config.cores)
    ]
    size = r.element.dtype.itemsize
    for number, (begin, shape) in enumerate(tiles(whole, (1, *t.shape))):
        core = number % e.config.cores
        (image, _), (result, _) = (s.take(number) for s in slots[core])
        (top, height), (left, width) = r.rows.seen(begin[1], shape[1]), r.columns.seen(begin[2], shape[2])
        source = r.source + _offset((begin[0], top, left, begin[3]), r.source_strides)
        held = (height, width, shape[3])
        runs = _runs(held, r.source_strides[1:], size)
        move_in(e, core, Engine.LOAD, source, Memory.ACTIVATION, image, runs, size)
        _passes(e, core, r, t, (begin, shape), held, (image, result))
        target = r.target + _offset(begin, r.target_strides)
        move_out(e, core, result, target, _runs(shape[1:], r.target_strides[1:], size), size)


@dataclass(frozen=True, slots=True)
class _Data:
    """Elements [outer, along, inner] without gaps at a byte of the activation memory."""

    at: int
    element: ElementType
    outer: int
    along: int
    inner: int

    def place(self, outer: int, along: int) -> int:
        return self.at + (outer * self.along + along) * self.inner * self.element.dtype.itemsize

    def stride(self, outer: int, along: int) -> int:
        """Bytes between rows that lie so far apart."""
        return self.place(outer, along) - self.at


def _passes(
    e: Emitter,
    core: int,
    r: Resize,
    t: ResizeTile,
    tile: tuple[Extents, Extents],
    held: Extents,
    places: tuple[int, int],
) -> None:
    """From an image of extents `held` to a tile of the result; places: of both."""
    (_, row, column, _), (_, rows, columns, channels) = tile
    axes = (
        (r.rows, r.rows.series(row, rows), rows),
        (r.columns, r.columns.series(column, columns), columns),
    )
    order = (1, 0) if t.columns_first else (0, 1)
    needed = [axis for axis in order if not axes[axis][0].is_identity] or [1]
    at, element, extents = places[0], r.element, list(held[:2])
    for number, axis in enumerate(needed):
        last = number == len(needed) - 1
        taps, series, count = axes[axis]
        shape = (1, extents[0], extents[1] * channels) if axis == 0 else (extents[0], extents[1], channels)
        source = _Data(at, element, *shape)
        at, element = (places[1], r.element) if last else (2 * t.image, I32)
        target = _Data(at, element, shape[0], count, shape[2])
        shift = taps.bits * len(needed) if last else 0
        _along(e, core, series, source, target, (taps.bits, shift))
        extents[axis] = count


def _along(
    e: Emitter, core: int, series: list[Series], source: _Data, target: _Data, bits: tuple[int, int]
) -> None:
    """Sums of both neighbours along the middle axis. bits: of a weight, and of the shift behind the sum."""
    for s in series:
        finish = Finish(target.element, (1 << bits[0]) - s.weight, s.weight, bits[1])
        if s.count >= source.outer:
            views = [
                (s.count, source.place(o, s.first), target.place(o, s.begin), (0, s.move), (0, s.step))
                for o in range(source.outer)
            ]
        else:
            views = [
                (
                    source.outer,
                    source.place(0, s.first + i * s.move),
                    target.place(0, s.begin + i * s.step),
                    (1, 0),
                    (1, 0),
                )
                for i in range(s.count)
            ]
        for rows, a, out, read, written in views:
            codes = Codes(source.element, 0, source.stride(*read))
            operands = (a, codes), (a + source.stride(0, s.apart), codes)
            result = out, target.stride(*written)
            elementwise(e, core, Binary.ADD, finish, (rows, source.inner), operands, result)


def _offset(at: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum(i * s for i, s in zip(at, strides, strict=True))
