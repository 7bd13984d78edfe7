"""Instructions of reductions over any axes, as pools whose window is all there is of a tile.

Inside of the core, what is kept lies one behind the other, as the channels of pixels; what is reduced makes
the pixels, whichever axes it comes from. Where not all pixels of a tile fit, sums (exact, of 32 bits) or
maxima of some at a time are reduced again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil, prod

from compiler.numerics.element import ElementType
from schedules.npu_emit import Address, Emitter, Run
from schedules.npu_finish import Codes, Finish, inputs
from schedules.npu_move import fill
from schedules.npu_transfer import (
    Extents,
    Transfer,
    count_tiles,
    cut,
    dense,
    halvings,
    move_in_by_two,
    move_out,
    tiles,
)
from sim.config import NpuConfig
from sim.isa import Engine, Memory, Pool, Reduce, Window

I32 = ElementType.I32
_MOST_WINDOW = 255  # rows and columns of a window
_MOST_CHANNELS = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class Reduction:
    """kept, reduced: extents of the axes; strides in bytes. finish: of the whole sum or maximum."""

    function: Reduce
    kept: Extents
    reduced: Extents
    source: Address
    element: ElementType
    kept_strides: tuple[int, ...]
    reduced_strides: tuple[int, ...]
    zero: int
    target: Address
    target_strides: tuple[int, ...]
    finish: Finish

    @property
    def partial(self) -> Finish:
        """Of what is reduced again."""
        return Finish(I32) if self.function is Reduce.SUM else Finish(self.element)

    def runs(self, kept: Extents, reduced: Extents) -> list[Run]:
        strides = (*self.reduced_strides, *self.kept_strides)
        inside = dense((*reduced, *kept), self.element.dtype.itemsize)
        return [Run(*t) for t in zip((*reduced, *kept), strides, inside, strict=True)]

    def result_runs(self, kept: Extents) -> list[Run]:
        inside = dense(kept, self.finish.element.dtype.itemsize)
        return [Run(*t) for t in zip(kept, self.target_strides, inside, strict=True)]


@dataclass(frozen=True, slots=True)
class ReductionTile:
    """Extents of what is kept and of what is reduced at a time, and slots: of the image, of a row of partial
    results, of the result."""

    kept: Extents
    reduced: Extents
    image: int
    partial: int
    result: int


def reduction_tile(r: Reduction, config: NpuConfig) -> ReductionTile | None:
    """The cheapest, or None where not even one result's parts fit."""
    for apart in (True, False):
        found = [t for t in _tiles(r, config, apart) if _bytes(t) <= config.scratchpad.activation_bytes]
        if found:
            return min(found, key=lambda t: _cycles(r, t, config))
    return None


def _tiles(r: Reduction, config: NpuConfig, apart: bool) -> Iterator[ReductionTile]:
    """Of every size, as much as fits is reduced at a time."""
    most = config.scratchpad.activation_bytes

    def cost(kept: Extents, reduced: Extents) -> float:
        return max(_step(r, kept, reduced, config))

    for kept in halvings(r.kept, lambda t: cost(t, r.reduced)):
        if prod(kept) > _MOST_CHANNELS:
            continue

        def fits(t: Extents, kept: Extents = kept) -> bool:
            return prod(t) <= _MOST_WINDOW**2 and 2 * _slots(r, kept, t, config, apart).image <= most

        reduced = cut(r.reduced, fits, lambda t, kept=kept: cost(kept, t))
        if reduced is not None:
            for smaller in islice(halvings(reduced, lambda t, kept=kept: cost(kept, t)), 4):
                yield _slots(r, kept, smaller, config, apart)


def _step(r: Reduction, kept: Extents, reduced: Extents, config: NpuConfig) -> tuple[float, float]:
    """Cycles of loading, by two engines, and of reducing a part."""
    into = Transfer.of(r.runs(kept, reduced), r.element.dtype.itemsize)
    groups = prod(reduced) * ceil(prod(kept) / config.vec.lanes)
    reducing = groups * config.vec.pool_cycles + config.vec.pipeline_cycles
    return into.cycles(config, r.source.dram) / 2, reducing


def _cycles(r: Reduction, t: ReductionTile, config: NpuConfig) -> float:
    """Of the layer: the first part overlaps with nothing."""
    chunks = count_tiles(r.reduced, t.reduced)
    parts = count_tiles(r.kept, t.kept) * chunks
    loading, reducing = _step(r, t.kept, t.reduced, config)
    again = chunks * ceil(prod(t.kept) / config.vec.lanes) + config.vec.pipeline_cycles if chunks > 1 else 0
    share = min(config.cores, count_tiles(r.kept, t.kept))
    return parts / share * max(loading, reducing + again / chunks) + loading + reducing


def _slots(r: Reduction, kept: Extents, reduced: Extents, config: NpuConfig, apart: bool) -> ReductionTile:
    count, chunks = prod(kept), count_tiles(r.reduced, reduced)
    bank = config.scratchpad.activation_bytes // config.scratchpad.activation_banks if apart else 1
    image = _room(prod(reduced)) * count * r.element.dtype.itemsize
    partial = _room(chunks) * count * r.partial.element.dtype.itemsize if chunks > 1 else 0
    result = count * r.finish.element.dtype.itemsize
    image, partial, result = (ceil(n / bank) * bank for n in (image, partial, result))
    return ReductionTile(kept, reduced, image, partial, result)


def _bytes(t: ReductionTile) -> int:
    return 2 * (t.image + t.result) + t.partial


def _window(count: int) -> tuple[int, int]:
    """Rows and columns of at least so many pixels: as many, where they make whole rows."""
    for width in range(min(count, _MOST_WINDOW), 0, -1):
        if count % width == 0 and count // width <= _MOST_WINDOW:
            return count // width, width
    height = ceil(count / _MOST_WINDOW)
    return height, ceil(count / height)


def _room(count: int) -> int:
    """Pixels of the largest window for at most so many."""
    return count + ceil(count / _MOST_WINDOW) - 1


def emit_reduction(e: Emitter, r: Reduction, t: ReductionTile) -> None:
    """Tiles of what is kept in turn on all cores."""
    slots = [
        (
            e.slots(core, Memory.ACTIVATION, 0, t.image, 2),
            e.slots(core, Memory.ACTIVATION, 2 * t.image + t.partial, t.result, 2),
        )
        for core in range(e.config.cores)
    ]
    chunks = list(tiles(r.reduced, t.reduced))
    for number, (begin, kept) in enumerate(tiles(r.kept, t.kept)):
        core = number % e.config.cores
        images, results = slots[core]
        result, _ = results.take(number)
        count = prod(kept)
        size = count * r.partial.element.dtype.itemsize
        for k, (first, reduced) in enumerate(chunks):
            image, _ = images.take((number, k))
            source = r.source + _offset(begin, r.kept_strides) + _offset(first, r.reduced_strides)
            move_in_by_two(e, core, source, image, r.runs(kept, reduced), r.element.dtype.itemsize)
            codes = Codes(r.element, r.zero)
            if len(chunks) == 1:
                _pool(e, core, r, codes, r.finish, (prod(reduced), count), (image, result))
            else:
                places = (image, 2 * t.image + k * size)
                _pool(e, core, r, codes, r.partial, (prod(reduced), count), places)
        if len(chunks) > 1:
            codes = Codes(r.partial.element)
            _pool(e, core, r, codes, r.finish, (len(chunks), count), (2 * t.image, result))
        target = r.target + _offset(begin, r.target_strides)
        move_out(e, core, result, target, r.result_runs(kept), r.finish.element.dtype.itemsize)


def _pool(
    e: Emitter,
    core: int,
    r: Reduction,
    codes: Codes,
    finish: Finish,
    shape: tuple[int, int],
    places: tuple[int, int],
) -> None:
    """shape: pixels and channels; places: of image and result."""
    pixels, channels = shape
    height, width = _window(pixels)
    size = codes.element.dtype.itemsize
    pixel = channels * size
    if (spare := height * width - pixels) > 0:
        neutral = codes.zero if r.function is Reduce.SUM else codes.element.low
        fill(e, core, places[0] + pixels * pixel, spare * pixel, neutral, size)
    window = Window(
        engine=Engine.VEC,
        kernel_y=height,
        kernel_x=width,
        stride_y=1,
        stride_x=1,
        dilation_y=1,
        dilation_x=1,
        pad_top=0,
        pad_left=0,
        height=height,
        width=width,
    )
    e.set(core, window)
    e.set(core, inputs(Codes(codes.element, codes.zero, pixel), None, width * pixel))
    if r.function is Reduce.SUM:
        e.set(core, finish.factors())
    e.set(core, finish.output(0))
    pool = Pool(function=r.function, a=places[0], dst=places[1], rows=1, columns=1, channels=channels)
    e.add(core, pool)


def _offset(at: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum(i * s for i, s in zip(at, strides, strict=True))
