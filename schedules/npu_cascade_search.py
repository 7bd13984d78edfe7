"""Whether two layers should be one (schedules/npu_cascade.py), and its tiles: the best few by a model of what
engines do for one tile, tried on the simulator, beside both layers one behind the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from compiler.loops.form import Convolution
from schedules.npu_blocks import weight_bytes
from schedules.npu_cascade import Cascade, emit_cascade
from schedules.npu_product import steps_of
from schedules.npu_search import choose_tiling, trial, tried, without_data
from schedules.npu_tiling import MAX_COUNT, Fold, Shape, Tiling
from sim.config import PARAMETER_BYTES, NpuConfig, Port

_TRIALS = 4
_GAIN = 0.95  # of the cycles of both layers apart, at most
_LEAST = 0.5  # of the array's time, that the image between two layers takes on its way
_ROWS = (1, 2, 3, 4, 6, 8)
_COLUMN_PARTS = (1, 2, 3, 4, 6, 8)
_EACH = 6  # cycles of an instruction beside its work: its registers, its issue
_LANES = (1, 2, 3, 4, 6, 8, 12)
_Slots = tuple[int, int]  # how many, and bytes of one


def may_cascade(producer: Convolution, consumer: Convolution) -> bool:
    """A product of codes, and a depthwise convolution that sees a pixel of its results everywhere."""
    plain = producer.groups == 1 and not producer.depthwise and producer.requantizes
    wide = min(t.bits for t in (producer.input, producer.output, consumer.output)) >= 8
    same = (producer.out_height, producer.out_width, producer.out_channels) == (
        consumer.in_height, consumer.in_width, consumer.in_channels,
    )  # fmt: skip
    dense = not (producer.output_pitch or consumer.input_pitch)
    sees = _sees_everywhere(producer) and _sees_everywhere(consumer)
    return plain and wide and same and dense and sees and consumer.depthwise and consumer.requantizes


def _sees_everywhere(f: Convolution) -> bool:
    axes = (
        (f.pad[0], f.kernel_height, f.dilation[0], f.stride[0], f.out_height, f.in_height),
        (f.pad[1], f.kernel_width, f.dilation[1], f.stride[1], f.out_width, f.in_width),
    )
    return all(
        pad <= (kernel - 1) * dilation and (out - 1) * stride - pad < extent
        for pad, kernel, dilation, stride, out, extent in axes
    )


@lru_cache(maxsize=1024)
def choose_cascade(producer: Shape, consumer: Shape, config: NpuConfig) -> Cascade | None:
    """The fastest of the best few on the simulator; None: no tile fits."""
    found = sorted(candidates(producer, consumer, config), key=lambda c: c.cycles)[:_TRIALS]
    cascades = [c.cascade for c in found]
    return min(cascades, key=lambda c: _trial(c, producer, consumer, config), default=None)


def is_faster(producer: Shape, consumer: Shape, config: NpuConfig) -> bool:
    """Whether both as one take fewer cycles than one behind the other. Not tried where the array has long
    more to do than what moves the image between them."""
    first, second = producer.form, consumer.form
    size = second.batch * second.in_height * second.in_width * second.input.bytes_for(second.in_channels)
    moving = _moved(size, config.dram if consumer.image_dram else config.sram, False)
    lanes = config.mac.depthwise_lanes(second.input.bits, second.weight.bits) * config.mac.depthwise_taps
    computing = first.macs / (config.mac.rows * config.mac.columns) + second.macs / lanes
    if moving < _LEAST * computing:
        return False
    cascade, apart = choose_cascade(producer, consumer, config), 0.0
    for shape in (producer, consumer):
        tiling = choose_tiling(shape, config)
        assert tiling is not None
        apart += trial(tiling, shape, config).cycles
    return cascade is not None and _trial(cascade, producer, consumer, config) < _GAIN * apart


@lru_cache(maxsize=4096)
def _trial(cascade: Cascade, producer: Shape, consumer: Shape, config: NpuConfig) -> float:
    first = without_data(cascade.producer, producer, config)
    second = without_data(cascade.consumer, consumer, config)
    steps = max(sum(1 for _ in steps_of(second, core, config.cores)) for core in range(config.cores))
    return tried(lambda e, count: emit_cascade(e, first, second, count), steps, config).cycles


@dataclass(frozen=True, slots=True)
class _Candidate:
    """cycles: of the busiest engine."""

    cascade: Cascade
    cycles: float


def candidates(producer: Shape, consumer: Shape, config: NpuConfig) -> Iterator[_Candidate]:
    f, mac, pads = consumer.form, config.mac, config.scratchpad
    if pads.parameter_banks < 2 or pads.weight_banks < 2:
        return
    lanes = mac.depthwise_lanes(f.input.bits, f.weight.bits)
    most = min(f.out_channels, pads.parameter_bytes // pads.parameter_banks // PARAMETER_BYTES, MAX_COUNT)
    blocks = sorted({lanes * n for n in _LANES if lanes * n < most} | {most})
    for columns in sorted({ceil(f.out_width / n) for n in _COLUMN_PARTS}):
        for rows in sorted({min(n, f.out_height) for n in _ROWS}):
            for block in blocks:
                for stored in sorted({block, f.out_channels}):
                    found = _fitted(producer, consumer, config, (rows, columns, block, stored))
                    if found is not None:
                        yield found


def _extents(f: Convolution, rows: int, columns: int) -> tuple[int, int]:
    """Of the image that so many outputs see."""
    height = (rows - 1) * f.stride[0] + (f.kernel_height - 1) * f.dilation[0] + 1
    width = (columns - 1) * f.stride[1] + (f.kernel_width - 1) * f.dilation[1] + 1
    return min(height, f.in_height), min(width, f.in_width)


def _fitted(
    producer: Shape, consumer: Shape, config: NpuConfig, choice: tuple[int, int, int, int]
) -> _Candidate | None:
    """choice: rows, columns, channels of a block, and of those that are stored together."""
    first, second, pads = producer.form, consumer.form, config.scratchpad
    rows, columns, block, stored = choice
    height, width = _extents(second, rows, columns)
    above, beside = _extents(first, height, width)
    half = pads.accumulator_words // 2
    sizes = (
        above * beside * first.input.bytes_for(first.in_channels),
        height * width * second.input.bytes_for(block),
        rows * columns * second.output.bytes_for(stored),
    )
    if width * block > half or rows * columns * block > half or max(above, beside) > MAX_COUNT:
        return None
    activations = _activation_slots(config, sizes)
    weights = _weight_slots(producer, consumer, config, block)
    if activations is None or weights is None:
        return None
    images, middle, results = activations

    made, used = (
        (height, width, block, first.in_channels, True, block),
        (rows, columns, block, 1, False, stored),
    )
    order = (False, False, 1, 1, 2)  # tiles by rows, shared by cores; one engine each; both accumulators
    cascade = Cascade(
        Tiling(Fold.NONE, *made, *order, *images, *results, *weights[0]),
        Tiling(Fold.NONE, *used, *order, *middle, *results, *weights[1]),
    )
    return _Candidate(cascade, _cycles(producer, consumer, config, cascade, sizes))


def _activation_slots(config: NpuConfig, sizes: tuple[int, int, int]) -> tuple[_Slots, _Slots, _Slots] | None:
    """Of images, of two images in between, and of results. sizes: bytes of one of each."""
    pads = config.scratchpad
    bank = pads.activation_bytes // pads.activation_banks
    image, middle, result = (ceil(n / bank) for n in sizes)
    for images, results in ((2, 2), (2, 1), (1, 2), (1, 1)):
        if images * image + 2 * middle + results * result <= pads.activation_banks:
            return (images, image * bank), (2, middle * bank), (results, result * bank)
    return None


def _weight_slots(
    producer: Shape, consumer: Shape, config: NpuConfig, block: int
) -> tuple[_Slots, _Slots] | None:
    """Of either one: the consumer's have one bank or half of them."""
    pads, first = config.scratchpad, producer.form
    bank = pads.weight_bytes // pads.weight_banks
    own, other = (
        ceil(weight_bytes(f, block, channels, config) / bank)
        for f, channels in ((first, first.in_channels), (consumer.form, 1))
    )
    for kept in sorted({1, pads.weight_banks // 2}):
        left = pads.weight_banks - kept
        if own <= left and other <= kept:
            return (left // own, own * bank), (kept // other, other * bank)
    return None


def _cycles(
    producer: Shape, consumer: Shape, config: NpuConfig, cascade: Cascade, sizes: tuple[int, int, int]
) -> float:
    """Of the busiest engine of a core; what a tile at the edge does not need is counted too."""
    f, vec = consumer.form, config.vec
    a, b = cascade.producer, cascade.consumer
    tiles = f.batch * ceil(f.out_height / b.rows) * ceil(f.out_width / b.columns)
    blocks = ceil(f.out_channels / b.outputs)
    parts = ceil(a.rows * a.columns * b.outputs / (config.scratchpad.accumulator_words // 2))
    finishing = (a.rows * a.columns + b.rows * b.columns) * ceil(b.outputs / vec.lanes)
    finishing = finishing * vec.requantize_cycles + (parts + 1) * (vec.pipeline_cycles + _EACH)
    stores = ceil(f.out_channels / b.stored)
    one = max(
        blocks * _computing(producer.form, f, config, cascade, parts),
        blocks * finishing,
        _moved(sizes[0], config.dram if producer.image_dram else config.sram, False),
        stores
        * _moved(
            sizes[2],
            config.dram if consumer.result_dram else config.sram,
            True,
            b.rows * b.columns if stores > 1 else 1,
        ),
    )
    return ceil(tiles / config.cores) * one


def _computing(
    first: Convolution, second: Convolution, config: NpuConfig, cascade: Cascade, parts: int
) -> int:
    """Of the array, for a block of a tile. parts: that the producer's image is computed in."""
    mac, a, b = config.mac, cascade.producer, cascade.consumer
    lanes = mac.output_lanes(first.input.bits, first.weight.bits)
    folds = ceil(b.outputs / lanes) * first.kernel_height * first.kernel_width
    folds *= ceil(first.in_channels / mac.reduction_lanes(first.input.bits))
    makes = folds * a.rows * a.columns + parts * (mac.pipeline_cycles + _EACH + mac.rows)
    taps = second.kernel_height * second.kernel_width
    groups = ceil(b.outputs / mac.depthwise_lanes(second.input.bits, second.weight.bits))
    uses = groups * b.rows * b.columns * ceil(taps / mac.depthwise_taps)
    return makes + uses + taps + mac.pipeline_cycles + _EACH


def _moved(size: int, port: Port, write: bool, rows: int = 1) -> float:
    """At the pace of one engine."""
    latency, outstanding = port.side(write)
    bursts = rows * ceil(size / rows / port.burst_bytes)
    return bursts * max(port.burst_cycles, (latency + port.burst_cycles) / outstanding)
