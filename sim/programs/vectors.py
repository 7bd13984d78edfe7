"""Random work for VEC alone: element-wise functions, tables, pools, softmax."""

from __future__ import annotations

from sim.functional.memory import row_bytes
from sim.isa import (
    Binary,
    Elementwise,
    Engine,
    Factors,
    Fill,
    Inputs,
    Lookup,
    Memory,
    Pool,
    Reduce,
    Softmax,
    Window,
)
from sim.programs.writer import EXPONENTIALS_AT, OUTPUTS_AT, TILES, Writer, output_register


def _inputs(w: Writer, bits: int, stride: int, image: int = 0) -> Inputs:
    zeros = (w.draw(-1, 1), w.draw(-1, 1))
    return Inputs(
        a_bits=bits, b_bits=bits, a_zero=zeros[0], b_zero=zeros[1], a_stride=stride, b_stride=stride,
        a_image_stride=image, b_scalar=bool(w.draw(0, 1)),
    )  # fmt: skip


def _factors(w: Writer) -> Factors:
    return Factors(
        multiplier_a=w.draw(-(1 << 20), 1 << 20),
        multiplier_b=w.draw(-(1 << 20), 1 << 20),
        shift=w.draw(0, 24),
    )


def vec(w: Writer) -> None:
    """Element-wise functions and tables."""
    bits = w.pick(8, 8, 4, 16)
    count, rows = w.draw(1, 96), w.draw(1, 5)
    stride = row_bytes(count, bits) + w.draw(0, 3)
    w.add(_inputs(w, bits, stride), output_register(w, bits, stride), _factors(w))
    table = 1026 if bits == 16 else 1 << bits
    w.load(Memory.TABLE, 0, table, 1, dram=True, at=0, pitch=table)
    for tile in range(w.draw(2, TILES)):
        w.tile = tile
        b = w.input_at + rows * stride
        w.load(Memory.ACTIVATION, w.input_at, 2 * rows * stride, 1, dram=False, at=64 * tile, pitch=0)
        w.add(
            Fill(
                engine=Engine.LOAD,
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
        w.store(w.output_at, rows * stride, 1, at=OUTPUTS_AT + tile * w.quarter, pitch=0)


def softmax(w: Writer) -> None:
    bits, out_bits = w.pick(8, 16), w.pick(8, 16)
    count, rows = w.draw(1, 40), w.draw(1, 4)
    stride, out = count * bits // 8, count * out_bits // 8
    w.add(_inputs(w, bits, stride), output_register(w, out_bits, out))
    size = bits // 8 * 1024
    w.load(Memory.TABLE, 0, size, 1, dram=True, at=EXPONENTIALS_AT, pitch=size)
    for tile in range(w.draw(1, TILES)):
        w.tile = tile
        w.load(Memory.ACTIVATION, w.input_at, rows * stride, 1, dram=False, at=64 * tile, pitch=0)
        w.add(Softmax(a=w.input_at, dst=w.output_at, rows=rows, count=count, table=0))
        w.store(w.output_at, rows * out, 1, at=OUTPUTS_AT + tile * w.quarter, pitch=0)


def pool(w: Writer) -> None:
    channels, kernel, stride = w.pick(3, 8, 16, 24), w.draw(2, 3), w.draw(1, 2)
    rows, columns = w.draw(1, 4), w.draw(1, 4)
    height, width = ((n - 1) * stride + kernel - 1 for n in (rows, columns))
    w.add(
        Window(
            engine=Engine.VEC, kernel_y=kernel, kernel_x=kernel, stride_y=stride, stride_x=stride,
            dilation_y=1, dilation_x=1, pad_top=1, pad_left=1, height=height, width=width,
        ),
        _inputs(w, 8, channels, width * channels),
        output_register(w, 8, channels),
        _factors(w),
    )  # fmt: skip
    for tile in range(w.draw(2, TILES)):
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
        w.store(w.output_at, size, 1, at=OUTPUTS_AT + tile * w.quarter, pitch=size)
