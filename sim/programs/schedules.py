"""One convolution in many schedules: tiles, order of loops, one buffer or two. All give the same result."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from compiler.numerics.element import Array
from sim.config import PARAMETER_BYTES, NpuConfig
from sim.isa import Engine, Gemm, Memory, Operands, Output, Requantize, Window
from sim.programs.random import RandomProgram
from sim.programs.writer import OUTPUTS_AT, PARAMETERS_AT, Writer
from sim.tokens import insert_tokens

PAD, KERNEL = 1, 3


@dataclass(frozen=True, slots=True)
class Layer:
    """A 3 x 3 convolution with a pad of 1 over 8-bit codes: image [size, size, channels] at 0 of SRAM, result
    at OUTPUTS_AT; weights of each block of output lanes one behind the other at 0 of DRAM."""

    size: int
    channels: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tiles of rows x columns outputs of `outputs` channels.

    weights_outside: for each tile of channels all tiles of pixels, or the other way round. double: even and
    odd tiles use different halves of each memory."""

    rows: int
    columns: int
    outputs: int
    weights_outside: bool
    double: bool

    @property
    def name(self) -> str:
        order = "weights" if self.weights_outside else "pixels"
        return f"{self.rows}x{self.columns}x{self.outputs}-{order}-{'double' if self.double else 'single'}"


def schedules(layer: Layer, config: NpuConfig) -> list[Schedule]:
    """All that fit the memories of a core."""
    sides = [n for n in (1, 2, 4, 8, 16) if n <= layer.size]
    blocks = [n for n in (8, 16, 32, 64) if n <= layer.outputs]
    found: list[Schedule] = []
    for rows, columns, outputs, outside, double in product(
        sides, sides, blocks, (True, False), (True, False)
    ):
        schedule = Schedule(rows, columns, outputs, outside, double)
        pads = config.scratchpad
        halves = 2 if double else 1
        image = (rows + 2) * (columns + 2) * layer.channels
        fits = (
            image <= pads.activation_bytes // 4
            and rows * columns * outputs <= min(pads.activation_bytes // 4, pads.accumulator_words // halves)
            and KERNEL**2 * layer.channels * outputs <= pads.weight_bytes // halves
            and outputs * PARAMETER_BYTES <= pads.parameter_bytes // halves
            and outputs % config.mac.output_lanes(8, 8) == 0
        )
        if fits:
            found.append(schedule)
    return found


def layer_program(
    layer: Layer, schedule: Schedule, config: NpuConfig, sram: Array, dram: Array
) -> RandomProgram:
    """The layer on the given contents of SRAM and DRAM."""
    w = Writer(config, np.random.default_rng(0))
    pixel_tiles = list(product(range(0, layer.size, schedule.rows), range(0, layer.size, schedule.columns)))
    channel_tiles = list(range(0, layer.outputs, schedule.outputs))
    w.add(
        Operands(
            act_bits=8, wgt_bits=8, act_zero=0, wgt_zero=0, channels=layer.channels,
            row_stride=(schedule.columns + 2) * layer.channels, pixel_stride=layer.channels,
        ),
        Output(out_bits=8, zero_point=0, low=-128, high=127, stride=schedule.outputs, table=0),
    )  # fmt: skip
    tiles = _Tiles(w, layer, schedule)
    if schedule.weights_outside:
        for channel in channel_tiles:
            tiles.weights(channel)
            for y, x in pixel_tiles:
                tiles.image(y, x)
                tiles.compute(y, x, channel)
    else:
        for y, x in pixel_tiles:
            tiles.image(y, x)
            for channel in channel_tiles:
                tiles.weights(channel)
                tiles.compute(y, x, channel)
    program = insert_tokens([(0, i) for i in w.out], config).program
    return RandomProgram(schedule.name, program, sram, dram)


@dataclass(slots=True)
class _Tiles:
    """Writes the steps of a schedule; counts what was loaded, for the halves."""

    w: Writer
    layer: Layer
    schedule: Schedule
    images: int = -1
    loads: int = -1
    results: int = -1

    def _half(self, count: int) -> int:
        return count % 2 if self.schedule.double else 0

    def weights(self, channel: int) -> None:
        self.loads += 1
        w, half = self.w, self._half(self.loads)
        size = KERNEL**2 * self.layer.channels * self.schedule.outputs
        at = channel * KERNEL**2 * self.layer.channels
        w.load(Memory.WEIGHT, half * w.weight_half, size, 1, dram=True, at=at, pitch=size)
        entries = self.schedule.outputs * PARAMETER_BYTES
        at = PARAMETERS_AT + channel * PARAMETER_BYTES
        w.load(Memory.PARAMETER, half * w.parameter_half, entries, 1, dram=True, at=at, pitch=entries)

    def image(self, y: int, x: int) -> None:
        self.images += 1
        layer, s, w = self.layer, self.schedule, self.w
        top, left = max(0, y - PAD), max(0, x - PAD)
        height = min(layer.size, y + s.rows + PAD) - top
        width = min(layer.size, x + s.columns + PAD) - left
        w.add(
            Window(
                engine=Engine.MAC, kernel_y=KERNEL, kernel_x=KERNEL, stride_y=1, stride_x=1, dilation_y=1,
                dilation_x=1, pad_top=top - y + PAD, pad_left=left - x + PAD, height=height, width=width,
            )
        )  # fmt: skip
        w.tile = self._half(self.images)
        row = layer.size * layer.channels
        w.load(
            Memory.ACTIVATION, w.input_at, width * layer.channels, height,
            dram=False, at=top * row + left * layer.channels, pitch=row,
            inside=(s.columns + 2) * layer.channels,
        )  # fmt: skip

    def compute(self, y: int, x: int, channel: int) -> None:
        self.results += 1
        layer, s, w = self.layer, self.schedule, self.w
        half, weights = self._half(self.results), self._half(self.loads)
        w.tile = self._half(self.images)
        acc = half * w.accumulator_half
        w.add(
            Gemm(
                act=w.input_at, wgt=weights * w.weight_half, acc=acc, rows=s.rows, columns=s.columns,
                outputs=s.outputs,
            )
        )  # fmt: skip
        w.tile = half
        pixels, param = s.rows * s.columns, weights * w.parameter_half
        w.add(Requantize(acc=acc, dst=w.output_at, param=param, pixels=pixels, channels=s.outputs))
        at = OUTPUTS_AT + (y * layer.size + x) * layer.outputs + channel
        row = layer.size * layer.outputs
        w.store_image(w.output_at, s.outputs, s.columns, s.rows, at=at, pixel=layer.outputs, row=row)
