"""Instructions with the registers that they will find, as columns: what timing and checks compute on."""

from __future__ import annotations

import numpy as np

from sim.assembly import text_of
from sim.fields import Column
from sim.isa import (
    Depthwise,
    Elementwise,
    Engine,
    Fill,
    Gemm,
    Inflate,
    Inputs,
    Instruction,
    Load,
    LocalStrides,
    Lookup,
    Operands,
    Output,
    Pool,
    Requantize,
    Softmax,
    Store,
    Strides,
    Window,
)
from sim.stream import Stream, StreamError

Table = dict[str, Column]
# What each instruction reads of its engine's registers.
USES: dict[type[Instruction], tuple[type[Instruction], ...]] = {
    Load: (Strides, LocalStrides),
    Store: (Strides, LocalStrides),
    Fill: (LocalStrides,),
    Inflate: (),
    Gemm: (Window, Operands),
    Depthwise: (Window, Operands),
    Requantize: (Output,),
    Elementwise: (Inputs, Output),
    Pool: (Window, Inputs, Output),
    Lookup: (Inputs, Output),
    Softmax: (Inputs, Output),
}
WORKING = tuple(USES)


def resolve(stream: Stream, cls: type[Instruction], core: int = 0) -> Table:
    """Columns of all instructions of one kind: `index` in the stream, their fields, and those of registers
    (`window.height`) as the last instruction before them on their engine has set them.

    Errors: StreamError where there is none.
    """
    index = stream.select(cls)
    table = {"index": index, **stream.columns(cls)}
    if not index.size:
        empty = np.zeros(0, np.int64)
        names = [f"{r.mnemonic}.{n}" for r in USES[cls] for n in stream.columns(r)]
        return {**table, **dict.fromkeys(names, empty)}
    engines = stream.engines[index]
    for register in USES[cls]:
        settings = stream.select(register)
        found = np.full(index.shape, -1)
        for engine in np.unique(engines):
            mine, own = engines == engine, settings[stream.engines[settings] == engine]
            last = np.searchsorted(own, index[mine]) - 1
            found[mine] = np.where(last < 0, -1, np.append(own, -1)[last])
        if (found < 0).any():
            _unset(stream, core, int(index[np.argmin(found)]), register)
        columns = stream.columns(register, found)
        table |= {f"{register.mnemonic}.{name}": column for name, column in columns.items()}
    return table


def _unset(stream: Stream, core: int, at: int, register: type[Instruction]) -> None:
    text = text_of(Stream(stream.words[at : at + 1]).decode(core)[0])
    engine = Engine(int(stream.engines[at])).name
    raise StreamError(core, at, text, f"comes before any {register.mnemonic} of {engine}")


def ceil_div(a: Column, b: Column | int) -> Column:
    return -(-a // b)


def seen_rows_columns(table: Table) -> tuple[Column, Column]:
    """Rows and columns of the image up to the last pixel that a window sees; 0: none."""
    w = {n.removeprefix("window."): c for n, c in table.items() if n.startswith("window.")}
    bottom = (table["rows"] - 1) * w["stride_y"] + (w["kernel_y"] - 1) * w["dilation_y"] + 1 - w["pad_top"]
    right = (table["columns"] - 1) * w["stride_x"] + (w["kernel_x"] - 1) * w["dilation_x"] + 1 - w["pad_left"]
    return np.clip(bottom, 0, w["height"]), np.clip(right, 0, w["width"])
