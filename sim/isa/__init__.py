"""The instruction set: one frozen dataclass per instruction, 128 bits each.

    bits 0..4 opcode, 5..7 flags, 8..27 two waits and two posts of 5 bits (31: none), 28..127 the body

A core has five engines, LOAD, FETCH, MAC, VEC and STORE, which run at the same time, each in its order.
Registers of an engine are written by its own instructions (`Window`, `Operands`, …) in that order: they need
no synchronisation. Addresses inside a core count bytes, of accumulators 32-bit words.

Codes of less than 8 bits are packed as compiler.numerics.packing says; every pixel or row begins at a byte.
Quantities that are widths (act_bits, …) are powers of two and stored as their logarithm.
"""

from __future__ import annotations

from sim.isa.base import (
    LOCAL_TOKENS,
    MAX_TOKENS,
    TOKEN_NONE,
    Engine,
    Instruction,
    InstructionError,
    Memory,
    fields_of,
)
from sim.isa.control import Fence, Halt, Sync
from sim.isa.dma import Fill, Inflate, Load, LocalStrides, Store, Strides
from sim.isa.mac import Depthwise, Gemm, Operands, Window
from sim.isa.vec import (
    Binary,
    Elementwise,
    Factors,
    Inputs,
    Lookup,
    Output,
    Pool,
    Reduce,
    Requantize,
    Softmax,
)

# At the index of their opcode.
INSTRUCTIONS: tuple[type[Instruction], ...] = (
    Halt,
    Fence,
    Sync,
    Strides,
    LocalStrides,
    Load,
    Store,
    Fill,
    Inflate,
    Window,
    Operands,
    Gemm,
    Depthwise,
    Output,
    Inputs,
    Factors,
    Requantize,
    Elementwise,
    Pool,
    Lookup,
    Softmax,
)
BY_MNEMONIC = {c.mnemonic: c for c in INSTRUCTIONS}

__all__ = [
    "BY_MNEMONIC",
    "INSTRUCTIONS",
    "LOCAL_TOKENS",
    "MAX_TOKENS",
    "TOKEN_NONE",
    "Binary",
    "Depthwise",
    "Elementwise",
    "Engine",
    "Factors",
    "Fence",
    "Fill",
    "Gemm",
    "Halt",
    "Inflate",
    "Inputs",
    "Instruction",
    "InstructionError",
    "Load",
    "LocalStrides",
    "Lookup",
    "Memory",
    "Operands",
    "Output",
    "Pool",
    "Reduce",
    "Requantize",
    "Softmax",
    "Store",
    "Strides",
    "Sync",
    "Window",
    "fields_of",
]
