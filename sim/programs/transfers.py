"""Random transfers: blocks that are turned or not, compressed weights."""

from __future__ import annotations

from functools import cache

import numpy as np

from compiler.numerics.element import Array
from sim.compression import deflate
from sim.isa import (
    Engine,
    Fill,
    Gemm,
    Inflate,
    Load,
    LocalStrides,
    Memory,
    Operands,
    Store,
    Strides,
    Window,
)
from sim.programs.writer import COMPRESSED_AT, OUTPUTS_AT, TILES, Writer

# Bytes of the weights that lie compressed in DRAM.
COMPRESSED = (2048, 1024, 700, 600, 130)


def inflate(w: Writer) -> None:
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
    for tile in range(w.draw(2, TILES)):
        w.tile = tile
        number = w.draw(0, len(COMPRESSED) - 1)
        at, packed = compressed_weights()[number]
        half = (tile % 2) * w.weight_half
        w.add(
            Inflate(
                dram=True, engine=Engine.FETCH, external=at, memory=Memory.WEIGHT, local=half,
                raw_bytes=COMPRESSED[number], packed_bytes=packed.size,
            )
        )  # fmt: skip
        w.load(Memory.ACTIVATION, w.input_at, 256, 1, dram=False, at=64 * tile, pitch=0)
        acc = w.accumulator_half * (tile % 2)
        w.add(Gemm(act=w.input_at, wgt=half, acc=acc, rows=1, columns=16, outputs=8))


@cache
def compressed_weights() -> list[tuple[int, Array]]:
    """Where blocks of compressed weights lie in DRAM, and their bytes."""
    rng, at = np.random.default_rng(0), COMPRESSED_AT
    found: list[tuple[int, Array]] = []
    for size, spread in zip(COMPRESSED, (30.0, 5.0, 1.0, 200.0, 20.0), strict=True):
        weights = np.clip(np.round(rng.normal(0, spread, size)), -127, 127).astype(np.int8)
        found.append((at, deflate(weights.view(np.uint8))))
        at += -(-found[-1][1].size // 16) * 16
    return found


def dma(w: Writer) -> None:
    """Blocks in and out, some transposed."""
    for tile in range(w.draw(3, 2 * TILES)):
        w.tile = tile
        element = w.pick(1, 2, 4)
        row, rows, planes = element * w.draw(1, 24), w.draw(1, 8), w.draw(1, 3)
        loader = Engine(w.pick(Engine.LOAD, Engine.FETCH))
        for engine in (loader, Engine.STORE):
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
            if engine is loader:
                w.add(
                    Load(
                        dram=bool(w.draw(0, 1)), engine=engine, external=w.draw(0, 4096),
                        memory=Memory.ACTIVATION, local=w.input_at, row_bytes=row, rows=rows, planes=planes,
                    )
                )  # fmt: skip
            else:
                w.add(
                    Store(
                        external=OUTPUTS_AT + tile * 4096, local=w.input_at, row_bytes=row, rows=rows,
                        planes=planes,
                    )
                )  # fmt: skip


def transfers(w: Writer) -> None:
    """Many short ones of each engine, one behind the other, on both ports, and fills among them."""
    held = [0] * 4  # bytes that each quarter of the activation memory holds
    for step in range(w.draw(8, 6 * TILES)):
        quarter = w.draw(0, 3)
        local = w.quarter * quarter
        if held[quarter] and w.draw(0, 2) == 0:
            _registers(w, Engine.STORE, held[quarter])
            w.add(
                Store(
                    dram=bool(w.draw(0, 1)), external=OUTPUTS_AT + step * 2048, local=local,
                    row_bytes=held[quarter], rows=1, planes=1,
                )
            )  # fmt: skip
            continue
        engine, row, rows = Engine(w.pick(Engine.LOAD, Engine.FETCH)), w.draw(1, 256), w.draw(1, 8)
        _registers(w, engine, row)
        if w.draw(0, 7) == 0:
            w.add(
                Fill(
                    engine=engine, memory=Memory.ACTIVATION, local=local, row_bytes=row, rows=rows, planes=1,
                    pattern=w.draw(0, 99),
                )
            )  # fmt: skip
        else:
            w.add(
                Load(
                    dram=bool(w.draw(0, 1)), engine=engine, external=w.draw(0, 4096),
                    memory=Memory.ACTIVATION, local=local, row_bytes=row, rows=rows, planes=1,
                )
            )  # fmt: skip
        held[quarter] = max(held[quarter], row * rows)


def _registers(w: Writer, engine: Engine, row: int) -> None:
    """For dense rows."""
    w.add(
        Strides(engine=engine, row=row, plane=0),
        LocalStrides(engine=engine, row=row, plane=0, element=1, element_bytes=1),
    )
