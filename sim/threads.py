"""All instructions of a program in one numbering, core behind core, and the engines that they run on.

Thread c * 5 + e is engine e of core c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.assembly import text_of
from sim.fields import Column
from sim.isa import Engine
from sim.stream import DISPATCHER, Program, Stream, StreamError

ENGINES = len(Engine)


@dataclass(frozen=True, slots=True, eq=False)
class Threads:
    """first: number of each core's first instruction, and the end. core, thread, place: of each instruction;
    thread is -1 for those of the dispatcher; place: its number within the thread. members: the numbers of
    each thread's instructions, ascending."""

    program: Program
    first: list[int]
    core: Column
    thread: Column
    place: Column
    members: list[Column]

    @classmethod
    def of(cls, program: Program) -> Threads:
        lengths = [len(s) for s in program.streams]
        core = np.repeat(np.arange(len(lengths)), lengths)
        engines = np.concatenate([s.engines for s in program.streams])
        thread = np.where(engines == DISPATCHER, -1, core * ENGINES + engines)
        members = [np.flatnonzero(thread == t) for t in range(ENGINES * len(lengths))]
        place = np.zeros(len(thread), np.int64)
        for mine in members:
            place[mine] = np.arange(len(mine))
        return cls(program, [0, *np.cumsum(lengths).tolist()], core, thread, place, members)

    def __len__(self) -> int:
        return len(self.thread)

    def where(self, number: int) -> tuple[int, int]:
        """Core and index."""
        core = int(self.core[number])
        return core, number - self.first[core]

    def text(self, number: int) -> str:
        core, index = self.where(number)
        return instruction_text(self.program.streams[core], index, core)

    def error(self, number: int, reason: str) -> StreamError:
        return StreamError(*self.where(number), self.text(number), reason)


def instruction_text(stream: Stream, index: int, core: int) -> str:
    return text_of(Stream(stream.words[index : index + 1]).decode(core)[0])


def thread_name(thread: int) -> str:
    return f"{Engine(thread % ENGINES).name} of core {thread // ENGINES}"
