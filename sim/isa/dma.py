"""Instructions of LOAD, FETCH and STORE: between external memories and a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sim.fields import bits, flag
from sim.isa.base import ENGINE_BITS, Engine, Instruction, Memory

_STRIDED: dict[str, Any] = {
    "among": (Engine.LOAD, Engine.FETCH, Engine.STORE),
    "why": "strides belong to LOAD, FETCH and STORE",
}
_LOADING: dict[str, Any] = {"among": (Engine.LOAD, Engine.FETCH), "why": "it must be LOAD or FETCH"}
_LOADED: dict[str, Any] = {
    "among": (Memory.ACTIVATION, Memory.WEIGHT, Memory.PARAMETER, Memory.TABLE),
    "why": "LOAD and FETCH write ACTIVATION, WEIGHT, PARAMETER and TABLE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strides(Instruction):
    """Register of LOAD, FETCH or STORE: bytes between neighbouring rows and planes of the external memory."""

    opcode: ClassVar[int] = 3
    mnemonic: ClassVar[str] = "strides"
    engine: Engine = bits(ENGINE_BITS, **_STRIDED)
    row: int = bits(32)
    plane: int = bits(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStrides(Instruction):
    """Register of LOAD, FETCH or STORE: bytes between neighbouring rows, planes and elements inside the core.

    Elements of element_bytes each (1, 2 or 4) stay together; element = element_bytes keeps a row contiguous.
    Any other value moves single elements, which makes transposes.
    """

    opcode: ClassVar[int] = 4
    mnemonic: ClassVar[str] = "local_strides"
    engine: Engine = bits(ENGINE_BITS, **_STRIDED)
    row: int = bits(20)
    plane: int = bits(20)
    element: int = bits(20)
    element_bytes: int = bits(2, log2=True, among=(1, 2, 4), why="elements have 1, 2 or 4 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Instruction):
    """planes x rows x row_bytes from `external` of SRAM (or DRAM with the flag) to `local` of a memory.

    Uses `Strides` and `LocalStrides` of its engine, LOAD or FETCH.
    """

    opcode: ClassVar[int] = 5
    mnemonic: ClassVar[str] = "load"
    dram: bool = flag()
    engine: Engine = bits(ENGINE_BITS, **_LOADING)
    external: int = bits(32)
    memory: Memory = bits(3, **_LOADED)
    local: int = bits(20)
    row_bytes: int = bits(16, positive=True)
    rows: int = bits(12, positive=True)
    planes: int = bits(12, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store(Instruction):
    """planes x rows x row_bytes from `local` of the activation memory to `external` of SRAM or DRAM.

    Uses `Strides` and `LocalStrides` of STORE.
    """

    opcode: ClassVar[int] = 6
    engine_of_opcode: ClassVar[Engine | None] = Engine.STORE
    mnemonic: ClassVar[str] = "store"
    dram: bool = flag()
    external: int = bits(32)
    local: int = bits(20)
    row_bytes: int = bits(16, positive=True)
    rows: int = bits(12, positive=True)
    planes: int = bits(12, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill(Instruction):
    """Bytes of a pattern of two (even and odd places of a row), by LOAD or FETCH with its `LocalStrides`."""

    opcode: ClassVar[int] = 7
    mnemonic: ClassVar[str] = "fill"
    engine: Engine = bits(ENGINE_BITS, **_LOADING)
    memory: Memory = bits(3, **_LOADED)
    local: int = bits(20)
    row_bytes: int = bits(16, positive=True)
    rows: int = bits(12, positive=True)
    planes: int = bits(12, positive=True)
    pattern: int = bits(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflate(Instruction):
    """Loads packed_bytes and writes the raw_bytes that they stand for (see sim/compression.py)."""

    opcode: ClassVar[int] = 8
    mnemonic: ClassVar[str] = "inflate"
    dram: bool = flag()
    engine: Engine = bits(ENGINE_BITS, **_LOADING)
    external: int = bits(32)
    memory: Memory = bits(3, **_LOADED)
    local: int = bits(20)
    raw_bytes: int = bits(20, positive=True)
    packed_bytes: int = bits(20, positive=True)
