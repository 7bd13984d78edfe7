"""Fetches of constants, and when they happen if constants cost no more than what lies in SRAM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schedules.npu_dispatch import unbounded
from sim.config import NpuConfig
from sim.durations import work
from sim.isa import Engine, Inflate, Instruction, Load, LocalStrides, Memory, Sync, fields_of
from sim.stream import Program, Stream
from sim.timing import Times
from sim.tokens import Synchronised


@dataclass(frozen=True, slots=True)
class Written:
    """Instructions of a program with their cores, in the order that results must respect, and the number of
    each one's layer."""

    instructions: list[tuple[int, Instruction]]
    layers: list[int]

    def add(self, core: int, instruction: Instruction, layer: int) -> None:
        self.instructions.append((core, instruction))
        self.layers.append(layer)


@dataclass(frozen=True, slots=True)
class Demand:
    """A fetch of constants.

    number: in the program; external, size: bytes of DRAM; start, quick: when it would start and how long it
    would take with all constants in SRAM; slow: how long from DRAM; use: when the first instruction that may
    use it starts.
    """

    number: int
    core: int
    layer: int
    external: int
    size: int
    start: float
    quick: float
    slow: float
    use: float

    @property
    def key(self) -> tuple[int, int]:
        return self.external, self.size


def demanded(written: Written, constants: int) -> list[int]:
    """Numbers of the instructions that fetch constants, which begin at this byte of DRAM, into one row.

    Loads that spread the elements of a row are left alone: they depend on a register of their engine.
    """
    spread: set[tuple[int, Engine]] = set()
    found: list[int] = []
    for number, (core, i) in enumerate(written.instructions):
        match i:
            case LocalStrides():
                plain = i.element == i.element_bytes
                (spread.discard if plain else spread.add)((core, i.engine))
            case Load(dram=True, rows=1, planes=1) if (core, i.engine) not in spread:
                found += [number] if i.external >= constants else []
            case Inflate(dram=True):
                found += [number] if i.external >= constants else []
            case _:
                pass
    return found


def demand_of(number: int, written: Written, times: InstructionTimes) -> Demand:
    core, instruction = written.instructions[number]
    assert isinstance(instruction, (Load, Inflate))
    size = instruction.row_bytes if isinstance(instruction, Load) else instruction.packed_bytes
    start, quick, slow = (float(c[number]) for c in (times.start, times.quick, times.slow))
    engine = Engine.MAC if instruction.memory is Memory.WEIGHT else Engine.VEC
    users = (
        n
        for n in range(number, len(written.instructions))
        if written.instructions[n][0] == core and written.instructions[n][1].runs_on is engine
    )
    use = float(next((times.start[n] for n in users if times.quick[n] > 1), start + quick))
    return Demand(number, core, written.layers[number], instruction.external, size, start, quick, slow, use)


@dataclass(frozen=True, slots=True)
class InstructionTimes:
    """By number of an instruction: when it starts and how long it takes with all constants in SRAM, and how
    long it would take alone. cycles: of the program with all constants in SRAM."""

    start: Times
    quick: Times
    slow: Times
    cycles: int


def instruction_times(
    found: Synchronised, config: NpuConfig, demanded: list[int], count: int
) -> InstructionTimes:
    chosen = np.zeros(count + 1, bool)
    chosen[demanded] = True
    origins = [np.array(o, np.int64) for o in found.origin]
    streams: list[Stream] = []
    for stream, origin in zip(found.program.streams, origins, strict=True):
        words = stream.words.copy()
        for cls in (Load, Inflate):
            flag = next(f for f in fields_of(cls) if f.name == "dram")
            words[chosen[origin] & (stream.opcodes == cls.opcode), 0] &= ~np.uint64(1 << flag.low_bit)
        streams.append(Stream(words))
    timing = unbounded(Synchronised(Program(tuple(streams)), found.origin), config)
    result = InstructionTimes(np.zeros(count), np.zeros(count), np.zeros(count), timing.cycles)
    for core, (stream, origin, spans) in enumerate(
        zip(found.program.streams, origins, timing.spans, strict=True)
    ):
        mine = np.flatnonzero((origin >= 0) & (stream.opcodes != Sync.opcode))
        alone = work(stream, config, core)
        result.start[origin[mine]] = spans.start[mine]
        result.quick[origin[mine]] = (spans.end - spans.turn)[mine]
        result.slow[origin[mine]] = (alone.issue + alone.latency + np.ceil(alone.cycles))[mine]
    return result
