"""The meaning of each instruction, in one order that the program's tokens allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    match instruction:
        case Strides() | LocalStrides() | Window() | Operands() | Output() | Inputs() | Factors():
            core.set(instruction)
        case Load():
            dma.load(core, external, instruction)
        case Store():
            dma.store(core, external, instruction)
        case Fill():
            dma.fill(core, instruction)
        case Inflate():
            dma.inflate_weights(core, external, instruction)
        case Gemm():
            mac.gemm(core, instruction)
        case Depthwise():
            mac.depthwise(core, instruction)
        case Requantize():
            vec.requantize(core, instruction)
        case Elementwise():
            vec.elementwise(core, instruction)
        case Pool():
            vec.pool(core, instruction)
        case Lookup():
            vec.lookup(core, instruction)
        case Softmax():
            vec.softmax(core, instruction)
        case Halt() | Fence() | Sync():
            pass
        case _:
            raise TypeError(f"no meaning of {instruction.mnemonic}")
