"""Random convolutions and matrix products, of all widths."""

from __future__ import annotations

from dataclasses import dataclass

from sim.config import PARAMETER_BYTES
from sim.functional.memory import row_bytes
from sim.isa import (
    Depthwise,
    Engine,
    Gemm,
    Memory,
    Operands,
    Requantize,
    Window,
)
from sim.programs.writer import OUTPUTS_AT, PARAMETERS_AT, TILES, Writer, output_register


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution of one tile."""

    kernel: int
    stride: int
    dilation: int
    pad: int
    rows: int
    columns: int
    channels: int
    outputs: int
    act_bits: int
    wgt_bits: int
    depthwise: bool

    @property
    def height(self) -> int:
        return max(1, (self.rows - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - self.pad)

    @property
    def width(self) -> int:
        return max(1, (self.columns - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - self.pad)

    @property
    def pixel(self) -> int:
        return row_bytes(self.channels, self.act_bits)

    def weights(self, lanes: int) -> int:
        rows = self.kernel * self.kernel
        if self.depthwise:
            return rows * row_bytes(self.channels, self.wgt_bits)
        whole, rest = divmod(self.outputs, lanes)
        width = whole * row_bytes(lanes, self.wgt_bits) + row_bytes(rest, self.wgt_bits)
        return rows * self.channels * width


def _draw_layer(w: Writer, depthwise: bool, kernels: tuple[int, ...], bits: bool) -> _Layer:
    """One that fits the memories of a core."""
    while True:
        channels = w.pick(3, 8, 16, 24, 32, 64, 96)
        layer = _Layer(
            kernel=w.pick(*kernels),
            stride=w.pick(1, 1, 2),
            dilation=w.pick(1, 1, 1, 2),
            pad=w.pick(0, 1),
            rows=w.draw(1, 8),
            columns=w.draw(1, 16),
            channels=channels,
            outputs=channels if depthwise else w.pick(1, 8, 10, 16, 24, 32, 48, 64),
            act_bits=w.pick(1, 2, 4, 8, 16) if bits else 8,
            wgt_bits=w.pick(1, 2, 4, 8) if bits else 8,
            depthwise=depthwise,
        )
        lanes = w.config.mac.output_lanes(layer.act_bits, layer.wgt_bits)
        pixels = layer.rows * layer.columns
        fits = (
            layer.height * layer.width * layer.pixel <= w.quarter
            and layer.weights(lanes) <= w.weight_half
            and pixels * layer.outputs <= w.accumulator_half
            and pixels * layer.outputs * 2 <= w.quarter
            and layer.outputs * PARAMETER_BYTES <= w.parameter_half
        )
        if fits and (layer.kernel > 1 or layer.pad == 0):
            return layer


def _convolution(w: Writer, layer: _Layer) -> None:
    lanes = w.config.mac.output_lanes(layer.act_bits, layer.wgt_bits)
    weights, pixels = layer.weights(lanes), layer.rows * layer.columns
    out_bits = w.pick(8, 8, 4, 16)
    resident = bool(w.draw(0, 1))
    _set_registers(w, layer, out_bits)
    for tile in range(w.draw(2, TILES)):
        w.tile = tile
        if tile == 0 or not resident:
            _load_weights(w, weights, layer.outputs)
        row = layer.width * layer.pixel
        w.load(
            Memory.ACTIVATION, w.input_at, row, layer.height,
            dram=False, at=64 * w.draw(0, 64), pitch=row + 16 * w.draw(0, 2),
        )  # fmt: skip
        half = 0 if resident else tile % 2
        _multiply(w, layer, half)
        w.add(
            Requantize(
                acc=w.accumulator_half * (tile % 2),
                dst=w.output_at,
                param=half * w.parameter_half,
                pixels=pixels,
                channels=layer.outputs,
                per_tensor=bool(w.draw(0, 1)),
            )
        )
        size = pixels * row_bytes(layer.outputs, out_bits)
        w.store(w.output_at, size, 1, at=OUTPUTS_AT + tile * w.quarter, pitch=size)


def _set_registers(w: Writer, layer: _Layer, out_bits: int) -> None:
    w.add(
        Window(
            engine=Engine.MAC,
            kernel_y=layer.kernel,
            kernel_x=layer.kernel,
            stride_y=layer.stride,
            stride_x=layer.stride,
            dilation_y=layer.dilation,
            dilation_x=layer.dilation,
            pad_top=layer.pad,
            pad_left=layer.pad,
            height=layer.height,
            width=layer.width,
        ),
        Operands(
            act_bits=layer.act_bits,
            wgt_bits=layer.wgt_bits,
            act_zero=0 if layer.act_bits == 1 else w.draw(-1, 1),
            wgt_zero=0 if layer.wgt_bits == 1 else w.draw(-1, 1),
            channels=layer.channels,
            row_stride=layer.width * layer.pixel,
            pixel_stride=layer.pixel,
        ),
        output_register(w, out_bits, row_bytes(layer.outputs, out_bits)),
    )


def _load_weights(w: Writer, size: int, outputs: int) -> None:
    half = w.tile % 2
    at = 64 * w.draw(0, 64)
    w.load(Memory.WEIGHT, half * w.weight_half, size, 1, dram=True, at=at, pitch=size)
    entries = outputs * PARAMETER_BYTES
    local = half * w.parameter_half
    w.load(Memory.PARAMETER, local, entries, 1, dram=True, at=PARAMETERS_AT, pitch=entries)


def _multiply(w: Writer, layer: _Layer, half: int) -> None:
    acc, wgt = w.accumulator_half * (w.tile % 2), half * w.weight_half
    for accumulate in (False, True)[: w.draw(1, 2)]:
        if layer.depthwise:
            w.add(
                Depthwise(
                    accumulate=accumulate, act=w.input_at, wgt=wgt, acc=acc,
                    rows=layer.rows, columns=layer.columns,
                )
            )  # fmt: skip
        else:
            w.add(
                Gemm(
                    accumulate=accumulate, act=w.input_at, wgt=wgt, acc=acc,
                    rows=layer.rows, columns=layer.columns, outputs=layer.outputs,
                )
            )  # fmt: skip


def gemm(w: Writer) -> None:
    _convolution(w, _draw_layer(w, False, (1,), False))


def conv(w: Writer) -> None:
    _convolution(w, _draw_layer(w, False, (2, 3), False))


def depthwise(w: Writer) -> None:
    _convolution(w, _draw_layer(w, True, (3, 5), False))


def low_bits(w: Writer) -> None:
    _convolution(w, _draw_layer(w, bool(w.draw(0, 1)), (1, 3), True))
