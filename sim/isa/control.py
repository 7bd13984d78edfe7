"""Instructions for the dispatcher, and for an engine's semaphores alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.fields import bits
from sim.isa.base import ENGINE_BITS, Engine, Instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Instruction):
    """The end of a core's stream: waits until all engines of the core are idle."""

    opcode: ClassVar[int] = 0
    mnemonic: ClassVar[str] = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence(Instruction):
    """Nothing behind it is dispatched before all engines of the core are idle."""

    opcode: ClassVar[int] = 1
    mnemonic: ClassVar[str] = "fence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Instruction):
    """Only waits and posts: for an engine's third and later semaphores at one place."""

    opcode: ClassVar[int] = 2
    mnemonic: ClassVar[str] = "sync"
    engine: Engine = bits(ENGINE_BITS)
