"""Which tiles a product (convolution, dense, depthwise) is cut into: the cheapest by an analytic model.

The model counts what each engine does for the whole layer, weights and images loaded as often as the slots
make necessary, and takes the largest, for engines overlap; what has one slot only is added, for then they
wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import ceil, prod

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from sim.config import PARAMETER_BYTES, NpuConfig, Port
from sim.durations import transfer_cycles

_MAX_COUNT = 4095  # rows, columns and outputs have 12 bits


@dataclass(frozen=True, slots=True)
class Tiling:
    """rows x columns outputs by `outputs` channels; `reduction`: channels of one product, `whole_image`: all
    channels of the image are loaded at once though products take some. weights_first: all tiles of a block
    of weights come before the next block. Slots by memory."""

    rows: int
    columns: int
    outputs: int
    reduction: int
    whole_image: bool
    weights_first: bool
    image_slots: int
    image_slot_bytes: int
    result_slots: int
    result_slot_bytes: int
    weight_slots: int
    weight_slot_bytes: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What a tiling depends on. dram_*: where image and result lie."""

    form: Convolution
    image_dram: bool
    result_dram: bool

    @property
    def group_inputs(self) -> int:
        return self.form.in_channels // self.form.groups

    @property
    def group_outputs(self) -> int:
        """Output channels that blocks are made of: all channels of a depthwise layer are one group."""
        f = self.form
        return f.out_channels if f.depthwise else f.out_channels // f.groups

    def block_inputs(self, t: Tiling) -> int:
        """Channels of the image that a tile holds at once."""
        if self.form.depthwise:
            return t.outputs
        return self.group_inputs if t.whole_image else t.reduction

    def patch(self, rows: int, columns: int) -> tuple[int, int]:
        """Pixels of the image that rows x columns outputs see, at most."""
        f = self.form
        height = (rows - 1) * f.stride[0] + (f.kernel_height - 1) * f.dilation[0] + 1
        width = (columns - 1) * f.stride[1] + (f.kernel_width - 1) * f.dilation[1] + 1
        return min(height, f.in_height), min(width, f.in_width)

    def weight_bytes(self, outputs: int, reduction: int, config: NpuConfig) -> int:
        f, bits = self.form, self.form.weight.bits
        taps = f.kernel_height * f.kernel_width
        if f.depthwise:
            return taps * _packed(outputs, bits)
        lanes = config.mac.output_lanes(f.input.bits, bits)
        whole, rest = divmod(outputs, lanes)
        return taps * reduction * (whole * _packed(lanes, bits) + _packed(rest, bits))


def choose_tiling(shape: Shape, config: NpuConfig) -> Tiling | None:
    """The cheapest tiling, or None where not even a tile of one output fits the scratchpads."""
    return _choose(shape, config)


@lru_cache(maxsize=4096)
def _choose(shape: Shape, config: NpuConfig) -> Tiling | None:
    return min(_tilings(shape, config), key=lambda t: cost(t, shape, config), default=None)


def _tilings(shape: Shape, config: NpuConfig) -> Iterator[Tiling]:
    form, mac = shape.form, config.mac
    lanes = (
        mac.depthwise_lanes(form.input.bits, form.weight.bits)
        if form.depthwise
        else mac.output_lanes(form.input.bits, form.weight.bits)
    )
    parameters = config.scratchpad.parameter_bytes // config.scratchpad.parameter_banks // PARAMETER_BYTES
    most = min(shape.group_outputs, parameters, _MAX_COUNT, config.scratchpad.accumulator_words // 2)
    sizes = [lanes * k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if lanes * k < most]
    for outputs in [*sizes, most] if most else []:
        for reduction in _reductions(shape, outputs, config):
            for whole_image in {True, reduction == shape.group_inputs}:
                yield from _spatial(shape, config, outputs, reduction, whole_image)


def _reductions(shape: Shape, outputs: int, config: NpuConfig) -> Iterator[int]:
    """All channels where their weights fit; else as many as fill a bank, or two."""
    if shape.form.depthwise:
        yield 1
        return
    pads = config.scratchpad
    bank = pads.weight_bytes // pads.weight_banks
    per_channel = shape.weight_bytes(outputs, 1, config)
    found = {min(shape.group_inputs, k * bank // per_channel) for k in (1, pads.weight_banks // 2)}
    if shape.weight_bytes(outputs, shape.group_inputs, config) <= pads.weight_bytes:
        found.add(shape.group_inputs)
    lanes = config.mac.reduction_lanes(shape.form.input.bits)
    yield from {n if n < lanes or n == shape.group_inputs else n - n % lanes for n in found if n}


def _spatial(
    shape: Shape, config: NpuConfig, outputs: int, reduction: int, whole_image: bool
) -> Iterator[Tiling]:
    form = shape.form
    words = config.scratchpad.accumulator_words // 2
    for parts in (1, 2, 3, 4, 6, 8, 16, 32, 64, form.out_width):
        columns = min(ceil(form.out_width / parts), _MAX_COUNT)
        most = min(form.out_height, words // (columns * outputs), _MAX_COUNT)
        tried = {most, ceil(most / 2), ceil(most / 3), ceil(most / 4), min(most, 2), min(most, 1)}
        for rows, weights_first in product(sorted(tried - {0}), (False, True)):
            even = ceil(form.out_height / ceil(form.out_height / rows))
            t = Tiling(even, columns, outputs, reduction, whole_image, weights_first, 0, 0, 0, 0, 0, 0)
            if (fitted := _with_slots(t, shape, config)) is not None:
                yield fitted


def _with_slots(t: Tiling, shape: Shape, config: NpuConfig) -> Tiling | None:
    """The tiling with its places in the scratchpads, or None where it does not fit."""
    pads, form = config.scratchpad, shape.form
    image = prod(shape.patch(t.rows, t.columns)) * shape.block_inputs(t) * _bytes(form.input)
    result = t.rows * t.columns * t.outputs * _bytes(form.output)
    weights = shape.weight_bytes(t.outputs, t.reduction, config)
    bank, weight_bank = pads.activation_bytes // pads.activation_banks, pads.weight_bytes // pads.weight_banks
    i, r, w = ceil(image / bank), ceil(result / bank), ceil(weights / weight_bank)
    if (
        max(shape.patch(t.rows, t.columns)) > _MAX_COUNT
        or w > pads.weight_banks
        or i + r > pads.activation_banks
    ):
        return None
    results = 2 if i + 2 * r <= pads.activation_banks and (i * 2 + r * 2 <= pads.activation_banks) else 1
    images = (pads.activation_banks - results * r) // i
    return Tiling(
        t.rows, t.columns, t.outputs, t.reduction, t.whole_image, t.weights_first,
        images, i * bank, results, r * bank, pads.weight_banks // w, w * weight_bank,
    )  # fmt: skip


def cost(t: Tiling, shape: Shape, config: NpuConfig) -> float:
    """Cycles of the layer."""
    f = shape.form
    tiles = f.batch * ceil(f.out_height / t.rows) * ceil(f.out_width / t.columns)
    groups = 1 if f.depthwise else f.groups
    blocks = groups * ceil(shape.group_outputs / t.outputs)
    pieces = 1 if f.depthwise else ceil(shape.group_inputs / t.reduction)
    products = tiles * blocks * pieces
    weight_loads = _weight_loads(t, tiles, blocks, pieces)
    image_loads = _image_loads(t, shape, tiles, blocks, pieces)
    height, width = shape.patch(t.rows, t.columns)
    channels = shape.block_inputs(t)
    rows, row = height * width, channels
    if channels == (f.input_pitch or f.in_channels):
        # Whole pixels lie one behind the other; whole rows of them do too.
        rows, row = (1, height * width * channels) if width == f.in_width else (height, width * channels)
    image = _moved(rows, row * _bytes(f.input), config.dram if shape.image_dram else config.sram, False)
    weights = _moved(1, shape.weight_bytes(t.outputs, t.reduction, config), _constants_port(config), False)
    loading, fetching = image_loads * image, weight_loads * weights
    pixels = t.rows * t.columns
    whole = t.outputs == (f.output_pitch or f.out_channels)
    port = config.dram if shape.result_dram else config.sram
    rows, row = (1, pixels * t.outputs) if whole else (pixels, t.outputs)
    storing = tiles * blocks * _moved(rows, row * _bytes(f.output), port, True)
    computing = products * _product_cycles(t, shape, pixels, config)
    vector = config.vec
    finishing = tiles * blocks * (pixels * ceil(t.outputs / vector.lanes) + vector.pipeline_cycles + 2)
    share = 1 / min(config.cores, tiles * blocks)
    engines = [loading, computing * share, finishing * share, storing, fetching]
    waiting = image + weights + (computing * share + storing) / (tiles * blocks)
    if t.image_slots == 1 and image_loads > 1:
        waiting += min(engines[0], engines[1])
    if t.weight_slots == 1 and weight_loads > 1:
        waiting += min(fetching, engines[1])
    if t.result_slots == 1:
        waiting += min(engines[2], engines[3])
    return max(engines) + waiting


def _constants_port(config: NpuConfig) -> Port:
    """As constants come on average: through SRAM (see `npu_staging`), behind the latency of DRAM for those
    that do not."""
    sram = config.sram
    rate = sram.read_outstanding * sram.burst_bytes / (sram.read_latency_cycles + sram.burst_cycles)
    return replace(
        config.dram,
        bytes_per_cycle=min(rate, sram.bytes_per_cycle),
        burst_bytes=sram.burst_bytes,
        read_outstanding=ceil(config.dram.read_latency_cycles * rate / sram.burst_bytes) + 1,
    )


def _weight_loads(t: Tiling, tiles: int, blocks: int, pieces: int) -> int:
    if blocks * pieces <= t.weight_slots:
        return blocks * pieces
    if t.weights_first and pieces <= t.weight_slots:
        return blocks * pieces
    return tiles * blocks * pieces


def _image_loads(t: Tiling, shape: Shape, tiles: int, blocks: int, pieces: int) -> int:
    if shape.form.depthwise:
        return tiles * blocks
    held = 1 if t.whole_image else pieces
    groups = shape.form.groups
    if groups > 1 or (tiles * held > t.image_slots and (t.weights_first or held > t.image_slots)):
        return tiles * blocks * held
    return tiles * held


def _product_cycles(t: Tiling, shape: Shape, pixels: int, config: NpuConfig) -> float:
    """Of one instruction of MAC."""
    f, mac = shape.form, config.mac
    taps = f.kernel_height * f.kernel_width
    if f.depthwise:
        lanes = mac.depthwise_lanes(f.input.bits, f.weight.bits)
        return ceil(t.outputs / lanes) * pixels * ceil(taps / mac.depthwise_taps) + taps + mac.pipeline_cycles
    lanes = mac.output_lanes(f.input.bits, f.weight.bits)
    reduction = mac.reduction_lanes(f.input.bits)
    width = min(lanes, t.outputs)
    cycles = pixels * max(1, ceil(width * 32 / mac.accumulator_port_bits))
    fill = ceil(min(reduction, t.reduction) * _packed(width, f.weight.bits) / mac.weight_port_bytes)
    folds = ceil(t.outputs / lanes) * taps * ceil(t.reduction / reduction)
    return folds * max(cycles, fill) + fill + mac.pipeline_cycles


def _moved(rows: int, row_bytes: int, port: Port, write: bool) -> float:
    """Cycles of one transfer, alone."""
    bursts = np.array([rows * ceil(row_bytes / port.burst_bytes)])
    latency = port.write_latency_cycles if write else port.read_latency_cycles
    outstanding = port.write_outstanding if write else port.read_outstanding
    return float(transfer_cycles(bursts, port.burst_cycles, latency, outstanding)[0])


def _packed(count: int, bits: int) -> int:
    return ceil(count * bits / 8)


def _bytes(element: ElementType) -> int:
    return element.dtype.itemsize
