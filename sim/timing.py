"""When each instruction starts and ends: five engines for each core, queues, tokens, banks and shared ports.

An event loop in whole cycles over precomputed durations (sim/durations.py). One instruction is dispatched in
a cycle, into its engine's queue where there is room; where the engine is idle, the first one waits for its
tokens, then for the banks it needs (an engine of lower number goes first), is busy for its duration, and
posts its tokens. Transfers that are on one port at a time share it max-min fairly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.durations import NO_PORT, Work, work
from sim.isa import LOCAL_TOKENS, TOKEN_NONE
from sim.port import SharedPort
from sim.stream import DISPATCHER, Program, StreamError
from sim.threads import ENGINES, instruction_text

Times = NDArray[np.float64]
# Events that are no end of an instruction: something to look at, the first burst of a transfer.
_WAKE, _JOIN = 0, -1


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

    Errors: StreamError where a register is not set, or instructions wait for each other for ever.
    """
    works = tuple(work(s, config, core) for core, s in enumerate(program.streams))
    return _Loop(program, config, works).run()


@dataclass(slots=True)
class _Thread:
    """One engine of one core. queue: (index, first cycle in it); current: the instruction that runs. waiting:
    it is idle, and what stands first in the queue has been looked at; since: idle, or waiting for one cause,
    from then on."""

    core: int
    queue: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    current: int = -1
    running: bool = False
    waiting: bool = False
    holds_tokens: bool = False
    since: int = 0
    version: int = 0
    wake: int = -1


class _Loop:
    def __init__(self, program: Program, config: NpuConfig, works: Sequence[Work]) -> None:
        if len(program.streams) > config.cores:
            raise ValueError(f"{len(program.streams)} streams for the {config.cores} cores of {config.name}")
        self.program, self.config, self.works = program, config, works
        cores = range(len(program.streams))
        self.engines = [s.engines.tolist() for s in program.streams]
        self.tokens = [
            [tuple(t if t >= LOCAL_TOKENS else t + 32 * (core + 1) for t in row) for row in s.tokens.tolist()]
            for core, s in enumerate(program.streams)
        ]
        self.issue = [w.issue.tolist() for w in works]
        self.cycles = [w.cycles.tolist() for w in works]
        self.port_of = [w.port.tolist() for w in works]
        self.latency = [w.latency.tolist() for w in works]
        self.port_cycles = [w.port_cycles.tolist() for w in works]
        self.banks = [w.banks for w in works]
        self.threads = [_Thread(core) for core in cores for _ in range(ENGINES)]
        self.semaphores = [0] * (32 * (len(program.streams) + 1))
        self.busy_banks = [0] * len(program.streams)
        self.next = [0] * len(program.streams)
        self.dispatched = [-1] * len(program.streams)
        self.ports = [SharedPort(), SharedPort()]
        self.events: list[tuple[int, int, int]] = []  # time, thread, version of its end
        # start, end, queue, token, bank, bus
        self.record = [[[0.0] * len(s) for _ in range(6)] for s in program.streams]
        self.halted = 0

    def run(self) -> Timing:
        for core in range(len(self.program.streams)):
            self._dispatch(core, 0)
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, number, version = heappop(self.events)
                thread = self.threads[number]
                if version == _JOIN:
                    self._join_port(number, now)
                elif thread.running and version == thread.version:
                    self._end(number, now)
            for number, thread in enumerate(self.threads):
                if not thread.running and thread.queue:
                    self._try(number, now)
            for core in range(len(self.program.streams)):
                self._dispatch(core, now)
        for core, stream in enumerate(self.program.streams):
            if self.next[core] < len(stream):
                self._deadlock(core)
        spans = tuple(
            Spans(s.engines, *(np.array(column) for column in self.record[core]))
            for core, s in enumerate(self.program.streams)
        )
        return Timing(self.halted, spans, tuple(self.works))

    def _dispatch(self, core: int, now: int) -> None:
        engines, depth = self.engines[core], self.config.queue_depth
        index, last = self.next[core], self.dispatched[core]
        while index < len(engines):
            engine = engines[index]
            if engine == DISPATCHER:
                mine = self.threads[core * ENGINES : (core + 1) * ENGINES]
                if any(t.queue or t.running for t in mine):
                    break
                last = max(last + 1, now)
                self._mark(core, index, last)
            else:
                number = core * ENGINES + engine
                queue = self.threads[number].queue
                if len(queue) >= depth:
                    break
                last = max(last + 1, now)
                if not queue:
                    heappush(self.events, (last + 1, number, _WAKE))
                queue.append((index, last + 1))
            index += 1
        self.next[core], self.dispatched[core] = index, last

    def _mark(self, core: int, index: int, now: int) -> None:
        """A fence or halt."""
        record = self.record[core]
        record[0][index] = record[1][index] = float(now)
        self.halted = max(self.halted, now)

    def _try(self, number: int, now: int) -> None:
        """Starts what stands first in an idle engine's queue, if it, its tokens and its banks are there."""
        thread = self.threads[number]
        core = thread.core
        index, arrival = thread.queue[0]
        record = self.record[core]
        if arrival > now:
            if arrival != thread.wake:
                thread.wake = arrival
                heappush(self.events, (arrival, number, _WAKE))
            return
        if not thread.waiting:
            thread.waiting = True
            record[2][index] = max(0, arrival - thread.since)
            thread.since = max(thread.since, arrival)
        if not thread.holds_tokens:
            if not self._take_tokens(self.tokens[core][index][:2]):
                return
            thread.holds_tokens = True
            record[3][index] = now - thread.since
            thread.since = now
        banks = self.banks[core][index]
        if self.busy_banks[core] & banks:
            return
        self.busy_banks[core] |= banks
        thread.queue.popleft()
        thread.current, thread.running, thread.waiting, thread.holds_tokens = index, True, False, False
        thread.version += 1
        record[0][index], record[4][index] = now, now - thread.since
        begin = now + self.issue[core][index]
        if self.port_of[core][index] == NO_PORT:
            end = begin + ceil(self.cycles[core][index])
            heappush(self.events, (end, number, thread.version))
        else:
            heappush(self.events, (begin + self.latency[core][index], number, _JOIN))

    def _take_tokens(self, waits: tuple[int, ...]) -> bool:
        """All or none."""
        counts = self.semaphores
        if any(t != TOKEN_NONE and not counts[t] for t in waits):
            return False
        for t in waits:
            if t != TOKEN_NONE:
                counts[t] -= 1
        return True

    def _join_port(self, number: int, now: int) -> None:
        thread = self.threads[number]
        core, index = thread.core, thread.current
        port = self.ports[self.port_of[core][index]]
        port.join(number, self.port_cycles[core][index], self.cycles[core][index], now)
        self._reschedule(port, now)

    def _reschedule(self, port: SharedPort, now: int) -> None:
        for number, end in port.ends(now):
            thread = self.threads[number]
            thread.version += 1
            heappush(self.events, (end, number, thread.version))

    def _end(self, number: int, now: int) -> None:
        thread = self.threads[number]
        core, index = thread.core, thread.current
        record = self.record[core]
        record[1][index] = now
        port = self.port_of[core][index]
        if port != NO_PORT:
            alone = self.issue[core][index] + self.latency[core][index] + ceil(self.cycles[core][index])
            record[5][index] = max(0.0, now - record[0][index] - alone)
            self.ports[port].leave(number, now)
            self._reschedule(self.ports[port], now)
        self.busy_banks[core] &= ~self.banks[core][index]
        for token in self.tokens[core][index][2:]:
            if token != TOKEN_NONE:
                self.semaphores[token] += 1
        thread.running, thread.since = False, now

    def _deadlock(self, core: int) -> None:
        for number in range(core * ENGINES, (core + 1) * ENGINES):
            queue = self.threads[number].queue
            if queue:
                index = queue[0][0]
                text = instruction_text(self.program.streams[core], index, core)
                raise StreamError(core, index, text, "waits for ever for a semaphore that nobody posts")
