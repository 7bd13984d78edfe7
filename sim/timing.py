"""When each instruction starts and ends: five engines for each core, queues, tokens, banks and shared ports.

An event loop in whole cycles over precomputed durations (sim/durations.py). One instruction is dispatched in
a cycle, into its engine's queue where there is room; where the engine is idle, the first one waits for its
tokens, then for the banks it needs (an engine of lower number goes first), is busy for its duration, and
posts its tokens. Transfers that are on one port at a time share it max-min fairly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.durations import NO_PORT, Work, work
from sim.isa import LOCAL_TOKENS, TOKEN_NONE
from sim.port import SharedPort
from sim.stream import Program
from sim.threads import ENGINES, Threads

Times = NDArray[np.float64]
_SEMAPHORES = 32  # of a core, and of all cores together
_NEVER, _NOTHING = 1 << 62, -1
# What an instruction at an idle engine waits for.
_ARRIVES, _TOKENS, _BANKS = range(3)


@dataclass(frozen=True, slots=True)
class Spans:
    """Of one core, an entry for each instruction, in cycles.

    start, end: while its engine was busy with it. queue, token, bank: how long the idle engine waited before
    for the dispatcher, for tokens, for banks; bus: how much longer a transfer took than it would have alone.
    """

    engine: NDArray[np.int64]
    start: Times
    end: Times
    queue: Times
    token: Times
    bank: Times
    bus: Times


@dataclass(frozen=True, slots=True)
class Timing:
    """cycles: until all cores have halted."""

    cycles: int
    spans: tuple[Spans, ...]
    work: tuple[Work, ...]


def time_program(program: Program, config: NpuConfig) -> Timing:
    """Timing alone: no memory is read or written, no hazard looked for.

    Errors: StreamError for bits that are no instruction, where a register is not set, or where instructions
    wait for each other for ever.
    """
    if len(program.streams) > config.cores:
        raise ValueError(f"{len(program.streams)} streams for the {config.cores} cores of {config.name}")
    for core, stream in enumerate(program.streams):
        stream.check(core)
    works = tuple(work(s, config, core) for core, s in enumerate(program.streams))
    threads = Threads.of(program)
    loop = _Loop(threads, config, works)
    loop.run()
    columns = [np.array(c, np.float64) for c in (loop.start, loop.end, *loop.waited, loop.bus)]
    spans: list[Spans] = []
    for stream, first, last in zip(program.streams, threads.first, threads.first[1:], strict=False):
        spans.append(Spans(stream.engines, *(c[first:last] for c in columns)))
    return Timing(loop.halted, tuple(spans), works)


class _Costs:
    """What `Work` says of all instructions, as lists in the numbering of `Threads`.

    waits, posts: places in the list of all semaphores. banks: a bit for each bank of all cores. latency: from
    the start to the first burst; whole: to the end, alone on the port; most: the part of the port that it can
    take.
    """

    def __init__(self, threads: Threads, works: Sequence[Work]) -> None:
        def joined(column: Callable[[Work], NDArray[Any]]) -> NDArray[Any]:
            return np.concatenate([column(w) for w in works])

        self.waits, self.posts = _semaphores(threads)
        width = max((mask.bit_length() for w in works for mask in w.banks), default=0)
        self.banks = [mask << width * core for core, w in enumerate(works) for mask in w.banks]
        issue, latency = joined(lambda w: w.issue), joined(lambda w: w.latency)
        cycles = joined(lambda w: w.cycles)
        self.port = joined(lambda w: w.port).tolist()
        port_cycles = joined(lambda w: w.port_cycles)
        self.port_cycles, self.most = port_cycles.tolist(), np.minimum(1.0, port_cycles / cycles).tolist()
        self.latency = (issue + latency).tolist()
        self.whole = (issue + latency + np.ceil(cycles).astype(np.int64)).tolist()


def _semaphores(threads: Threads) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    tokens = np.concatenate([s.tokens for s in threads.program.streams])
    own = tokens + _SEMAPHORES * (threads.core[:, None] + 1)
    numbers = np.where(tokens == TOKEN_NONE, -1, np.where(tokens >= LOCAL_TOKENS, tokens, own))
    sides: list[list[tuple[int, ...]]] = []
    for side in (numbers[:, :2], numbers[:, 2:]):
        # Few different pairs stand in many instructions.
        pairs, which = np.unique(side[:, 0] << 32 | side[:, 1] + 1, return_inverse=True)
        known = [(p >> 32, (p & 0xFFFFFFFF) - 1) for p in pairs.tolist()]
        known = [tuple(t for t in pair if t >= 0) for pair in known]
        sides.append([known[i] for i in which.tolist()])
    return sides[0], sides[1]


class _Loop:
    """Engines, queues, tokens and banks at one time after the other.

    Lists by instruction or engine are in the numbering of `Threads`. when: something happens to an engine:
    what stands first in its queue arrives, the first burst of its transfer comes, or it ends. stage: how far
    what stands first in an idle engine's queue has come; since: it is idle, or waits for one cause, from
    then on.
    """

    def __init__(self, threads: Threads, config: NpuConfig, works: Sequence[Work]) -> None:
        self.threads, self.depth, self.costs = threads, config.queue_depth, _Costs(threads, works)
        cores, count, length = len(works), len(threads.members), len(threads)
        self.thread_of = threads.thread.tolist()
        self.arrival = [0] * length
        self.queues: list[deque[int]] = [deque() for _ in range(count)]
        self.current = [_NOTHING] * count
        self.when = [_NEVER] * count
        self.stage = [_ARRIVES] * count
        self.joining = [False] * count
        self.since = [0] * count
        self.counts = [0] * (_SEMAPHORES * (cores + 1))
        self.busy = 0
        self.next = list(threads.first[:-1])
        self.dispatched = [-1] * cores
        # Of each core's dispatcher, the thread whose queue is full; all engines of the core must be idle.
        self.blocked = [_NOTHING] * cores
        self.fenced: set[int] = set()
        # Masks of threads: to look at now; that wait for a token, or for banks.
        self.woken, self.at_banks, self.at_token = 0, 0, [0] * len(self.counts)
        self.members: dict[int, tuple[int, ...]] = {}
        self.ports = (SharedPort(), SharedPort())
        self.start, self.end, self.bus = ([0.0] * length for _ in range(3))
        self.waited = [[0.0] * length for _ in range(3)]  # for the queue, for tokens, for banks
        self.halted = 0

    def run(self) -> None:
        for core in range(len(self.next)):
            self._dispatch(core, 0)
        when = self.when
        while (now := min(when)) != _NEVER:
            while now in when:
                # The first of those to which something happens now, again and again: one may move others.
                self._happen(when.index(now), now)
            self._start_all(now)
        for core, number in enumerate(self.next):
            if number < self.threads.first[core + 1]:
                self._deadlock(core)

    def _happen(self, thread: int, now: int) -> None:
        number, costs = self.current[thread], self.costs
        self.when[thread] = _NEVER
        if number == _NOTHING:
            self.woken |= 1 << thread
        elif self.joining[thread]:
            self.joining[thread] = False
            port = self.ports[costs.port[number]]
            for other, end in port.join(thread, costs.port_cycles[number], costs.most[number], now):
                self.when[other] = end
        else:
            self._end(thread, number, now)

    def _end(self, thread: int, number: int, now: int) -> None:
        costs, woken = self.costs, self.woken | self.at_banks | 1 << thread
        self.end[number] = now
        if costs.port[number] != NO_PORT:
            alone = self.start[number] + costs.whole[number]
            if now > alone:
                self.bus[number] = now - alone
            for other, end in self.ports[costs.port[number]].leave(thread, now):
                self.when[other] = end
        self.busy &= ~costs.banks[number]
        for token in costs.posts[number]:
            self.counts[token] += 1
            if self.at_token[token]:
                woken |= self.at_token[token]
                self.at_token[token] = 0
        self.current[thread], self.since[thread] = _NOTHING, now
        self.woken, self.at_banks = woken, 0

    def _start_all(self, now: int) -> None:
        """Starts what stands first in the queues of idle engines, where it, its tokens and its banks are
        there; those that nothing has happened to since they were looked at still wait."""
        woken, self.woken = self.woken, 0
        if (members := self.members.get(woken)) is None:
            members = tuple(t for t in range(len(self.queues)) if woken >> t & 1)
            self.members[woken] = members
        for thread in members:
            queue = self.queues[thread]
            if not queue or self.current[thread] != _NOTHING:
                continue
            number = queue[0]
            stage = self.stage[thread]
            if stage == _ARRIVES and not self._arrived(thread, number, now):
                continue
            if stage != _BANKS and not self._take_tokens(thread, number, now):
                continue
            if self.busy & self.costs.banks[number]:
                self.at_banks |= 1 << thread
                continue
            queue.popleft()
            self._start(thread, number, now)
            core = thread // ENGINES
            if self.blocked[core] == thread:
                self._dispatch(core, now)
        for core in tuple(self.fenced):
            self._dispatch(core, now)

    def _arrived(self, thread: int, number: int, now: int) -> bool:
        arrival = self.arrival[number]
        if arrival > now:
            self.when[thread] = arrival
            return False
        if arrival > self.since[thread]:
            self.waited[0][number] = arrival - self.since[thread]
            self.since[thread] = arrival
        self.stage[thread] = _TOKENS
        return True

    def _take_tokens(self, thread: int, number: int, now: int) -> bool:
        """All or none."""
        waits, counts = self.costs.waits[number], self.counts
        for token in waits:
            if not counts[token]:
                self.at_token[token] |= 1 << thread
                return False
        for token in waits:
            counts[token] -= 1
        self.waited[1][number] = now - self.since[thread]
        self.since[thread], self.stage[thread] = now, _BANKS
        return True

    def _start(self, thread: int, number: int, now: int) -> None:
        costs = self.costs
        self.busy |= costs.banks[number]
        self.current[thread], self.stage[thread] = number, _ARRIVES
        self.start[number], self.waited[2][number] = now, now - self.since[thread]
        if costs.port[number] == NO_PORT:
            self.when[thread] = now + costs.whole[number]
        else:
            self.when[thread], self.joining[thread] = now + costs.latency[number], True

    def _dispatch(self, core: int, now: int) -> None:
        number, end, last = self.next[core], self.threads.first[core + 1], self.dispatched[core]
        threads, queues = self.thread_of, self.queues
        self.blocked[core] = _NOTHING
        while number < end:
            thread = threads[number]
            if thread < 0:
                if not self._idle(core):
                    self.fenced.add(core)
                    break
                self.fenced.discard(core)
                last = max(last + 1, now)
                self.start[number] = self.end[number] = last
                self.halted = max(self.halted, last)
            else:
                queue = queues[thread]
                if len(queue) >= self.depth:
                    self.blocked[core] = thread
                    break
                last = max(last + 1, now)
                if not queue and self.current[thread] == _NOTHING:
                    self.when[thread] = last + 1
                self.arrival[number] = last + 1
                queue.append(number)
            number += 1
        self.next[core], self.dispatched[core] = number, last

    def _idle(self, core: int) -> bool:
        mine = range(core * ENGINES, (core + 1) * ENGINES)
        return not any(self.queues[t] or self.current[t] != _NOTHING for t in mine)

    def _deadlock(self, core: int) -> None:
        for queue in self.queues[core * ENGINES : (core + 1) * ENGINES]:
            if queue:
                raise self.threads.error(queue[0], "waits for ever for a semaphore that nobody posts")
