"""Pairs of accesses that must not happen at the same time: one memory, common bytes, one of them writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.fields import Column
from sim.footprint import Accesses
from sim.isa import Memory
from sim.order import Clock

_EXTERNAL = (Memory.SRAM, Memory.DRAM)


@dataclass(slots=True)
class Space:
    """All accesses to one memory in one order.

    core: of the instruction; thread: of its engine; place: its number within the thread. begin_at: accesses
    before it are known to have ended by all who come here."""

    memory: Memory
    accesses: Accesses
    core: Column
    thread: Column
    place: Column
    begin_at: int = 0
    visitors: list[int] = field(default_factory=list[int])

    def conflicting(self, at: int) -> NDArray[np.int64]:
        """Accesses before number `at` that conflict with it, those of its own thread left out."""
        a, window = self.accesses, slice(self.begin_at, at)
        hit = (
            (a.begin[window] < a.end[at])
            & (a.end[window] > a.begin[at])
            & (self.thread[window] != self.thread[at])
        )
        if not a.write[at]:
            hit &= a.write[window] == 1
        found = np.flatnonzero(hit) + self.begin_at
        return found[[not self._apart(int(i), at) for i in found]] if found.size and a.pitch[at] else found

    def _apart(self, i: int, j: int) -> bool:
        """Whether two blocks of rows of one pitch have no column in common."""
        a = self.accesses
        pitch = int(a.pitch[i])
        if pitch != a.pitch[j] or not pitch:
            return False
        ahead = int(a.begin[j] - a.begin[i]) % pitch
        return ahead >= a.width[i] and pitch - ahead >= a.width[j]

    def forget(self, known: Sequence[Clock], at: int) -> None:
        """Moves begin_at on, up to `at`. known[t]: how many instructions of each thread have ended before
        whatever thread t starts from now on."""
        while self.begin_at < at:
            thread, place = int(self.thread[self.begin_at]), int(self.place[self.begin_at])
            if not all(t == thread or known[t][thread] > place for t in self.visitors):
                return
            self.begin_at += 1


def spaces(
    per_core: Sequence[Accesses],
    position: Sequence[Sequence[int]],
    threads: Sequence[Sequence[int]],
    place: Sequence[Sequence[int]],
) -> list[Space]:
    """The accesses of all cores by memory, in the order of `position` (of each core and index)."""
    columns = [
        (np.full(len(a), core), *(np.array(x[core], np.int64)[a.index] for x in (position, threads, place)))
        for core, a in enumerate(per_core)
    ]
    core, at, thread, number = (np.concatenate(c) for c in zip(*columns, strict=True))
    joined = Accesses(
        *(np.concatenate([getattr(a, n) for a in per_core]) for n in Accesses.__dataclass_fields__)
    )
    owner = np.where(np.isin(joined.memory, _EXTERNAL), -1, core)
    found: list[Space] = []
    for memory, of in sorted({*zip(joined.memory.tolist(), owner.tolist(), strict=True)}):
        chosen = np.flatnonzero((joined.memory == memory) & (owner == of))
        chosen = chosen[np.argsort(at[chosen], kind="stable")]
        part = Accesses(*(getattr(joined, n)[chosen] for n in Accesses.__dataclass_fields__))
        visitors = sorted({int(t) for t in thread[chosen]})
        space = Space(Memory(memory), part, core[chosen], thread[chosen], number[chosen], 0, visitors)
        found.append(space)
    return found


def by_instruction(found: Sequence[Space]) -> Iterator[tuple[tuple[int, int], list[tuple[Space, int]]]]:
    """(core, index) -> its accesses as (space, number)."""
    table: dict[tuple[int, int], list[tuple[Space, int]]] = {}
    for space in found:
        for number, key in enumerate(zip(space.core.tolist(), space.accesses.index.tolist(), strict=True)):
            table.setdefault(key, []).append((space, number))
    yield from table.items()
