"""Proof that a program is free of hazards, deadlocks and addresses out of bounds, whatever the timing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sim.config import NpuConfig
from sim.conflicts import Space, meet, spaces
from sim.fields import Column
from sim.footprint import Accesses, accesses
from sim.isa import Memory
from sim.memories import memory_sizes
from sim.order import Order, execution_order
from sim.stream import Program, StreamError
from sim.threads import Threads, instruction_text

_PAIRS = 1 << 20  # that are looked at together


def check(program: Program, config: NpuConfig) -> Order:
    """An order in which the program may be executed.

    Errors: StreamError that names the first instruction that is wrong and why; ValueError for more streams
    than cores.
    """
    for core, stream in enumerate(program.streams):
        stream.check(core)
    per_core = [accesses(s, config, core) for core, s in enumerate(program.streams)]
    for core, found in enumerate(per_core):
        _check_bounds(program, config, core, found)
    order = execution_order(program, config)
    _check_hazards(order, spaces(per_core, order.threads))
    return order


def _check_bounds(program: Program, config: NpuConfig, core: int, found: Accesses) -> None:
    sizes = memory_sizes(config)
    limit = np.array([sizes[m] for m in Memory])[found.memory]
    beyond = np.flatnonzero(found.end > limit)
    if beyond.size:
        i = int(beyond[0])
        index = int(found.index[i])
        memory = Memory(int(found.memory[i]))
        unit = "words" if memory is Memory.ACCUMULATOR else "bytes"
        reach = f"{unit} {found.begin[i]}..{found.end[i] - 1}"
        reason = f"reaches {reach} of {_name(memory)}, which ends at {sizes[memory]}"
        raise StreamError(core, index, instruction_text(program.streams[core], index, core), reason)


@dataclass(frozen=True, slots=True)
class _Hazard:
    """late, early: when the two come in an order that may happen; row: of the late one; other: of the early
    one."""

    late: int
    early: int
    space: Space
    row: int
    other: int


def _check_hazards(order: Order, found: list[Space]) -> None:
    """Refuses the first instruction, in the order that was found, that one before it may meet."""
    when = np.zeros(len(order.threads), np.int64)
    when[order.sequence] = np.arange(len(when))
    worst: _Hazard | None = None
    for space in found:
        at = when[space.number]
        for rows, others in _sides(space, order):
            for i, j in _at_once(space, order, rows, others):
                if worst is not None and at[i[0]] > worst.late:
                    break  # rows ascend: all that follow come later still
                hazard = _first_meeting(space, at, i, j)
                if hazard is not None and (worst is None or hazard.late < worst.late):
                    worst = hazard
    if worst is not None:
        raise _error(order.threads, worst)


def _sides(space: Space, order: Order) -> Iterator[tuple[Column, Column]]:
    """Rows of two threads, each ascending by place, of which all of one side write; every such pair once."""
    threads = [np.flatnonzero(space.thread == t) for t in range(len(order.threads.members))]
    for mine, others in combinations([rows for rows in threads if rows.size], 2):
        writes = space.write[mine]
        yield mine[writes], others
        yield mine[~writes], others[space.write[others]]


def _at_once(space: Space, order: Order, rows: Column, others: Column) -> Iterator[tuple[Column, Column]]:
    """Pairs of `rows` and `others`, each of one thread, that no chain of tokens orders: part by part.

    What of the other thread may run beside an instruction lies between what must have ended before it starts
    and what starts only when it has ended; clocks never fall along a thread.
    """
    if not (rows.size and others.size):
        return
    thread, another = int(space.thread[rows[0]]), int(space.thread[others[0]])
    begins = np.searchsorted(space.place[others], order.clocks[space.number[rows], another])
    ends = np.searchsorted(order.clocks[space.number[others], thread], space.place[rows], side="right")
    counts = np.maximum(ends - begins, 0)
    total = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while total[first] < total[-1]:
        # At least one row, and as many as make no more pairs than are held at once.
        last = max(first + 1, int(np.searchsorted(total, total[first] + _PAIRS, side="right")) - 1)
        each = counts[first:last]
        skipped = np.repeat(begins[first:last] - (total[first:last] - total[first]), each)
        if each.any():
            yield np.repeat(rows[first:last], each), others[np.arange(each.sum()) + skipped]
        first = last


def _first_meeting(space: Space, at: Column, i: Column, j: Column) -> _Hazard | None:
    hit = np.flatnonzero(meet(space, i, space, j))
    if not hit.size:
        return None
    early, late = np.minimum(at[i[hit]], at[j[hit]]), np.maximum(at[i[hit]], at[j[hit]])
    k = int(np.lexsort((early, late))[0])
    row, other = int(i[hit[k]]), int(j[hit[k]])
    if at[row] < at[other]:
        row, other = other, row
    return _Hazard(int(late[k]), int(early[k]), space, row, other)


def _error(threads: Threads, hazard: _Hazard) -> StreamError:
    space, at, other = hazard.space, hazard.row, hazard.other
    before = int(space.number[other])
    core, index = threads.where(before)
    verbs = ("reads", "reading"), ("writes", "writing")
    reason = (
        f"{verbs[int(space.write[at])][0]} {_range(space, at)} of {_name(space.memory)} while core {core}, "
        f"instruction {index} ({threads.text(before)}) may be {verbs[int(space.write[other])][1]} "
        f"{_range(space, other)}: no chain of tokens puts one behind the other"
    )
    return threads.error(int(space.number[at]), reason)


def _range(space: Space, i: int) -> str:
    unit = "words" if space.memory == Memory.ACCUMULATOR else "bytes"
    return f"{unit} {space.begin[i]}..{space.end[i] - 1}"


def _name(memory: Memory) -> str:
    if memory is Memory.ACCUMULATOR:
        return "the accumulators"
    return memory.name if memory >= Memory.SRAM else f"the {memory.name.lower()} memory"
