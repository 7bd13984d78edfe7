"""Which part of which memory each instruction reads and writes.

A part is a block of planes x rows x bytes, of which the hull [begin, end) is compared first; where both parts
have equal strides of rows, neighbouring tiles of one image are told apart by their columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim.config import PARAMETER_BYTES, NpuConfig
from sim.fields import Column
from sim.isa import (
    Binary,
    Depthwise,
    Elementwise,
    Fill,
    Gemm,
    Inflate,
    Instruction,
    Load,
    Lookup,
    Memory,
    Pool,
    Requantize,
    Softmax,
    Store,
)
from sim.resolve import WORKING, Table, ceil_div, resolve, seen_rows_columns
from sim.stream import Stream

# Takes an access for each row of a table: memory, begin, size (0: none), whether it writes, pitch, width.
Add = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Accesses:
    """One row for each access, in the order of the stream.

    index: of the instruction; memory: `Memory`; [begin, end): hull, bytes (words of accumulators); pitch:
    stride of its rows, 0 where the hull is all that is known; width: bytes of a row.
    """

    index: Column
    memory: Column
    begin: Column
    end: Column
    write: Column
    pitch: Column
    width: Column

    def __len__(self) -> int:
        return len(self.index)


def accesses(stream: Stream, config: NpuConfig, core: int = 0) -> Accesses:
    """All accesses of a stream. Errors: StreamError where a register is not set."""
    parts: list[list[Column]] = [[] for _ in range(7)]

    def add(
        table: Table,
        memory: Column | Memory,
        begin: Column,
        size: Column,
        write: bool,
        pitch: Column | int = 0,
        width: Column | int = 0,
    ) -> None:
        """size 0: no access."""
        some = size > 0
        columns = (table["index"], memory, begin, begin + size, int(write), pitch, width)
        for part, column in zip(parts, columns, strict=True):
            part.append(np.broadcast_to(np.asarray(column, np.int64), some.shape)[some])

    for cls in WORKING:
        table = resolve(stream, cls, core)
        if table["index"].size:
            _FOOTPRINTS[cls](table, config, add)
    joined = [np.concatenate(p) if p else np.zeros(0, np.int64) for p in parts]
    order = np.argsort(joined[0], kind="stable")
    return Accesses(*(column[order] for column in joined))


def _external(t: Table, config: NpuConfig, add: Add, write: bool) -> None:
    row, plane = t["strides.row"], t["strides.plane"]
    size = (t["planes"] - 1) * plane + (t["rows"] - 1) * row + t["row_bytes"]
    # Planes that continue the rows (or of one row each) have one pitch; any other block is its hull.
    pitch = np.where(t["planes"] == 1, row, np.where(t["rows"] == 1, plane, 0))
    pitch = np.where((t["planes"] > 1) & (t["rows"] > 1) & (plane % np.maximum(row, 1) == 0), row, pitch)
    pitch = np.where(pitch >= t["row_bytes"], pitch, 0)
    memory = np.where(t["dram"] == 1, int(Memory.DRAM), int(Memory.SRAM))
    add(t, memory, t["external"], size, write, pitch, t["row_bytes"])


def _inside(t: Table, memory: Column | Memory, add: Add, write: bool) -> None:
    element = t["local_strides.element_bytes"]
    row, plane, step = (t[f"local_strides.{n}"] for n in ("row", "plane", "element"))
    within = (ceil_div(t["row_bytes"], element) - 1) * step + element
    add(t, memory, t["local"], (t["planes"] - 1) * plane + (t["rows"] - 1) * row + within, write)


def _load(t: Table, config: NpuConfig, add: Add) -> None:
    _external(t, config, add, False)
    _inside(t, t["memory"], add, True)


def _store(t: Table, config: NpuConfig, add: Add) -> None:
    _external(t, config, add, True)
    _inside(t, Memory.ACTIVATION, add, False)


def _fill(t: Table, config: NpuConfig, add: Add) -> None:
    _inside(t, t["memory"], add, True)


def _inflate(t: Table, config: NpuConfig, add: Add) -> None:
    memory = np.where(t["dram"] == 1, int(Memory.DRAM), int(Memory.SRAM))
    add(t, memory, t["external"], t["packed_bytes"], False)
    add(t, t["memory"], t["local"], t["raw_bytes"], True)


def _image(t: Table, base: Column, strides: tuple[Column, Column], size: Column, add: Add) -> None:
    rows, columns = seen_rows_columns(t)
    extent = (rows - 1) * strides[0] + (columns - 1) * strides[1] + size
    add(t, Memory.ACTIVATION, base, np.where((rows > 0) & (columns > 0), extent, 0), False)


def _products(t: Table, weights: Column, outputs: Column, add: Add) -> None:
    strides = (t["operands.row_stride"], t["operands.pixel_stride"])
    size = ceil_div(t["operands.channels"] * t["operands.act_bits"], 8)
    _image(t, t["act"], strides, size, add)
    add(t, Memory.WEIGHT, t["wgt"], weights, False)
    words = t["rows"] * t["columns"] * outputs
    add(t, Memory.ACCUMULATOR, t["acc"], words, True)
    # Adding reads too; of a write, only the flag differs.
    add(t, Memory.ACCUMULATOR, t["acc"], np.where(t["accumulate"] == 1, words, 0), False)


def weight_bytes(t: Table, config: NpuConfig) -> Column:
    """Of a `Gemm`."""
    bits = t["operands.wgt_bits"]
    lanes = output_lanes(t, config)
    whole, rest = t["outputs"] // lanes, t["outputs"] % lanes
    rows = t["window.kernel_y"] * t["window.kernel_x"] * t["operands.channels"]
    return rows * (whole * ceil_div(lanes * bits, 8) + ceil_div(rest * bits, 8))


def output_lanes(t: Table, config: NpuConfig) -> Column:
    act, wgt = t["operands.act_bits"], t["operands.wgt_bits"]
    known = {(a, w): config.mac.output_lanes(a, w) for a in (1, 2, 4, 8, 16) for w in (1, 2, 4, 8)}
    return np.array([known[pair] for pair in zip(act.tolist(), wgt.tolist(), strict=True)], np.int64)


def _gemm(t: Table, config: NpuConfig, add: Add) -> None:
    _products(t, weight_bytes(t, config), t["outputs"], add)


def _depthwise(t: Table, config: NpuConfig, add: Add) -> None:
    channels = t["operands.channels"]
    taps = t["window.kernel_y"] * t["window.kernel_x"]
    _products(t, taps * ceil_div(channels * t["operands.wgt_bits"], 8), channels, add)


def _rows(rows: Column, stride: Column, count: Column, bits: Column) -> Column:
    return (rows - 1) * stride + ceil_div(count * bits, 8)


def _requantize(t: Table, config: NpuConfig, add: Add) -> None:
    words = t["pixels"] * t["channels"]
    add(t, Memory.ACCUMULATOR, t["acc"], words, False)
    entries = np.where(t["per_tensor"] == 1, 1, t["channels"])
    add(t, Memory.PARAMETER, t["param"], entries * PARAMETER_BYTES, False)
    add(t, Memory.TABLE, t["output.table"], np.where(t["output.lookup"] == 1, 256, 0), False)
    size = _rows(t["pixels"], t["output.stride"], t["channels"], t["output.out_bits"])
    add(t, Memory.ACTIVATION, t["dst"], size, True)


def _codes(t: Table, add: Add) -> None:
    """Operand a and the result of row-wise functions."""
    size = _rows(t["rows"], t["inputs.a_stride"], t["count"], t["inputs.a_bits"])
    add(t, Memory.ACTIVATION, t["a"], size, False)
    size = _rows(t["rows"], t["output.stride"], t["count"], t["output.out_bits"])
    add(t, Memory.ACTIVATION, t["dst"], size, True)


def _elementwise(t: Table, config: NpuConfig, add: Add) -> None:
    _codes(t, add)
    unary = np.isin(t["function"], (Binary.RESCALE, Binary.MOVE))
    count = np.where(t["inputs.b_scalar"] == 1, 1, t["count"])
    size = _rows(t["rows"], t["inputs.b_stride"], count, t["inputs.b_bits"])
    add(t, Memory.ACTIVATION, t["b"], np.where(unary, 0, size), False)


def _pool(t: Table, config: NpuConfig, add: Add) -> None:
    strides = (t["inputs.a_image_stride"], t["inputs.a_stride"])
    _image(t, t["a"], strides, ceil_div(t["channels"] * t["inputs.a_bits"], 8), add)
    pixels = t["rows"] * t["columns"]
    size = _rows(pixels, t["output.stride"], t["channels"], t["output.out_bits"])
    add(t, Memory.ACTIVATION, t["dst"], size, True)


def _lookup(t: Table, config: NpuConfig, add: Add) -> None:
    _codes(t, add)
    bits = t["inputs.a_bits"]
    entries = np.where(bits == 16, 513, np.where(bits == 1, 3, 1 << np.minimum(bits, 8)))
    wide = (bits == 16) | (t["output.out_bits"] > 8)
    add(t, Memory.TABLE, t["table"], entries * np.where(wide, 2, 1), False)


def _softmax(t: Table, config: NpuConfig, add: Add) -> None:
    _codes(t, add)
    add(t, Memory.TABLE, t["table"], t["inputs.a_bits"] // 8 * 1024, False)


_FOOTPRINTS: dict[type[Instruction], Callable[[Table, NpuConfig, Add], None]] = {
    Load: _load,
    Store: _store,
    Fill: _fill,
    Inflate: _inflate,
    Gemm: _gemm,
    Depthwise: _depthwise,
    Requantize: _requantize,
    Elementwise: _elementwise,
    Pool: _pool,
    Lookup: _lookup,
    Softmax: _softmax,
}
