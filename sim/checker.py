"""Proof that a program is free of hazards, deadlocks and addresses out of bounds, whatever the timing."""

from __future__ import annotations

import numpy as np

from sim.config import NpuConfig
from sim.conflicts import Space, by_instruction, spaces
from sim.footprint import Accesses, accesses
from sim.isa import Memory
from sim.memories import memory_sizes
from sim.order import ENGINES, Order, execution_order, instruction_text, threads_of
from sim.stream import Program, StreamError


def check(program: Program, config: NpuConfig) -> Order:
    """An order in which the program may be executed.

    Errors: StreamError that names the first instruction that is wrong and why; ValueError for more streams
    than cores.
    """
    for core, stream in enumerate(program.streams):
        stream.decode(core)
    per_core = [accesses(s, config, core) for core, s in enumerate(program.streams)]
    for core, found in enumerate(per_core):
        _check_bounds(program, config, core, found)
    order = execution_order(program, config)
    _check_hazards(program, order, per_core)
    return order


def _check_bounds(program: Program, config: NpuConfig, core: int, found: Accesses) -> None:
    sizes = memory_sizes(config)
    limit = np.array([sizes[m] for m in Memory])[found.memory]
    beyond = np.flatnonzero(found.end > limit)
    if beyond.size:
        i = int(beyond[0])
        index = int(found.index[i])
        memory = Memory(int(found.memory[i]))
        reason = f"reaches {_range(found, i)} of {_name(memory)}, which ends at {sizes[memory]}"
        raise StreamError(core, index, instruction_text(program.streams[core], index, core), reason)


def _check_hazards(program: Program, order: Order, per_core: list[Accesses]) -> None:
    position = [[0] * len(s) for s in program.streams]
    for at, (core, index) in enumerate(order.sequence):
        position[core][index] = at
    threads = threads_of(program)
    table = dict(by_instruction(spaces(per_core, position, threads, order.place)))
    count = ENGINES * len(program.streams)
    known = [[0] * count for _ in range(count)]
    for core, index in order.sequence:
        if not (mine := table.get((core, index))):
            continue
        thread, clock = threads[core][index], order.clocks[core][index]
        for space, at in mine:
            for other in space.conflicting(at).tolist():
                if clock[int(space.thread[other])] <= int(space.place[other]):
                    raise _hazard(program, space, at, other)
        known[thread] = clock
        for space, at in mine:
            space.forget(known, at)


def _hazard(program: Program, space: Space, at: int, other: int) -> StreamError:
    a = space.accesses
    core, index = int(space.core[at]), int(a.index[at])
    before_core, before = int(space.core[other]), int(a.index[other])
    verbs = ("reads", "reading"), ("writes", "writing")
    text = instruction_text(program.streams[before_core], before, before_core)
    reason = (
        f"{verbs[int(a.write[at])][0]} {_range(a, at)} of {_name(space.memory)} while core {before_core}, "
        f"instruction {before} ({text}) may be {verbs[int(a.write[other])][1]} {_range(a, other)}: "
        "no chain of tokens puts one behind the other"
    )
    return StreamError(core, index, instruction_text(program.streams[core], index, core), reason)


def _range(a: Accesses, i: int) -> str:
    unit = "words" if a.memory[i] == Memory.ACCUMULATOR else "bytes"
    return f"{unit} {a.begin[i]}..{a.end[i] - 1}"


def _name(memory: Memory) -> str:
    if memory is Memory.ACCUMULATOR:
        return "the accumulators"
    return memory.name if memory >= Memory.SRAM else f"the {memory.name.lower()} memory"
