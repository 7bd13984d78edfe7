"""What a program's tokens order: one possible order of execution, and for each instruction what must have
ended before it starts.

Each semaphore has one engine that posts and one that waits, so its n-th wait is for its n-th post whatever
the timing: all executions order the same pairs, and a program that ends once ends always. Thread c * 5 + e
is engine e of core c.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.assembly import text_of
from sim.config import NpuConfig
from sim.isa import LOCAL_TOKENS, MAX_TOKENS, TOKEN_NONE, Engine
from sim.stream import DISPATCHER, Program, Stream, StreamError

ENGINES = len(Engine)
Clock = list[int]


@dataclass(frozen=True, slots=True)
class Order:
    """sequence: (core, index) of all instructions in an order that may happen. place: for each core and
    index, the instruction's number within its thread. clocks: for each core and index, how many instructions
    of every thread must have ended before it starts."""

    sequence: list[tuple[int, int]]
    place: list[list[int]]
    clocks: list[list[Clock]]


@dataclass(slots=True)
class _Semaphore:
    poster: int | None = None
    waiter: int | None = None
    posts: list[Clock] = field(default_factory=list[Clock])
    taken: list[int] = field(default_factory=list[int])  # places of the waits in their thread

    @property
    def count(self) -> int:
        return len(self.posts) - len(self.taken)


def instruction_text(stream: Stream, index: int, core: int) -> str:
    return text_of(Stream(stream.words[index : index + 1]).decode(core)[0])


def execution_order(program: Program, config: NpuConfig) -> Order:
    """Errors: StreamError for a deadlock, a semaphore with two posting or two waiting engines, one that may
    count beyond its width, or one that is above 0 at the end."""
    return _Execution(program, config).run()


class _Execution:
    def __init__(self, program: Program, config: NpuConfig) -> None:
        if len(program.streams) > config.cores:
            raise ValueError(f"{len(program.streams)} streams for the {config.cores} cores of {config.name}")
        self.program = program
        self.depth = config.queue_depth
        self.engines = [s.engines.tolist() for s in program.streams]
        self.tokens = [s.tokens.tolist() for s in program.streams]
        threads = range(ENGINES * len(program.streams))
        self.known: list[Clock] = [[0] * len(threads) for _ in threads]
        self.queues: list[deque[int]] = [deque() for _ in threads]
        self.next = [0] * len(program.streams)
        self.semaphores: dict[tuple[int, int], _Semaphore] = {}
        self.sequence: list[tuple[int, int]] = []
        self.place = [[0] * len(s) for s in program.streams]
        self.clocks: list[list[Clock]] = [[[] for _ in range(len(s))] for s in program.streams]

    def run(self) -> Order:
        cores = range(len(self.program.streams))
        while sum(self._advance(core) for core in cores):
            pass
        for core in cores:
            if self.next[core] < len(self.engines[core]):
                self._deadlock(core)
        for (core, number), semaphore in self.semaphores.items():
            if semaphore.count:
                last = len(self.engines[max(core, 0)]) - 1
                raise self._error(
                    max(core, 0), last, f"semaphore {number} ends at {semaphore.count}: a wait is missing"
                )
        return Order(self.sequence, self.place, self.clocks)

    def _advance(self, core: int) -> bool:
        moved = self._dispatch(core)
        for engine in range(ENGINES):
            queue = self.queues[core * ENGINES + engine]
            while queue and self._ready(core, queue[0]):
                self._execute(core, queue.popleft())
                moved = True
        return moved

    def _dispatch(self, core: int) -> bool:
        engines, begin = self.engines[core], self.next[core]
        while (index := self.next[core]) < len(engines):
            if engines[index] == DISPATCHER:
                if not self._fence(core, index):
                    break
            else:
                queue = self.queues[core * ENGINES + engines[index]]
                if len(queue) >= self.depth:
                    break
                queue.append(index)
            self.next[core] += 1
        return self.next[core] > begin

    def _fence(self, core: int, index: int) -> bool:
        """Whether all before it has ended; then all behind it knows so."""
        threads = range(core * ENGINES, (core + 1) * ENGINES)
        if any(self.queues[t] for t in threads):
            return False
        joined = [max(column) for column in zip(*(self.known[t] for t in threads), strict=True)]
        for t in threads:
            self.known[t] = list(joined)
        self.clocks[core][index] = joined
        self.sequence.append((core, index))
        return True

    def _semaphore(self, core: int, number: int) -> _Semaphore:
        key = (core if number < LOCAL_TOKENS else -1, number)
        return self.semaphores.setdefault(key, _Semaphore())

    def _ready(self, core: int, index: int) -> bool:
        return all(
            t == TOKEN_NONE or self._semaphore(core, t).count > 0 for t in self.tokens[core][index][:2]
        )

    def _execute(self, core: int, index: int) -> None:
        thread = core * ENGINES + self.engines[core][index]
        clock = self.known[thread]
        place = clock[thread]
        for token in self.tokens[core][index][:2]:
            if token != TOKEN_NONE:
                semaphore = self._semaphore(core, token)
                semaphore.waiter = self._one(core, index, token, "waited for", semaphore.waiter, thread)
                clock = [max(a, b) for a, b in zip(clock, semaphore.posts[len(semaphore.taken)], strict=True)]
                semaphore.taken.append(place)
        self.clocks[core][index], self.place[core][index] = clock, place
        self.sequence.append((core, index))
        self.known[thread] = after = list(clock)
        after[thread] += 1
        for token in self.tokens[core][index][2:]:
            if token != TOKEN_NONE:
                self._post(core, index, token, thread, after)

    def _post(self, core: int, index: int, token: int, thread: int, after: Clock) -> None:
        semaphore = self._semaphore(core, token)
        semaphore.poster = self._one(core, index, token, "posted", semaphore.poster, thread)
        semaphore.posts.append(after)
        ended = 0 if semaphore.waiter is None else bisect_left(semaphore.taken, after[semaphore.waiter])
        if len(semaphore.posts) - ended > MAX_TOKENS:
            raise self._error(core, index, f"semaphore {token} may count beyond {MAX_TOKENS}")

    def _one(self, core: int, index: int, token: int, done: str, before: int | None, thread: int) -> int:
        if before not in (None, thread):
            first, second = (f"{Engine(t % ENGINES).name} of core {t // ENGINES}" for t in (before, thread))
            reason = f"semaphore {token} is {done} by {first} and by {second}, in an order left to chance"
            raise self._error(core, index, reason)
        return thread

    def _deadlock(self, core: int) -> None:
        for engine in range(ENGINES):
            queue = self.queues[core * ENGINES + engine]
            if queue:
                lacking = [
                    t for t in self.tokens[core][queue[0]][:2]
                    if t != TOKEN_NONE and not self._semaphore(core, t).count
                ]  # fmt: skip
                reason = f"waits for semaphore {lacking[0]} for ever: no instruction that can run posts it"
                raise self._error(core, queue[0], reason)

    def _error(self, core: int, index: int, reason: str) -> StreamError:
        return StreamError(core, index, instruction_text(self.program.streams[core], index, core), reason)


def threads_of(program: Program) -> Sequence[Sequence[int]]:
    """Thread of each instruction, -1 for the dispatcher's."""
    return [
        [core * ENGINES + e if e != DISPATCHER else -1 for e in s.engines.tolist()]
        for core, s in enumerate(program.streams)
    ]
