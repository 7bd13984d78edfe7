"""Pairs of accesses that must not happen at the same time: one memory, common bytes, one of them writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.fields import Column
from sim.footprint import Accesses
from sim.isa import Memory
from sim.threads import Threads

_EXTERNAL = (Memory.SRAM, Memory.DRAM)


_COLUMNS = ("number", "thread", "place", "begin", "end", "write", "pitch", "width")


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Accesses to one memory (of one core, or of all cores), a row each: number of the instruction, and its
    thread and place (see `Threads`); the rest as in `Accesses`."""

    memory: Memory
    number: Column
    thread: Column
    place: Column
    begin: Column
    end: Column
    write: NDArray[np.bool_]
    pitch: Column
    width: Column

    def __len__(self) -> int:
        return len(self.number)

    def at(self, rows: Column | NDArray[np.bool_] | slice) -> Space:
        """Some rows, in their order."""
        return _space(self.memory, [getattr(self, name)[rows] for name in _COLUMNS])


def spaces(per_core: Sequence[Accesses], threads: Threads) -> list[Space]:
    """All accesses by memory; within one, ascending by the instruction's number."""
    number = np.concatenate([a.index + first for a, first in zip(per_core, threads.first, strict=False)])
    memory, begin, end, write, pitch, width = (
        np.concatenate([getattr(a, n) for a in per_core])
        for n in ("memory", "begin", "end", "write", "pitch", "width")
    )
    owner = np.where(np.isin(memory, _EXTERNAL), -1, threads.core[number])
    thread, place = threads.thread[number], threads.place[number]
    columns = (number, thread, place, begin, end, write, pitch, width)
    found: list[Space] = []
    for kind, of in sorted({*zip(memory.tolist(), owner.tolist(), strict=True)}):
        mine = np.flatnonzero((memory == kind) & (owner == of))
        found.append(_space(Memory(kind), [c[mine] for c in columns]))
    return found


def _space(memory: Memory, columns: Sequence[Column]) -> Space:
    number, thread, place, begin, end, write, pitch, width = columns
    return Space(memory, number, thread, place, begin, end, write == 1, pitch, width)


def meet(a: Space, i: Column, b: Space, j: Column) -> NDArray[np.bool_]:
    """Whether rows i of `a` and j of `b`, pair by pair, have common bytes."""
    hit = (a.begin[i] < b.end[j]) & (a.end[i] > b.begin[j])
    some = np.flatnonzero(hit)
    hit[some] = ~apart(a, i[some], b, j[some])
    return hit


def apart(a: Space, i: Column, b: Space, j: Column) -> NDArray[np.bool_]:
    """Whether two blocks of rows of one pitch, pair by pair, have no column in common."""
    pitch = a.pitch[i]
    ahead = (b.begin[j] - a.begin[i]) % np.maximum(pitch, 1)
    even = (pitch == b.pitch[j]) & (pitch > 0)
    return even & (ahead >= a.width[i]) & (pitch - ahead >= b.width[j])
