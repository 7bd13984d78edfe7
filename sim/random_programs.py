"""Random programs of each kind of work, as a compiler would write them: tiles, double buffers, no tokens yet.

For property tests and for comparing the timing model with the hardware description; a seed gives one program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from compiler.numerics.element import Array
from sim.compression import deflate
from sim.config import PARAMETER_BYTES, NpuConfig
from sim.functional.core import External
from sim.functional.memory import row_bytes
from sim.isa import (
    Binary,
    Depthwise,
    Elementwise,
    Engine,
    Factors,
    Fill,
    Gemm,
    Inflate,
    Inputs,
    Instruction,
    Load,
    LocalStrides,
    Lookup,
    Memory,
    Operands,
    Output,
    Pool,
    Reduce,
    Requantize,
    Softmax,
    Store,
    Strides,
    Window,
)
from sim.parameters import pack_parameters
from sim.stream import Program
from sim.tokens import insert_tokens

# Where tensors lie in SRAM and DRAM.
_OUTPUTS_AT = 1 << 16
_PARAMETERS_AT = 1 << 15
_EXPONENTIALS_AT = 3 << 14
_COMPRESSED_AT = 7 << 13
_COMPRESSED = (2048, 1024, 700, 600, 130)  # bytes of weights
_CONTENTS = 1 << 16
_TILES = 6


@dataclass(frozen=True, slots=True)
class RandomProgram:
    """A program and what SRAM and DRAM hold before it (the rest is zeros)."""

    name: str
    program: Program
    sram: Array
    dram: Array

    def external(self, config: NpuConfig) -> External:
        return External.of(config, self.sram, self.dram)


@dataclass(slots=True)
class _Writer:
    """Instructions so far, and the tile that is being written: even and odd tiles use different halves."""

    config: NpuConfig
    rng: np.random.Generator
    out: list[Instruction] = field(default_factory=list[Instruction])
    tile: int = 0

    def draw(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def add(self, *instructions: Instruction) -> None:
        self.out += instructions

    @property
    def quarter(self) -> int:
        return self.config.scratchpad.activation_bytes // 4

    @property
    def input_at(self) -> int:
        return self.quarter * (self.tile % 2)

    @property
    def output_at(self) -> int:
        return self.quarter * (2 + self.tile % 2)

    @property
    def weight_half(self) -> int:
        return self.config.scratchpad.weight_bytes // 2

    @property
    def accumulator_half(self) -> int:
        return self.config.scratchpad.accumulator_words // 2

    @property
    def parameter_half(self) -> int:
        return self.config.scratchpad.parameter_bytes // 2

    def load(
        self, memory: Memory, local: int, row: int, rows: int, *, dram: bool, at: int, pitch: int
    ) -> None:
        """rows of `row` bytes, `pitch` apart outside and dense inside."""
        self.add(
            Strides(engine=Engine.LOAD, row=pitch, plane=0),
            LocalStrides(engine=Engine.LOAD, row=row, plane=0, element=1, element_bytes=1),
            Load(dram=dram, external=at, memory=memory, local=local, row_bytes=row, rows=rows, planes=1),
        )

    def store(self, local: int, row: int, rows: int, *, at: int, pitch: int) -> None:
        self.add(
            Strides(engine=Engine.STORE, row=pitch, plane=0),
            LocalStrides(engine=Engine.STORE, row=row, plane=0, element=1, element_bytes=1),
            Store(external=at, local=local, row_bytes=row, rows=rows, planes=1),
        )


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


def _draw_layer(w: _Writer, depthwise: bool, kernels: tuple[int, ...], bits: bool) -> _Layer:
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


def _convolution(w: _Writer, layer: _Layer) -> None:
    lanes = w.config.mac.output_lanes(layer.act_bits, layer.wgt_bits)
    weights, pixels = layer.weights(lanes), layer.rows * layer.columns
    out_bits = w.pick(8, 8, 4, 16)
    resident = bool(w.draw(0, 1))
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
        _output(w, out_bits, row_bytes(layer.outputs, out_bits)),
    )
    for tile in range(w.draw(2, _TILES)):
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
        w.store(w.output_at, size, 1, at=_OUTPUTS_AT + tile * w.quarter, pitch=size)


def _load_weights(w: _Writer, size: int, outputs: int) -> None:
    half = w.tile % 2
    at = 64 * w.draw(0, 64)
    w.load(Memory.WEIGHT, half * w.weight_half, size, 1, dram=True, at=at, pitch=size)
    entries = outputs * PARAMETER_BYTES
    local = half * w.parameter_half
    w.load(Memory.PARAMETER, local, entries, 1, dram=True, at=_PARAMETERS_AT, pitch=entries)


def _multiply(w: _Writer, layer: _Layer, half: int) -> None:
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


def _output(w: _Writer, bits: int, stride: int) -> Output:
    high = (1 << (bits - 1)) - 1 if bits > 1 else 1
    low = -high - 1 if bits > 1 else -1
    return Output(out_bits=bits, zero_point=w.draw(-1, 1), low=low, high=high, stride=stride, table=0)


def _gemm(w: _Writer) -> None:
    _convolution(w, _draw_layer(w, False, (1,), False))


def _conv(w: _Writer) -> None:
    _convolution(w, _draw_layer(w, False, (2, 3), False))


def _depthwise(w: _Writer) -> None:
    _convolution(w, _draw_layer(w, True, (3, 5), False))


def _low_bits(w: _Writer) -> None:
    _convolution(w, _draw_layer(w, bool(w.draw(0, 1)), (1, 3), True))


def _inputs(w: _Writer, bits: int, stride: int, image: int = 0) -> Inputs:
    zeros = (w.draw(-1, 1), w.draw(-1, 1))
    return Inputs(
        a_bits=bits, b_bits=bits, a_zero=zeros[0], b_zero=zeros[1], a_stride=stride, b_stride=stride,
        a_image_stride=image, b_scalar=bool(w.draw(0, 1)),
    )  # fmt: skip


def _factors(w: _Writer) -> Factors:
    return Factors(
        multiplier_a=w.draw(-(1 << 20), 1 << 20),
        multiplier_b=w.draw(-(1 << 20), 1 << 20),
        shift=w.draw(0, 24),
    )


def _vec(w: _Writer) -> None:
    """Element-wise functions and tables."""
    bits = w.pick(8, 8, 4, 16)
    count, rows = w.draw(1, 96), w.draw(1, 5)
    stride = row_bytes(count, bits) + w.draw(0, 3)
    w.add(_inputs(w, bits, stride), _output(w, bits, stride), _factors(w))
    table = 1026 if bits == 16 else 1 << bits
    w.load(Memory.TABLE, 0, table, 1, dram=True, at=0, pitch=table)
    for tile in range(w.draw(2, _TILES)):
        w.tile = tile
        b = w.input_at + rows * stride
        w.load(Memory.ACTIVATION, w.input_at, 2 * rows * stride, 1, dram=False, at=64 * tile, pitch=0)
        w.add(
            Fill(
                memory=Memory.ACTIVATION,
                local=w.output_at,
                row_bytes=rows * stride,
                rows=1,
                planes=1,
                pattern=0,
            )
        )
        if w.draw(0, 3) == 0 and bits != 4:
            w.add(Lookup(a=w.input_at, dst=w.output_at, rows=rows, count=count, table=0))
        else:
            function = Binary(w.draw(0, 5))
            w.add(Elementwise(function=function, a=w.input_at, b=b, dst=w.output_at, rows=rows, count=count))
        w.store(w.output_at, rows * stride, 1, at=_OUTPUTS_AT + tile * w.quarter, pitch=0)


def _softmax(w: _Writer) -> None:
    bits, out_bits = w.pick(8, 16), w.pick(8, 16)
    count, rows = w.draw(1, 40), w.draw(1, 4)
    stride, out = count * bits // 8, count * out_bits // 8
    w.add(_inputs(w, bits, stride), _output(w, out_bits, out))
    size = bits // 8 * 1024
    w.load(Memory.TABLE, 0, size, 1, dram=True, at=_EXPONENTIALS_AT, pitch=size)
    for tile in range(w.draw(1, _TILES)):
        w.tile = tile
        w.load(Memory.ACTIVATION, w.input_at, rows * stride, 1, dram=False, at=64 * tile, pitch=0)
        w.add(Softmax(a=w.input_at, dst=w.output_at, rows=rows, count=count, table=0))
        w.store(w.output_at, rows * out, 1, at=_OUTPUTS_AT + tile * w.quarter, pitch=0)


def _inflate(w: _Writer) -> None:
    """Compressed weights of many sizes; beside them, activations that are multiplied with them."""
    w.add(
        Window(
            engine=Engine.MAC, kernel_y=1, kernel_x=1, stride_y=1, stride_x=1, dilation_y=1, dilation_x=1,
            pad_top=0, pad_left=0, height=1, width=16,
        ),
        Operands(
            act_bits=8, wgt_bits=8, act_zero=0, wgt_zero=0, channels=16, row_stride=0, pixel_stride=16
        ),
    )  # fmt: skip
    for tile in range(w.draw(2, _TILES)):
        w.tile = tile
        number = w.draw(0, len(_COMPRESSED) - 1)
        at, packed = _compressed()[number]
        half = (tile % 2) * w.weight_half
        w.add(
            Inflate(
                dram=True, external=at, memory=Memory.WEIGHT, local=half, raw_bytes=_COMPRESSED[number],
                packed_bytes=packed.size,
            )
        )  # fmt: skip
        w.load(Memory.ACTIVATION, w.input_at, 256, 1, dram=False, at=64 * tile, pitch=0)
        acc = w.accumulator_half * (tile % 2)
        w.add(Gemm(act=w.input_at, wgt=half, acc=acc, rows=1, columns=16, outputs=8))


@cache
def _compressed() -> list[tuple[int, Array]]:
    """Where blocks of compressed weights lie in DRAM, and their bytes."""
    rng, at = np.random.default_rng(0), _COMPRESSED_AT
    found: list[tuple[int, Array]] = []
    for size, spread in zip(_COMPRESSED, (30.0, 5.0, 1.0, 200.0, 20.0), strict=True):
        weights = np.clip(np.round(rng.normal(0, spread, size)), -127, 127).astype(np.int8)
        found.append((at, deflate(weights.view(np.uint8))))
        at += -(-found[-1][1].size // 16) * 16
    return found


def _pool(w: _Writer) -> None:
    channels, kernel, stride = w.pick(3, 8, 16, 24), w.draw(2, 3), w.draw(1, 2)
    rows, columns = w.draw(1, 4), w.draw(1, 4)
    height, width = ((n - 1) * stride + kernel - 1 for n in (rows, columns))
    w.add(
        Window(
            engine=Engine.VEC, kernel_y=kernel, kernel_x=kernel, stride_y=stride, stride_x=stride,
            dilation_y=1, dilation_x=1, pad_top=1, pad_left=1, height=height, width=width,
        ),
        _inputs(w, 8, channels, width * channels),
        _output(w, 8, channels),
        _factors(w),
    )  # fmt: skip
    for tile in range(w.draw(2, _TILES)):
        w.tile = tile
        row = width * channels
        w.load(Memory.ACTIVATION, w.input_at, row, height, dram=False, at=64 * tile, pitch=row)
        w.add(
            Pool(
                function=Reduce(w.draw(0, 1)), a=w.input_at, dst=w.output_at,
                rows=rows, columns=columns, channels=channels,
            )
        )  # fmt: skip
        size = rows * columns * channels
        w.store(w.output_at, size, 1, at=_OUTPUTS_AT + tile * w.quarter, pitch=size)


def _dma(w: _Writer) -> None:
    """Blocks in and out, some transposed."""
    for tile in range(w.draw(3, 2 * _TILES)):
        w.tile = tile
        element = w.pick(1, 2, 4)
        row, rows, planes = element * w.draw(1, 24), w.draw(1, 8), w.draw(1, 3)
        for engine in (Engine.LOAD, Engine.STORE):
            transposed = bool(w.draw(0, 1))
            w.add(
                Strides(engine=engine, row=row + w.draw(0, 40), plane=rows * (row + 40)),
                LocalStrides(
                    engine=engine,
                    row=element if transposed else row,
                    plane=row * rows,
                    element=element * rows if transposed else element,
                    element_bytes=element,
                ),
            )
            if engine is Engine.LOAD:
                w.add(
                    Load(
                        dram=bool(w.draw(0, 1)), external=w.draw(0, 4096), memory=Memory.ACTIVATION,
                        local=w.input_at, row_bytes=row, rows=rows, planes=planes,
                    )
                )  # fmt: skip
            else:
                w.add(
                    Store(
                        external=_OUTPUTS_AT + tile * 4096, local=w.input_at, row_bytes=row, rows=rows,
                        planes=planes,
                    )
                )  # fmt: skip


KINDS: dict[str, Callable[[_Writer], None]] = {
    "gemm": _gemm,
    "conv": _conv,
    "depthwise": _depthwise,
    "low_bits": _low_bits,
    "vec": _vec,
    "pool": _pool,
    "softmax": _softmax,
    "inflate": _inflate,
    "dma": _dma,
}


def instructions_of(kind: str, seed: int, config: NpuConfig) -> list[Instruction]:
    """Without tokens and halt, for one core."""
    writer = _Writer(config, np.random.default_rng([seed, sorted(KINDS).index(kind)]))
    KINDS[kind](writer)
    return writer.out


def _exponentials() -> Array:
    """Tables of a 16-bit softmax; the first serves 8 bits, too."""
    steps = np.arange(256) / 64
    return (
        np.concatenate([np.exp(-256 * steps / 256), np.exp(-steps / 256)])
        .astype("<f8")
        .dot(1 << 30)
        .astype("<i4")
    )


def random_program(kind: str, seed: int, config: NpuConfig) -> RandomProgram:
    program = insert_tokens([(0, i) for i in instructions_of(kind, seed, config)], config).program
    rng = np.random.default_rng([seed, 1])
    sram, dram = (rng.integers(0, 256, _CONTENTS, np.uint8) for _ in range(2))
    channels = 512
    dram[_PARAMETERS_AT : _PARAMETERS_AT + channels * PARAMETER_BYTES] = pack_parameters(
        rng.integers(-(1 << 12), 1 << 12, channels),
        rng.integers(1 << 30, (1 << 31) - 1, channels),
        rng.integers(34, 46, channels),
    )
    dram[_EXPONENTIALS_AT : _EXPONENTIALS_AT + 2048] = _exponentials().view(np.uint8)
    for at, packed in _compressed():
        dram[at : at + packed.size] = packed
    return RandomProgram(f"{kind}-{seed}", program, sram, dram)
