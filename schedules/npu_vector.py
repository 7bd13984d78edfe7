"""Instructions of layers without products: pooling, element-wise functions, copies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, prod

from compiler.numerics.element import ElementType
from schedules.npu_emit import MAX_COUNT, Address, Emitter, Run, load, store
from sim.config import NpuConfig
from sim.isa import Binary, Elementwise, Engine, Factors, Inputs, Memory, Output, Pool, Reduce, Window

_MAX_ROW = 1 << 14  # elements of one instruction: 16 bits hold more, but tiles should be several


@dataclass(frozen=True, slots=True)
class Finish:
    """How results become codes: floor(sum * multiplier / 2**shift + 1/2) + zero_out in [low, high]."""

    element: ElementType
    multiplier_a: int = 1
    multiplier_b: int = 0
    shift: int = 0
    zero_out: int = 0
    low: int = -(1 << 15)
    high: int = (1 << 15) - 1

    def output(self, stride: int) -> Output:
        bits = self.element.bits
        low, high = max(self.low, -(1 << 15)), min(self.high, (1 << 15) - 1)
        return Output(
            lookup=False, out_bits=bits, zero_point=self.zero_out, low=low, high=high, stride=stride, table=0
        )

    def factors(self) -> Factors:
        return Factors(multiplier_a=self.multiplier_a, multiplier_b=self.multiplier_b, shift=self.shift)


@dataclass(frozen=True, slots=True)
class Pooling:
    """A window over [batch, height, width, channels] -> [batch, out_height, out_width, channels]. *_pitch:
    bytes between pixels."""

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
    image_pitch: int
    zero_in: int
    result: Address
    result_pitch: int
    finish: Finish

    def patch(self, rows: int, columns: int) -> tuple[int, int]:
        spans = [
            (n - 1) * s + (k - 1) * d + 1
            for n, k, s, d in zip((rows, columns), self.kernel, self.stride, self.dilation, strict=True)
        ]
        return min(spans[0], self.height), min(spans[1], self.width)


@dataclass(frozen=True, slots=True)
class PoolTile:
    """Extents of a part of the result."""

    rows: int
    columns: int
    channels: int


def pool_tile(p: Pooling, config: NpuConfig) -> PoolTile | None:
    """The largest tile of which two fit: few channels are cut off last, for rows of memory get short."""
    banks, lanes = config.scratchpad.activation_banks, config.vec.lanes
    bank = config.scratchpad.activation_bytes // banks
    for channels in (p.channels, *(lanes * 2**k for k in range(9, -1, -1) if lanes * 2**k < p.channels)):
        for columns in sorted({ceil(p.out_width / k) for k in range(1, p.out_width + 1)}, reverse=True):
            for rows in range(min(p.out_height, MAX_COUNT), 0, -1):
                image, result = _pool_bytes(p, PoolTile(rows, columns, channels))
                if (
                    max(p.patch(rows, columns)) <= MAX_COUNT
                    and 2 * (ceil(image / bank) + ceil(result / bank)) <= banks
                ):
                    even = ceil(p.out_height / ceil(p.out_height / rows))
                    return PoolTile(even, columns, channels)
    return None


def _pool_bytes(p: Pooling, t: PoolTile) -> tuple[int, int]:
    image = prod(p.patch(t.rows, t.columns)) * t.channels * p.image_element.dtype.itemsize
    return image, t.rows * t.columns * t.channels * p.finish.element.dtype.itemsize


def emit_pool(e: Emitter, p: Pooling, tile: PoolTile) -> None:
    """Tiles in turn on all cores."""
    pads = e.config.scratchpad
    bank = pads.activation_bytes // pads.activation_banks
    image, result = (ceil(n / bank) * bank for n in _pool_bytes(p, tile))
    slots = [
        (
            e.slots(core, Memory.ACTIVATION, 0, image, 2),
            e.slots(core, Memory.ACTIVATION, 2 * image, result, 2),
        )
        for core in range(e.config.cores)
    ]
    starts = product(
        range(p.batch),
        range(0, p.channels, tile.channels),
        range(0, p.out_height, tile.rows),
        range(0, p.out_width, tile.columns),
    )
    for number, (n, c, y, x) in enumerate(starts):
        core = number % e.config.cores
        size = PoolTile(
            min(tile.rows, p.out_height - y),
            min(tile.columns, p.out_width - x),
            min(tile.channels, p.channels - c),
        )
        a, dst = (s.take(number)[0] for s in slots[core])
        _pool_one(e, core, p, (n, y, x, c), size, (a, dst))


def _pool_one(
    e: Emitter, core: int, p: Pooling, at: tuple[int, int, int, int], size: PoolTile, local: tuple[int, int]
) -> None:
    n, y, x, c = at
    top, left = (first * s - pad for first, s, pad in zip((y, x), p.stride, p.pad, strict=True))
    extents = zip((top, left), p.stride, p.kernel, p.dilation, (size.rows, size.columns), strict=True)
    bottom, right = (b + (count - 1) * s + (k - 1) * d + 1 for b, s, k, d, count in extents)
    begin_y, begin_x = max(0, top), max(0, left)
    height, width = min(p.height, bottom) - begin_y, min(p.width, right) - begin_x
    row = size.channels * p.image_element.dtype.itemsize
    pixel = ((n * p.height + begin_y) * p.width + begin_x) * p.image_pitch
    runs = [Run(height, p.width * p.image_pitch, width * row), Run(width, p.image_pitch, row)]
    source = p.image + (pixel + c * p.image_element.dtype.itemsize)
    load(e, core, source, Memory.ACTIVATION, local[0], runs, row)
    window = Window(
        engine=Engine.VEC,
        kernel_y=p.kernel[0],
        kernel_x=p.kernel[1],
        stride_y=p.stride[0],
        stride_x=p.stride[1],
        dilation_y=p.dilation[0],
        dilation_x=p.dilation[1],
        pad_top=begin_y - top,
        pad_left=begin_x - left,
        height=height,
        width=width,
    )
    result = size.channels * p.finish.element.dtype.itemsize
    e.set(core, window)
    e.set(core, _inputs(p.image_element, p.zero_in, row, width * row))
    e.set(core, p.finish.factors())
    e.set(core, p.finish.output(result))
    e.add(
        core,
        Pool(
            function=p.function,
            a=local[0],
            dst=local[1],
            rows=size.rows,
            columns=size.columns,
            channels=size.channels,
        ),
    )
    pixel = ((n * p.out_height + y) * p.out_width + x) * p.result_pitch
    target = p.result + (pixel + c * p.finish.element.dtype.itemsize)
    runs = [
        Run(size.rows, p.out_width * p.result_pitch, size.columns * result),
        Run(size.columns, p.result_pitch, result),
    ]
    store(e, core, local[1], target, runs, result)


def _inputs(
    a: ElementType, zero: int, stride: int, image: int, b: ElementType | None = None, zero_b: int = 0
) -> Inputs:
    return Inputs(
        b_scalar=False,
        a_bits=a.bits,
        b_bits=(b or a).bits,
        a_zero=zero,
        b_zero=zero_b,
        a_stride=stride,
        b_stride=0,
        a_image_stride=image,
    )


@dataclass(frozen=True, slots=True)
class Operand:
    """rows x count elements, rows `pitch` bytes apart."""

    address: Address
    element: ElementType
    pitch: int
    zero: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """result[i] = function(a[i], b[i]) for rows x count elements."""

    function: Binary
    rows: int
    count: int
    inputs: tuple[Operand, ...]
    result: Operand
    finish: Finish


def emit_mapped(e: Emitter, m: Mapped) -> None:
    """Rows that lie one behind the other are one row; pieces of it in turn on all cores."""
    operands = (*m.inputs, m.result)
    rows, count = m.rows, m.count
    if all(o.pitch == count * o.element.dtype.itemsize for o in operands):
        rows, count = 1, rows * count
    pads = e.config.scratchpad
    bank = pads.activation_bytes // pads.activation_banks
    # Banks of their own for two pieces of each operand, where there are so many.
    slot = pads.activation_banks // (2 * len(operands)) * bank or pads.activation_bytes // (2 * len(operands))
    fit = min(slot // max(o.element.dtype.itemsize for o in operands), _MAX_ROW)
    piece = min(ceil(count / e.config.cores), fit)
    together = max(1, min(rows, fit // piece)) if piece == count else 1
    places = pads.activation_bytes // (slot * len(operands))
    slots = [
        [e.slots(core, Memory.ACTIVATION, i * places * slot, slot, places) for i in range(len(operands))]
        for core in range(e.config.cores)
    ]
    starts = product(range(0, rows, together), range(0, count, piece))
    for number, (r, c) in enumerate(starts):
        core = number % e.config.cores
        size = (min(together, rows - r), min(piece, count - c))
        _map_one(e, core, m, (r, c), size, [s.take(number)[0] for s in slots[core]])


def _map_one(
    e: Emitter, core: int, m: Mapped, at: tuple[int, int], size: tuple[int, int], local: list[int]
) -> None:
    (r, c), (rows, count) = at, size

    def place(o: Operand) -> tuple[Address, list[Run], int]:
        row = count * o.element.dtype.itemsize
        return o.address + (r * o.pitch + c * o.element.dtype.itemsize), [Run(rows, o.pitch, row)], row

    for operand, where in zip(m.inputs, local, strict=False):
        source, runs, row = place(operand)
        load(e, core, source, Memory.ACTIVATION, where, runs, row)
    a, b = m.inputs[0], m.inputs[-1]
    inputs = _inputs(a.element, a.zero, 0, 0, b.element, b.zero)
    e.set(core, inputs)
    e.set(core, m.finish.factors())
    e.set(core, m.finish.output(0))
    # All pieces lie without gaps inside of the core: one row.
    e.add(
        core,
        Elementwise(function=m.function, a=local[0], b=local[-2], dst=local[-1], rows=1, count=rows * count),
    )
    target, runs, row = place(m.result)
    store(e, core, local[-1], target, runs, row)


@dataclass(frozen=True, slots=True)
class Copy:
    """A block of any rank: extents, and strides in bytes on both sides."""

    shape: tuple[int, ...]
    source: Address
    source_strides: tuple[int, ...]
    target: Address
    target_strides: tuple[int, ...]
    size: int  # bytes of an element


def emit_copy(e: Emitter, c: Copy) -> None:
    """Through the activation memory, in halves of it."""
    half = e.config.scratchpad.activation_bytes // 2
    slots = [e.slots(core, Memory.ACTIVATION, 0, half, 2) for core in range(e.config.cores)]
    for number, part in enumerate(_parts(c, half)):
        core = number % e.config.cores
        local, _ = slots[core].take(number)
        dense = [part.size * prod(part.shape[d + 1 :]) for d in range(len(part.shape))]
        sides = (part.source_strides, part.target_strides)
        reads, writes = ([Run(*t) for t in zip(part.shape, s, dense, strict=True)] for s in sides)
        load(e, core, part.source, Memory.ACTIVATION, local, reads, part.size)
        store(e, core, local, part.target, writes, part.size)


def _parts(c: Copy, most: int) -> list[Copy]:
    """Pieces of at most so many bytes, cut along the outermost axis that makes them fit."""
    if prod(c.shape) * c.size <= most:
        return [c]
    axis = next(d for d, n in enumerate(c.shape) if n > 1)
    count = max(1, most // (prod(c.shape[axis + 1 :]) * c.size))
    found: list[Copy] = []
    for first in range(0, c.shape[axis], count):
        shape = (*c.shape[:axis], min(count, c.shape[axis] - first), *c.shape[axis + 1 :])
        source = c.source + first * c.source_strides[axis]
        target = c.target + first * c.target_strides[axis]
        part = Copy(shape, source, c.source_strides, target, c.target_strides, c.size)
        found += _parts(part, most)
    return found
