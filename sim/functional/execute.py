"""The meaning of each instruction, in one order that the program's tokens allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sim.assembly import text_of
from sim.functional import dma, mac, vec
from sim.functional.core import Core, External
from sim.functional.memory import CoreError
from sim.isa import (
    Depthwise,
    Elementwise,
    Factors,
    Fence,
    Fill,
    Gemm,
    Halt,
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
    Sync,
    Window,
)
from sim.stream import StreamError

_Meaning = Callable[[Core, External, Any], None]


def execute(
    cores: Sequence[Core],
    external: External,
    instructions: Sequence[Sequence[Instruction]],
    order: Iterable[tuple[int, int]],
) -> None:
    """Runs the instructions (one list for each core) in `order`: pairs of core and index.

    Errors: StreamError that names the instruction and what it cannot do.
    """
    for core, index in order:
        instruction = instructions[core][index]
        try:
            step(cores[core], external, instruction)
        except CoreError as error:
            raise StreamError(core, index, text_of(instruction), str(error)) from None


def step(core: Core, external: External, instruction: Instruction) -> None:
    """One instruction. Errors: CoreError."""
    _MEANINGS[type(instruction)](core, external, instruction)


def _set(core: Core, _external: External, instruction: Instruction) -> None:
    core.set(instruction)


def _nothing(_core: Core, _external: External, _instruction: Instruction) -> None:
    pass


def _inside(meaning: Callable[[Core, Any], None]) -> _Meaning:
    """Of an instruction that stays inside of its core."""
    return lambda core, _external, instruction: meaning(core, instruction)


_MEANINGS: dict[type[Instruction], _Meaning] = {
    **dict.fromkeys((Strides, LocalStrides, Window, Operands, Output, Inputs, Factors), _set),
    **dict.fromkeys((Halt, Fence, Sync), _nothing),
    Load: dma.load,
    Store: dma.store,
    Fill: _inside(dma.fill),
    Inflate: dma.inflate_weights,
    Gemm: _inside(mac.gemm),
    Depthwise: _inside(mac.depthwise),
    Requantize: _inside(vec.requantize),
    Elementwise: _inside(vec.elementwise),
    Pool: _inside(vec.pool),
    Lookup: _inside(vec.lookup),
    Softmax: _inside(vec.softmax),
}
