"""Instructions of pools: windows over images."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from compiler.numerics.element import ElementType
from schedules.npu_emit import MAX_COUNT, Address, Emitter, Run
from schedules.npu_finish import Codes, Finish, inputs
from schedules.npu_transfer import Extents, Transfer, cut, move_in, move_in_by_two, move_out, tiles
from sim.config import NpuConfig
from sim.isa import Engine, Memory, Pool, Reduce, Window

_LEAST_TILE = 1024  # taps of all windows of a tile: smaller tiles are mostly latency
_TILES_PER_CORE = 4


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the result, and how its sums become codes."""

    begin: tuple[int, int]
    shape: tuple[int, int]
    finish: Finish


@dataclass(frozen=True, slots=True)
class Pooling:
    """A window over [batch, height, width, channels] -> [batch, out_height, out_width, channels]. strides: in
    bytes; elements of a pixel lie one behind the other. regions: disjoint, of all outputs together."""

    function: Reduce
    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    image: Address
    image_element: ElementType
    image_strides: tuple[int, ...]
    zero_in: int
    result: Address
    result_element: ElementType
    result_strides: tuple[int, ...]
    regions: tuple[Region, ...]

    def patch(self, rows: int, columns: int) -> tuple[int, int]:
        """Pixels that rows x columns outputs see, at most."""
        extents = zip(
            (rows, columns), self.kernel, self.stride, self.dilation, (self.height, self.width), strict=True
        )
        height, width = (min((n - 1) * s + (k - 1) * d + 1, most) for n, k, s, d, most in extents)
        return height, width

    def image_runs(self, height: int, width: int, channels: int) -> list[Run]:
        return _runs((height, width, channels), self.image_strides[1:], self.image_element)

    def result_runs(self, rows: int, columns: int, channels: int) -> list[Run]:
        return _runs((rows, columns, channels), self.result_strides[1:], self.result_element)


def _runs(shape: tuple[int, int, int], strides: tuple[int, ...], element: ElementType) -> list[Run]:
    size = element.dtype.itemsize
    inside = (shape[1] * shape[2] * size, shape[2] * size, size)
    return [Run(*t) for t in zip(shape, strides, inside, strict=True)]


def pool_tile(p: Pooling, config: NpuConfig, grain: float = 1.0) -> Extents | None:
    """Rows, columns and channels of tiles of which two fit; None where not even one output does. grain: as of
    `Manner`."""
    lanes = config.vec.lanes
    taps = prod(p.kernel)
    whole = p.batch * p.out_height * p.out_width * p.channels * taps
    enough = grain * max(_LEAST_TILE, lanes * taps, ceil(whole / (_TILES_PER_CORE * config.cores)))

    def fits(tile: Extents, apart: bool = True) -> bool:
        slots = _slots(p, tile, config, apart)
        small = prod(tile) * taps <= enough or tile == (1, 1, 1)
        extents = max(*tile[:2], *p.patch(*tile[:2]))
        return small and 2 * sum(slots) <= config.scratchpad.activation_bytes and extents <= MAX_COUNT

    def cost(tile: Extents) -> float:
        rows, columns, channels = tile
        size = p.image_element.dtype.itemsize, p.result_element.dtype.itemsize
        image = p.image_runs(*p.patch(rows, columns), channels)
        reads = Transfer.of(image, size[0]).cycles(config, p.image.dram)
        result = Transfer.of(p.result_runs(*tile), size[1])
        writes = result.cycles(config, p.result.dram, write=True)
        computes = rows * columns * ceil(channels / lanes) * taps * config.vec.pool_cycles
        return max(reads / 2, writes, computes) + config.vec.pipeline_cycles

    shape = (p.out_height, p.out_width, p.channels)
    return cut(shape, fits, cost) or cut(shape, lambda tile: fits(tile, apart=False), cost)


def _slots(p: Pooling, tile: Extents, config: NpuConfig, apart: bool = True) -> tuple[int, int]:
    """Bytes of the places of image and result, apart in banks of their own."""
    rows, columns, channels = tile
    image = prod(p.patch(rows, columns)) * channels * p.image_element.dtype.itemsize
    result = prod(tile) * p.result_element.dtype.itemsize
    bank = config.scratchpad.activation_bytes // config.scratchpad.activation_banks
    return (ceil(image / bank) * bank, ceil(result / bank) * bank) if apart else (image, result)


def emit_pool(e: Emitter, p: Pooling, tile: Extents) -> None:
    """Tiles in turn on all cores."""
    image, result = _slots(p, tile, e.config)
    if 2 * (image + result) > e.config.scratchpad.activation_bytes:
        image, result = _slots(p, tile, e.config, apart=False)
    slots = [
        (
            e.slots(core, Memory.ACTIVATION, 0, image, 2),
            e.slots(core, Memory.ACTIVATION, 2 * image, result, 2),
        )
        for core in range(e.config.cores)
    ]
    whole = (p.batch, p.out_height, p.out_width, p.channels)
    for number, (begin, shape) in enumerate(tiles(whole, (1, *tile))):
        core = number % e.config.cores
        a, dst = (s.take(number)[0] for s in slots[core])
        _Tile(p, begin, shape, a).emit(e, core, dst)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Rows and columns of the image that outputs look at. begin, shape: of those inside it; pad: how many
    outputs look at before them."""

    begin: tuple[int, int]
    shape: tuple[int, int]
    pad: tuple[int, int]

    @classmethod
    def by(cls, p: Pooling, first: tuple[int, int], count: tuple[int, int]) -> _Seen:
        begins, shapes, pads = [0, 0], [0, 0], [0, 0]
        for d, extent in enumerate((p.height, p.width)):
            at = first[d] * p.stride[d] - p.pad[d]
            end = at + (count[d] - 1) * p.stride[d] + (p.kernel[d] - 1) * p.dilation[d] + 1
            begins[d], pads[d] = max(0, at), max(0, -at)
            shapes[d] = min(extent, end) - begins[d]
        return cls((begins[0], begins[1]), (shapes[0], shapes[1]), (pads[0], pads[1]))


@dataclass(frozen=True, slots=True)
class _Tile:
    """A box of the result [1, rows, columns, channels], whose image lies at `local`."""

    p: Pooling
    begin: Extents
    shape: Extents
    local: int

    def emit(self, e: Emitter, core: int, result: int) -> None:
        p, (n, y, x, c), (_, rows, columns, channels) = self.p, self.begin, self.shape
        seen = _Seen.by(p, (y, x), (rows, columns))
        source = p.image + _offset((n, *seen.begin, c), p.image_strides)
        size = p.image_element.dtype.itemsize
        runs = p.image_runs(*seen.shape, channels)
        if e.manner.alone:
            move_in(e, core, Engine.LOAD, source, Memory.ACTIVATION, self.local, runs, size)
        else:
            move_in_by_two(e, core, source, self.local, runs, size)
        for region in p.regions:
            top, left = (max(a, b) for a, b in zip((y, x), region.begin, strict=True))
            height = min(y + rows, region.begin[0] + region.shape[0]) - top
            width = min(x + columns, region.begin[1] + region.shape[1]) - left
            if height > 0 and width > 0:
                self._part(e, core, region.finish, seen, (top, left), (height, width), result)
                result += height * width * channels * p.result_element.dtype.itemsize

    def _part(
        self,
        e: Emitter,
        core: int,
        finish: Finish,
        whole: _Seen,
        first: tuple[int, int],
        count: tuple[int, int],
        local: int,
    ) -> None:
        p, (n, _, _, c), channels = self.p, self.begin, self.shape[3]
        seen = _Seen.by(p, first, count)
        pixel = channels * p.image_element.dtype.itemsize
        skipped = [b - a for a, b in zip(whole.begin, seen.begin, strict=True)]
        window = Window(
            engine=Engine.VEC,
            kernel_y=p.kernel[0],
            kernel_x=p.kernel[1],
            stride_y=p.stride[0],
            stride_x=p.stride[1],
            dilation_y=p.dilation[0],
            dilation_x=p.dilation[1],
            pad_top=seen.pad[0],
            pad_left=seen.pad[1],
            height=seen.shape[0],
            width=seen.shape[1],
        )
        e.set(core, window)
        e.set(core, inputs(Codes(p.image_element, p.zero_in, pixel), None, whole.shape[1] * pixel))
        if p.function is Reduce.SUM:
            e.set(core, finish.factors())
        size = p.result_element.dtype.itemsize
        e.set(core, finish.output(channels * size))
        image = self.local + (skipped[0] * whole.shape[1] + skipped[1]) * pixel
        pool = Pool(
            function=p.function, a=image, dst=local, rows=count[0], columns=count[1], channels=channels
        )
        e.add(core, pool)
        target = p.result + _offset((n, *first, c), p.result_strides)
        move_out(e, core, local, target, p.result_runs(*count, channels), size)


def _offset(at: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum(i * s for i, s in zip(at, strides, strict=True))
