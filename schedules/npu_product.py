"""Instructions of products: convolution, dense and depthwise layers, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.element import Array
from schedules.npu_emit import Address, Blob, Emitter, Run, load, load_blob, store
from schedules.npu_tiling import Shape, Tiling
from sim.config import PARAMETER_BYTES, NpuConfig
from sim.functional.memory import pack_rows
from sim.isa import Depthwise, Engine, Gemm, Memory, Operands, Output, Requantize, Window
from sim.parameters import pack_parameters

_T = TypeVar("_T")
_NO_RESCALE = (1 << 30, 31)  # multiplier and shift where nothing is rescaled: results of 32 bits


@dataclass(frozen=True, slots=True)
class Block:
    """Output channels [first, first + count), from channels of the image that begin at `input`."""

    first: int
    count: int
    input: int


@dataclass(frozen=True, slots=True)
class Product:
    """A layer with its places. weights: by block's first channel and piece of the reduction; parameters: of
    all channels. zero_in, zero_out, low, high: of the codes."""

    form: Convolution
    tiling: Tiling
    image: Address
    result: Address
    weights: Mapping[tuple[int, int], Blob]
    parameters: Address
    zero_in: int
    zero_out: int
    low: int
    high: int

    @property
    def shape(self) -> Shape:
        return Shape(self.form, self.image.dram, self.result.dram)


def blocks_of(form: Convolution, tiling: Tiling) -> list[Block]:
    if form.depthwise:
        starts = range(0, form.out_channels, tiling.outputs)
        return [Block(o, min(tiling.outputs, form.out_channels - o), o) for o in starts]
    inputs, outputs = form.in_channels // form.groups, form.out_channels // form.groups
    return [
        Block(g * outputs + o, min(tiling.outputs, outputs - o), g * inputs)
        for g in range(form.groups)
        for o in range(0, outputs, tiling.outputs)
    ]


def pieces_of(form: Convolution, tiling: Tiling) -> list[tuple[int, int]]:
    """Begin and length of each piece of the reduction's channels."""
    if form.depthwise:
        return [(0, 1)]
    channels = form.in_channels // form.groups
    return [(c, min(tiling.reduction, channels - c)) for c in range(0, channels, tiling.reduction)]


def pack_weights(
    form: Convolution, tiling: Tiling, weight: Array, config: NpuConfig
) -> Iterator[tuple[tuple[int, int], Array]]:
    """Bytes of each block and piece, as `Gemm` and `Depthwise` read them. weight: OHWI codes."""
    bits = form.weight.bits
    for block in blocks_of(form, tiling):
        part = weight[block.first : block.first + block.count]
        if form.depthwise:
            yield (block.first, 0), pack_rows(part.reshape(block.count, -1).T, bits).reshape(-1)
            continue
        lanes = config.mac.output_lanes(form.input.bits, bits)
        for at, count in pieces_of(form, tiling):
            piece = part[..., at : at + count].reshape(block.count, -1).T
            columns = [piece[:, o : o + lanes] for o in range(0, block.count, lanes)]
            packed = [pack_rows(np.ascontiguousarray(c), bits).reshape(-1) for c in columns]
            yield (block.first, at), np.concatenate(packed)


def pack_channel_parameters(form: Convolution, constants: Mapping[str, Array]) -> Array:
    """Bytes of the parameter memory for all output channels."""
    bias = constants["bias"]
    if form.requantizes:
        return pack_parameters(bias, constants["multiplier"], constants["shift"])
    return pack_parameters(bias, *(np.full(bias.shape, n) for n in _NO_RESCALE))


@dataclass(frozen=True, slots=True)
class _Tile:
    batch: int
    y: int
    x: int
    rows: int
    columns: int


def emit_product(e: Emitter, p: Product) -> None:
    """All tiles. Cores take bands of tiles, or of blocks where there are fewer tiles than cores."""
    f, t = p.form, p.tiling
    tiles = [
        _Tile(n, y, x, min(t.rows, f.out_height - y), min(t.columns, f.out_width - x))
        for n in range(f.batch)
        for y in range(0, f.out_height, t.rows)
        for x in range(0, f.out_width, t.columns)
    ]
    blocks = blocks_of(f, t)
    cores = [_Core(e, core, p) for core in range(e.config.cores)]
    queues: list[list[tuple[_Tile, Block]]] = []
    for core in range(e.config.cores):
        if len(tiles) >= e.config.cores:
            mine, of = _share(tiles, core, e.config.cores), blocks
        else:
            mine, of = tiles, _share(blocks, core, e.config.cores)
        if t.weights_first:
            queues.append([(tile, block) for block in of for tile in mine])
        else:
            queues.append([(tile, block) for tile in mine for block in of])
    for turn in range(max(map(len, queues))):
        for core, queue in zip(cores, queues, strict=True):
            if turn < len(queue):
                core.tile(*queue[turn])


def _share(items: list[_T], core: int, cores: int) -> list[_T]:
    return items[len(items) * core // cores : len(items) * (core + 1) // cores]


def _parameter_groups(blocks: list[Block], capacity: int) -> dict[int, tuple[int, int]]:
    """For each block's first channel, the channels whose parameters come together with its own: as many
    whole blocks as `capacity` entries hold."""
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and block.first + block.count - groups[-1][0].first <= capacity:
            groups[-1].append(block)
        else:
            groups.append([block])
    return {b.first: (g[0].first, g[-1].first + g[-1].count) for g in groups for b in g}


class _Core:
    """One core's share of a layer, with what its scratchpads hold."""

    def __init__(self, e: Emitter, core: int, p: Product) -> None:
        self.e, self.core, self.p = e, core, p
        t, pads = p.tiling, e.config.scratchpad
        images = t.image_slots * t.image_slot_bytes
        self.images = e.slots(core, Memory.ACTIVATION, 0, t.image_slot_bytes, t.image_slots)
        self.results = e.slots(core, Memory.ACTIVATION, images, t.result_slot_bytes, t.result_slots)
        self.weights = e.slots(core, Memory.WEIGHT, 0, t.weight_slot_bytes, t.weight_slots)
        self.accumulators = e.slots(core, Memory.ACCUMULATOR, 0, pads.accumulator_words // 2, 2)
        bank = pads.parameter_bytes // pads.parameter_banks
        self.parameters = e.slots(core, Memory.PARAMETER, 0, bank, pads.parameter_banks)
        self.groups = _parameter_groups(blocks_of(p.form, t), bank // PARAMETER_BYTES)

    def tile(self, tile: _Tile, block: Block) -> None:
        accumulators, _ = self.accumulators.take((tile, block))
        for first, count in pieces_of(self.p.form, self.p.tiling):
            self._product(tile, block, first, count, accumulators)
        self._finish(tile, block, accumulators)

    def _product(self, tile: _Tile, block: Block, first: int, count: int, accumulators: int) -> None:
        f, e, core = self.p.form, self.e, self.core
        weights, fresh = self.weights.take((block, first))
        if fresh:
            load_blob(e, core, self.p.weights[block.first, first], Memory.WEIGHT, weights)
        image, pixel = self._image(tile, block, first, count)
        _, height, pad_top = _seen(f, 0, tile.y, tile.rows)
        _, width, pad_left = _seen(f, 1, tile.x, tile.columns)
        window = Window(
            engine=Engine.MAC,
            kernel_y=f.kernel_height,
            kernel_x=f.kernel_width,
            stride_y=f.stride[0],
            stride_x=f.stride[1],
            dilation_y=f.dilation[0],
            dilation_x=f.dilation[1],
            pad_top=pad_top,
            pad_left=pad_left,
            height=height,
            width=width,
        )
        e.set(core, window)
        operands = Operands(
            act_bits=f.input.bits,
            wgt_bits=f.weight.bits,
            act_zero=self.p.zero_in,
            wgt_zero=0,
            channels=block.count if f.depthwise else count,
            row_stride=width * pixel,
            pixel_stride=pixel,
        )
        e.set(core, operands)
        instruction = Gemm(
            accumulate=first > 0,
            act=image,
            wgt=weights,
            acc=accumulators,
            rows=tile.rows,
            columns=tile.columns,
            outputs=block.count,
        )
        e.add(core, _as_depthwise(instruction) if f.depthwise else instruction)

    def _image(self, tile: _Tile, block: Block, first: int, count: int) -> tuple[int, int]:
        """Where the piece of the image lies that a product reads, and the bytes of a pixel there."""
        f, size = self.p.form, self.p.form.input.dtype.itemsize
        if f.depthwise:
            begin, channels, skipped = block.input, block.count, 0
        elif self.p.tiling.whole_image:
            begin, channels, skipped = block.input, f.in_channels // f.groups, first
        else:
            begin, channels, skipped = block.input + first, count, 0
        local, fresh = self.images.take((tile, begin, channels))
        if fresh:
            pitch = (f.input_pitch or f.in_channels) * size
            top, height, _ = _seen(f, 0, tile.y, tile.rows)
            left, width, _ = _seen(f, 1, tile.x, tile.columns)
            pixel = ((tile.batch * f.in_height + top) * f.in_width + left) * pitch
            row = channels * size
            runs = [Run(height, f.in_width * pitch, width * row), Run(width, pitch, row)]
            source = self.p.image + (pixel + begin * size)
            load(self.e, self.core, source, Memory.ACTIVATION, local, runs, row)
        return local + skipped * size, channels * size

    def _finish(self, tile: _Tile, block: Block, accumulators: int) -> None:
        """From accumulators to codes in the result."""
        p, f, e, core = self.p, self.p.form, self.e, self.core
        begin, end = self.groups[block.first]
        parameters, fresh = self.parameters.take(begin)
        if fresh:
            source = p.parameters + begin * PARAMETER_BYTES
            load(e, core, source, Memory.PARAMETER, parameters, [], (end - begin) * PARAMETER_BYTES)
        size = f.output.dtype.itemsize
        local, _ = self.results.take((tile, block))
        row = block.count * size
        output = Output(
            lookup=False,
            out_bits=f.output.bits,
            zero_point=p.zero_out,
            low=p.low,
            high=p.high,
            stride=row,
            table=0,
        )
        e.set(core, output)
        requantize = Requantize(
            per_tensor=False,
            acc=accumulators,
            dst=local,
            param=parameters + (block.first - begin) * PARAMETER_BYTES,
            pixels=tile.rows * tile.columns,
            channels=block.count,
        )
        e.add(core, requantize)
        pitch = (f.output_pitch or f.out_channels) * size
        pixel = ((tile.batch * f.out_height + tile.y) * f.out_width + tile.x) * pitch
        runs = [Run(tile.rows, f.out_width * pitch, tile.columns * row), Run(tile.columns, pitch, row)]
        store(e, core, local, p.result + (pixel + block.first * size), runs, row)


def _as_depthwise(i: Gemm) -> Depthwise:
    """Of as many channels as `Operands` says."""
    return Depthwise(accumulate=False, act=i.act, wgt=i.wgt, acc=i.acc, rows=i.rows, columns=i.columns)


def _seen(f: Convolution, axis: int, first: int, count: int) -> tuple[int, int, int]:
    """What outputs [first, first + count) see of the image along an axis: begin, length, and the pad in
    front of it. Outputs that see nothing get one row, behind a pad that they do not look beyond."""
    extent, kernel = ((f.in_height, f.kernel_height), (f.in_width, f.kernel_width))[axis]
    begin = first * f.stride[axis] - f.pad[axis]
    span = (count - 1) * f.stride[axis] + (kernel - 1) * f.dilation[axis] + 1
    if begin + span <= 0 or begin >= extent:
        return 0, 1, span
    return max(0, begin), min(extent, begin + span) - max(0, begin), max(0, -begin)
