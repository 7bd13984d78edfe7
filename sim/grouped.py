"""An order of execution that tokens allow, in which groups of instructions (layers, say) come one after the
other as far as that can be.

Whatever the order that tokens allow, the results are the same: this one shows what memories hold when a group
has ended. An engine runs its instructions in their order, so what stands in front of a group's in the stream
comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from sim.fields import Column
from sim.order import paired
from sim.stream import Program
from sim.threads import ENGINES, Threads


def grouped_order(program: Program, groups: Sequence[Column]) -> list[tuple[int, int]]:
    """Pairs of core and index. groups: the number of each core's instructions' groups. Of what can run, the
    instruction of the lowest group does. For programs that `check` has passed."""
    threads = Threads.of(program)
    run = _Run(threads, np.concatenate(groups).tolist())
    return [threads.where(number) for number in run.sequence()]


class _Run:
    """lacking: posts that an instruction still waits for; woken: who waits for a post. heads: the place of
    each thread's next instruction; fences: of each core's dispatcher, that are to come."""

    def __init__(self, threads: Threads, groups: list[int]) -> None:
        self.threads, self.groups = threads, groups
        pairs = paired(threads)
        self.lacking = np.bincount(pairs.wait, minlength=len(threads)).tolist()
        self.woken: dict[int, list[int]] = {}
        for post, wait in zip(pairs.post.tolist(), pairs.wait.tolist(), strict=True):
            self.woken.setdefault(post, []).append(wait)
        self.thread = threads.thread.tolist()
        self.core = threads.core.tolist()
        self.members = [m.tolist() for m in threads.members]
        self.heads = [0] * len(self.members)
        cores = range(len(threads.program.streams))
        own = np.flatnonzero(threads.thread < 0)
        self.fences = [own[threads.core[own] == core][::-1].tolist() for core in cores]
        self.ready: list[tuple[int, int]] = []

    def sequence(self) -> list[int]:
        found: list[int] = []
        for thread in range(len(self.members)):
            self._offer(thread)
        for core in range(len(self.fences)):
            self._offer_fence(core)
        while self.ready:
            _, number = heappop(self.ready)
            found.append(number)
            self._finish(number)
        assert len(found) == len(self.threads), "the program has a deadlock"
        return found

    def _finish(self, number: int) -> None:
        core, thread = self.core[number], self.thread[number]
        if thread < 0:
            self.fences[core].pop()
            for each in range(core * ENGINES, (core + 1) * ENGINES):
                self._offer(each)
        else:
            self.heads[thread] += 1
            self._offer(thread)
        for wait in self.woken.get(number, ()):
            self.lacking[wait] -= 1
            if not self.lacking[wait] and self._head(self.thread[wait]) == wait:
                self._offer(self.thread[wait])
        self._offer_fence(core)

    def _head(self, thread: int) -> int | None:
        place, members = self.heads[thread], self.members[thread]
        return members[place] if place < len(members) else None

    def _offer(self, thread: int) -> None:
        """The thread's next instruction, if it can run."""
        number, fences = self._head(thread), self.fences[thread // ENGINES]
        if number is not None and not self.lacking[number] and not (fences and fences[-1] < number):
            heappush(self.ready, (self.groups[number], number))

    def _offer_fence(self, core: int) -> None:
        """The dispatcher's next instruction, when all in front of it have ended."""
        if not self.fences[core]:
            return
        number = self.fences[core][-1]
        heads = (self._head(t) for t in range(core * ENGINES, (core + 1) * ENGINES))
        if all(head is None or head > number for head in heads):
            heappush(self.ready, (self.groups[number], number))
