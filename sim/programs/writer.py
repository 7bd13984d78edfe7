"""A list of instructions that grows tile by tile, with two halves of each memory for even and odd tiles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sim.config import NpuConfig
from sim.isa import (
    Engine,
    Instruction,
    Load,
    LocalStrides,
    Memory,
    Output,
    Store,
    Strides,
)

# Where things lie in SRAM and DRAM before and after a program.
OUTPUTS_AT = 1 << 16
PARAMETERS_AT = 1 << 15
EXPONENTIALS_AT = 3 << 14
COMPRESSED_AT = 7 << 13
# The most tiles of a random program.
TILES = 6


@dataclass(slots=True)
class Writer:
    """Instructions so far, and the tile that is being written: even and odd tiles use different halves."""

    config: NpuConfig
    rng: np.random.Generator
    out: list[Instruction] = field(default_factory=list[Instruction])
    tile: int = 0

    def draw(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def add(self, *instructions: Instruction) -> None:
        self.out += instructions

    @property
    def quarter(self) -> int:
        return self.config.scratchpad.activation_bytes // 4

    @property
    def input_at(self) -> int:
        return self.quarter * (self.tile % 2)

    @property
    def output_at(self) -> int:
        return self.quarter * (2 + self.tile % 2)

    @property
    def weight_half(self) -> int:
        return self.config.scratchpad.weight_bytes // 2

    @property
    def accumulator_half(self) -> int:
        return self.config.scratchpad.accumulator_words // 2

    @property
    def parameter_half(self) -> int:
        return self.config.scratchpad.parameter_bytes // 2

    def load(
        self,
        memory: Memory,
        local: int,
        row: int,
        rows: int,
        *,
        dram: bool,
        at: int,
        pitch: int,
        inside: int | None = None,
    ) -> None:
        """rows of `row` bytes, `pitch` apart outside and `inside` apart in the core, dense if None.

        Activations come by LOAD, all else by FETCH."""
        engine = Engine.LOAD if memory is Memory.ACTIVATION else Engine.FETCH
        self.add(
            Strides(engine=engine, row=pitch, plane=0),
            LocalStrides(
                engine=engine,
                row=row if inside is None else inside,
                plane=0,
                element=1,
                element_bytes=1,
            ),
            Load(
                dram=dram,
                engine=engine,
                external=at,
                memory=memory,
                local=local,
                row_bytes=row,
                rows=rows,
                planes=1,
            ),
        )

    def store(self, local: int, row: int, rows: int, *, at: int, pitch: int) -> None:
        """Dense rows to rows `pitch` apart."""
        self.store_image(local, row, rows, 1, at=at, pixel=pitch, row=0)

    def store_image(
        self, local: int, size: int, columns: int, rows: int, *, at: int, pixel: int, row: int
    ) -> None:
        """Dense pixels of `size` bytes to places `pixel` apart in rows `row` apart."""
        self.add(
            Strides(engine=Engine.STORE, row=pixel, plane=row),
            LocalStrides(engine=Engine.STORE, row=size, plane=size * columns, element=1, element_bytes=1),
            Store(external=at, local=local, row_bytes=size, rows=columns, planes=rows),
        )


def output_register(w: Writer, bits: int, stride: int) -> Output:
    high = (1 << (bits - 1)) - 1 if bits > 1 else 1
    low = -high - 1 if bits > 1 else -1
    return Output(out_bits=bits, zero_point=w.draw(-1, 1), low=low, high=high, stride=stride, table=0)
