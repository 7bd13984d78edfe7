"""What a core holds between two instructions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from compiler.numerics.element import Array
from sim.config import NpuConfig
from sim.functional.memory import Bytes, CoreError, Words
from sim.isa import Engine, Instruction, Memory

_I = TypeVar("_I", bound=Instruction)


@dataclass(slots=True)
class External:
    """Contents of SRAM and DRAM, which all cores and the host share."""

    sram: Bytes
    dram: Bytes

    @classmethod
    def of(cls, config: NpuConfig, sram: Array | None = None, dram: Array | None = None) -> External:
        """Zeros where no contents (uint8, at most the memory's size) are given; given arrays are copied."""
        return cls(
            _filled("SRAM", config.sram.size_bytes, sram), _filled("DRAM", config.dram.size_bytes, dram)
        )

    def port(self, dram: bool) -> Bytes:
        return self.dram if dram else self.sram


def _filled(name: str, size: int, contents: Array | None) -> Bytes:
    data = np.zeros(size, np.uint8)
    if contents is not None:
        if contents.size > size:
            raise ValueError(f"{contents.size} bytes do not fit the {size} of {name}")
        data[: contents.size] = np.asarray(contents, np.uint8).reshape(-1)
    return Bytes(name, data)


@dataclass(slots=True)
class Core:
    """Memories and registers (of each kind, one for each engine) of one core."""

    config: NpuConfig
    local: dict[Memory, Bytes]
    accumulators: Words
    registers: dict[type[Instruction], list[Instruction | None]] = field(
        default_factory=dict[type[Instruction], list[Instruction | None]]
    )

    @classmethod
    def of(cls, config: NpuConfig) -> Core:
        pads = config.scratchpad
        sizes = {
            Memory.ACTIVATION: pads.activation_bytes,
            Memory.WEIGHT: pads.weight_bytes,
            Memory.PARAMETER: pads.parameter_bytes,
            Memory.TABLE: pads.table_bytes,
        }
        local = {
            m: Bytes(f"the {m.name.lower()} memory", np.zeros(n, np.uint8), bytearray(n))
            for m, n in sizes.items()
        }
        words = pads.accumulator_words
        return cls(config, local, Words(np.zeros(words, np.int32), bytearray(words)))

    @property
    def activation(self) -> Bytes:
        return self.local[Memory.ACTIVATION]

    def set(self, register: Instruction) -> None:
        engine = register.runs_on
        assert engine is not None
        self.registers.setdefault(type(register), [None] * len(Engine))[engine] = register

    def get(self, cls: type[_I], engine: Engine) -> _I:
        """The register of an engine; errors: CoreError where nobody has set it."""
        held = self.registers.get(cls)
        register = None if held is None else held[engine]
        if register is None:
            raise CoreError(f"comes before any {cls.mnemonic} of {engine.name}")
        assert isinstance(register, cls)
        return register
