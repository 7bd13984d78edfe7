"""When each instruction starts and ends: five engines for each core, queues, tokens, banks and shared ports.

An event loop in whole cycles over precomputed durations (sim/durations.py). One instruction is dispatched in
a cycle, into its engine's queue where there is room; where the engine is idle, the first one waits for its
tokens, then for the banks it needs (an engine of lower number goes first), is busy for its duration, and
posts its tokens. LOAD, FETCH and STORE may begin several instructions, whose data move one behind the other
(sim/requests.py). Transfers that are on one port at a time share it max-min fairly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.durations import NO_PORT, Work, work
from sim.isa import LOCAL_TOKENS, TOKEN_NONE, Engine, Inflate
from sim.port import SharedPort
from sim.requests import Requests
from sim.stream import Program
from sim.threads import ENGINES, Threads

Times = NDArray[np.float64]
_SEMAPHORES = 32  # of a core, and of all cores together
_NEVER, _NOTHING = 1 << 62, -1
_MOVERS = (Engine.LOAD, Engine.STORE, Engine.FETCH)
# What an instruction at an idle engine waits for.
_ARRIVES, _TOKENS, _BANKS = range(3)


@dataclass(frozen=True, slots=True)
class Spans:
    """Of one core, an entry for each instruction, in cycles.

    start: when it left the queue; turn: when all before it on its engine had ended, too: from then on until
    its end, the engine was busy with it. queue, token, bank: how long the idle engine waited before for the
    dispatcher, for tokens, for banks; bus: how much longer a transfer took than it would have alone.
    """

    engine: NDArray[np.int64]
    start: Times
    turn: Times
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
    columns = [np.array(c, np.float64) for c in (loop.start, loop.turn, loop.end, *loop.waited, loop.bus)]
    spans: list[Spans] = []
    for stream, first, last in zip(program.streams, threads.first, threads.first[1:], strict=False):
        spans.append(Spans(stream.engines, *(c[first:last] for c in columns)))
    return Timing(loop.halted, tuple(spans), works)


class _Costs:
    """What `Work` says of all instructions, as lists in the numbering of `Threads`.

    waits, posts: places in the list of all semaphores. banks: a bit for each bank of all cores. issue: from
    the start to the first cycle of work; rest: from there, or from the first burst, to the end. alone: what
    takes a place among the instructions that an engine has begun; registers of LOAD, FETCH and STORE, and
    bare semaphores that post nothing, are done when they begin.
    """

    def __init__(self, threads: Threads, works: Sequence[Work]) -> None:
        def joined(column: Callable[[Work], NDArray[Any]]) -> NDArray[Any]:
            return np.concatenate([column(w) for w in works])

        self.waits, self.posts = _semaphores(threads)
        width = max((mask.bit_length() for w in works for mask in w.banks), default=0)
        self.banks = [mask << width * core for core, w in enumerate(works) for mask in w.banks]
        issue = joined(lambda w: w.issue)
        self.port = joined(lambda w: w.port).tolist()
        self.bursts = joined(lambda w: w.bursts).tolist()
        self.port_cycles = joined(lambda w: w.port_cycles).tolist()
        self.issue, self.rest = issue.tolist(), joined(lambda w: w.cycles).tolist()
        opcodes = np.concatenate([s.opcodes for s in threads.program.streams])
        self.decodes = (opcodes == Inflate.opcode).tolist()
        short = (issue == 0) & np.isin(threads.thread % ENGINES, _MOVERS)
        self.alone = [not s or bool(p) for s, p in zip(short.tolist(), self.posts, strict=True)]


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

    Lists by instruction or engine are in the numbering of `Threads`. current: the oldest of the instructions
    that an engine has begun, flights: all of them. when: something happens to an engine: the first burst of
    its transfer comes, or it ends; in the second half of the list, what stands first in its queue arrives or
    may begin. stage: how far what stands first in a queue has come; since: the engine is idle, or waits for
    one cause, from then on.
    """

    def __init__(self, threads: Threads, config: NpuConfig, works: Sequence[Work]) -> None:
        self.threads, self.depth, self.costs = threads, config.queue_depth, _Costs(threads, works)
        cores, count, length = len(works), len(threads.members), len(threads)
        self.thread_of = threads.thread.tolist()
        self.arrival = [0] * length
        self.queues: list[deque[int]] = [deque() for _ in range(count)]
        self.current = [_NOTHING] * count
        self.flights: list[deque[int]] = [deque() for _ in range(count)]
        self.moves = [t % ENGINES in _MOVERS for t in range(count)]
        self.most = [config.dma.outstanding_instructions if moves else 1 for moves in self.moves]
        self.free = [0] * count  # when an engine may begin the next
        self.requests = [Requests(config, t % ENGINES == Engine.STORE) for t in range(count)]
        self.when = [_NEVER] * (2 * count)
        self.stage = [_ARRIVES] * count
        self.joining = [False] * count
        self.since = [0] * count
        self.counts = [0] * (_SEMAPHORES * (cores + 1))
        self.busy, self.banks = 0, [0] * count
        self.next = list(threads.first[:-1])
        self.dispatched = [-1] * cores
        # Of each core's dispatcher, the thread whose queue is full; all engines of the core must be idle.
        self.blocked = [_NOTHING] * cores
        self.fenced: set[int] = set()
        # Masks of threads: to look at now; that wait for a token, or for banks.
        self.woken, self.at_banks, self.at_token = 0, 0, [0] * len(self.counts)
        self.members: dict[int, tuple[int, ...]] = {}
        self.ports = (SharedPort(), SharedPort())
        self.start, self.turn, self.end, self.bus = ([0.0] * length for _ in range(4))
        self.waited = [[0.0] * length for _ in range(3)]  # for the queue, for tokens, for banks
        self.halted = 0

    def run(self) -> None:
        for core in range(len(self.next)):
            self._dispatch(core, 0)
        when, count = self.when, len(self.current)
        while (now := min(when)) != _NEVER:
            while now in when:
                # The first of those to which something happens now, again and again: one may move others.
                event = when.index(now)
                when[event] = _NEVER
                if event >= count:
                    self.woken |= 1 << event - count
                elif self.joining[event]:
                    self._join(event, self.current[event], now)
                else:
                    self._end(event, self.current[event], now)
            self._start_all(now)
        for core, number in enumerate(self.next):
            if number < self.threads.first[core + 1]:
                self._deadlock(core)

    def _join(self, thread: int, number: int, now: int) -> None:
        """The first burst of a transfer can pass."""
        costs = self.costs
        self.joining[thread] = False
        port, cycles = costs.port[number], costs.port_cycles[number]
        end = self.requests[thread].begin(
            port, costs.bursts[number], costs.rest[number], costs.decodes[number], now
        )
        for other, ends in self.ports[port].join(thread, cycles, min(1.0, cycles / (end - now)), now):
            self.when[other] = ends

    def _end(self, thread: int, number: int, now: int) -> None:
        costs, woken = self.costs, self.woken | self.at_banks | 1 << thread
        self.end[number] = now
        if costs.port[number] != NO_PORT:
            self.bus[number] = self.requests[thread].end(now)
            for other, end in self.ports[costs.port[number]].leave(thread, now):
                self.when[other] = end
        for token in costs.posts[number]:
            self.counts[token] += 1
            if self.at_token[token]:
                woken |= self.at_token[token]
                self.at_token[token] = 0
        self.woken, self.at_banks = woken, 0
        flight = self.flights[thread]
        flight.popleft()
        if flight:
            kept = 0
            for other in flight:
                kept |= costs.banks[other]
            self.busy &= ~self.banks[thread] | kept
            self.banks[thread] = kept
            self._turn_to(thread, flight[0], now)
        else:
            self.busy &= ~self.banks[thread]
            self.banks[thread], self.current[thread], self.since[thread] = 0, _NOTHING, now

    def _turn_to(self, thread: int, number: int, now: int) -> None:
        """The engine is done with all before an instruction, which has begun."""
        costs = self.costs
        self.current[thread], self.turn[number] = number, now
        began, port = self.start[number] + costs.issue[number], costs.port[number]
        if port == NO_PORT:
            self.when[thread] = max(now, began) + ceil(costs.rest[number])
        else:
            self.joining[thread] = True
            self.when[thread] = self.requests[thread].ready(port, began, now)

    def _start_all(self, now: int) -> None:
        """Starts what stands first in queues, where it, a place among those that its engine has begun, its
        tokens and its banks are there; those that nothing has happened to since they were looked at still
        wait."""
        woken, self.woken = self.woken, 0
        if (members := self.members.get(woken)) is None:
            members = tuple(t for t in range(len(self.queues)) if woken >> t & 1)
            self.members[woken] = members
        queues, free, stages, flights = self.queues, self.free, self.stage, self.flights
        banks, alone, most = self.costs.banks, self.costs.alone, self.most
        for thread in members:
            queue = queues[thread]
            if not queue or free[thread] > now:
                continue
            number = queue[0]
            if len(flights[thread]) >= most[thread] and alone[number]:
                continue  # no place among those that the engine has begun
            stage = stages[thread]
            if stage == _ARRIVES and not self._arrived(thread, number, now):
                continue
            if stage != _BANKS and not self._take_tokens(thread, number, now):
                continue
            if self.busy & ~self.banks[thread] & banks[number]:
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
            self.when[thread + len(self.current)] = arrival
            return False
        if arrival > self.since[thread]:
            if self.current[thread] == _NOTHING:
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
        if self.current[thread] == _NOTHING:
            self.waited[1][number] = now - self.since[thread]
        self.since[thread], self.stage[thread] = now, _BANKS
        return True

    def _start(self, thread: int, number: int, now: int) -> None:
        costs, idle, flight = self.costs, self.current[thread] == _NOTHING, self.flights[thread]
        self.stage[thread] = _ARRIVES
        self.start[number] = now
        if idle:
            self.waited[2][number] = now - self.since[thread]
        if costs.alone[number]:
            self.busy |= costs.banks[number]
            self.banks[thread] |= costs.banks[number]
            flight.append(number)
            if idle:
                self._turn_to(thread, number, now)
        else:
            self.end[number] = now + 1
            self.turn[number] = now if idle else now + 1  # the engine is busy with others
            self.since[thread] = now + 1
        if self.moves[thread]:
            self.free[thread] = now + 1
            self._look_again(thread, now + 1, bool(flight) or costs.alone[number])

    def _look_again(self, thread: int, at: int, flying: bool) -> None:
        """When what stands next in the queue may begin; flying: whether an instruction will end, which is
        what a fence waits for."""
        queue = self.queues[thread]
        if not queue:
            if not flying:
                self.when[thread + len(self.current)] = at
            return
        number = queue[0]
        if self._has_place(thread, number):
            self.when[thread + len(self.current)] = max(at, self.arrival[number])

    def _has_place(self, thread: int, number: int) -> bool:
        """Among the instructions that an engine has begun."""
        return len(self.flights[thread]) < self.most[thread] or not self.costs.alone[number]

    def _dispatch(self, core: int, now: int) -> None:
        number, end, last = self.next[core], self.threads.first[core + 1], self.dispatched[core]
        threads, queues = self.thread_of, self.queues
        self.blocked[core] = _NOTHING
        while number < end:
            thread = threads[number]
            if thread < 0:
                if not self._idle(core, now):
                    self.fenced.add(core)
                    break
                self.fenced.discard(core)
                last = max(last + 1, now)
                self.start[number] = self.turn[number] = self.end[number] = last
                self.halted = max(self.halted, last)
            else:
                queue = queues[thread]
                if len(queue) >= self.depth:
                    self.blocked[core] = thread
                    break
                last = max(last + 1, now)
                if not queue and self._has_place(thread, number):
                    self.when[thread + len(self.current)] = last + 1
                self.arrival[number] = last + 1
                queue.append(number)
            number += 1
        self.next[core], self.dispatched[core] = number, last

    def _idle(self, core: int, now: int) -> bool:
        mine = range(core * ENGINES, (core + 1) * ENGINES)
        return not any(self.queues[t] or self.current[t] != _NOTHING or self.free[t] > now for t in mine)

    def _deadlock(self, core: int) -> None:
        for queue in self.queues[core * ENGINES : (core + 1) * ENGINES]:
            if queue:
                raise self.threads.error(queue[0], "waits for ever for a semaphore that nobody posts")
