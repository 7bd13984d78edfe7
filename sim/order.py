"""What a program's tokens order: one possible order of execution, and for each instruction what must have
ended before it starts.

Each semaphore has one engine that posts and one that waits, so its n-th wait is for its n-th post whatever
the timing: all executions order the same pairs, and a program that ends once ends always. What must have
ended is a clock: a number of instructions of each thread. It grows along threads, and from posts to waits.
An engine that moves data may start an instruction before those in front of it have ended, but they end in
their order, and no byte moves before its turn: within a thread, its order is all that counts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.fields import Column
from sim.isa import LOCAL_TOKENS, MAX_TOKENS, TOKEN_NONE, Fence
from sim.stream import Program
from sim.threads import ENGINES, Threads, thread_name

Clock = list[int]
Clocks = NDArray[np.int64]
_SEMAPHORES = 32  # of a core, and of all cores together


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """sequence: the numbers of all instructions in an order that may happen. clocks [instructions, threads]:
    how many instructions of every thread must have ended before one starts (rows of the dispatcher's own are
    not filled in)."""

    threads: Threads
    sequence: Column
    clocks: Clocks

    def pairs(self) -> list[tuple[int, int]]:
        """The sequence as core and index."""
        core = self.threads.core[self.sequence]
        index = self.sequence - np.array(self.threads.first)[core]
        return list(zip(core.tolist(), index.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The n-th post and wait of each semaphore, in its order. nth: n; token: as instructions name it."""

    post: Column
    wait: Column
    nth: Column
    token: Column

    def needed(self, count: int) -> list[tuple[int, ...]]:
        """For each instruction, those whose posts it waits for."""
        needed: list[tuple[int, ...]] = [()] * count
        for post, wait in zip(self.post.tolist(), self.wait.tolist(), strict=True):
            needed[wait] += (post,)
        return needed


def execution_order(program: Program, config: NpuConfig) -> Order:
    """Errors: StreamError for a deadlock, a semaphore with two posting or two waiting engines, one that may
    count beyond its width, or one that is above 0 at the end."""
    if len(program.streams) > config.cores:
        raise ValueError(f"{len(program.streams)} streams for the {config.cores} cores of {config.name}")
    threads = Threads.of(program)
    pairs = paired(threads)
    needed = pairs.needed(len(threads))
    sequence = _as_written(threads, pairs)
    if sequence is None:
        sequence = _Execution(threads, pairs, needed, config.queue_depth).run()
    clocks = _clocks(threads, pairs, needed, sequence)
    _check_counts(threads, pairs, clocks)
    return Order(threads, sequence, clocks)


def paired(threads: Threads) -> Pairs:
    """Errors: StreamError for a semaphore with two posting or two waiting engines, or more of one than of
    the other."""
    sides: list[tuple[Column, Column]] = []
    tokens = np.concatenate([s.tokens for s in threads.program.streams])
    for columns, done in (((0, 1), "waited for"), ((2, 3), "posted")):
        number = np.repeat(np.arange(len(threads)), 2)
        token = tokens[:, columns].reshape(-1)
        some = (token != TOKEN_NONE) & (threads.thread[number] >= 0)
        number, token = number[some], token[some]
        owner = np.where(token < LOCAL_TOKENS, threads.core[number], len(threads.program.streams))
        key = owner * _SEMAPHORES + token
        order = np.argsort(key, kind="stable")
        number, key = number[order], key[order]
        thread = threads.thread[number]
        mixed = np.flatnonzero((key[1:] == key[:-1]) & (thread[1:] != thread[:-1]))
        if mixed.size:
            i = int(mixed[0])
            first, second = (thread_name(int(t)) for t in thread[i : i + 2])
            reason = f"is {done} by {first} and by {second}, in an order left to chance"
            raise threads.error(int(number[i + 1]), f"semaphore {key[i] % _SEMAPHORES} {reason}")
        sides.append((number, key))
    (waits, wait_keys), (posts, post_keys) = sides
    _check_partners(threads, waits, wait_keys, post_keys)
    begins = np.searchsorted(post_keys, post_keys)
    return Pairs(posts, waits, np.arange(len(posts)) - begins, post_keys % _SEMAPHORES)


def _check_partners(threads: Threads, waits: Column, wait_keys: Column, post_keys: Column) -> None:
    """Each semaphore must have as many waits as posts."""
    size = (len(threads.program.streams) + 1) * _SEMAPHORES
    waited, posted = (np.bincount(k, minlength=size) for k in (wait_keys, post_keys))
    lacking = np.flatnonzero(waited > posted)
    if lacking.size:
        key = int(lacking[0])
        at = int(np.searchsorted(wait_keys, key)) + int(posted[key])
        raise threads.error(int(waits[at]), _for_ever(key % _SEMAPHORES))
    left = np.flatnonzero(posted > waited)
    if left.size:
        key = int(left[0])
        core = 0 if key // _SEMAPHORES == len(threads.program.streams) else key // _SEMAPHORES
        reason = f"semaphore {key % _SEMAPHORES} ends at {posted[key] - waited[key]}: a wait is missing"
        raise threads.error(threads.first[core + 1] - 1, reason)


def _for_ever(token: int) -> str:
    return f"waits for semaphore {token} for ever: no instruction that can run posts it"


def _as_written(threads: Threads, pairs: Pairs) -> Column | None:
    """An order in which each core runs its stream as it is written, or None where there is none.

    It is proof enough that nothing waits for ever, whatever the depth of the queues: of all instructions that
    have not run yet, the first one in this order has its tokens, and nothing before it fills a queue.
    """
    own = threads.core[pairs.post] == threads.core[pairs.wait]
    if (pairs.post[own] >= pairs.wait[own]).any():
        return None
    posts, waits = pairs.post[~own], pairs.wait[~own]
    if not posts.size:
        return np.arange(len(threads))
    cores = range(len(threads.program.streams))
    meetings = [deque(sorted(zip(waits[m].tolist(), posts[m].tolist(), strict=True)))
                for m in (threads.core[waits] == c for c in cores)]  # fmt: skip
    reached = list(threads.first[:-1])
    parts: list[Column] = []
    owner = threads.core
    moved = True
    while moved:
        moved = False
        for core, mine in zip(cores, meetings, strict=True):
            while mine and mine[0][1] < reached[owner[mine[0][1]]]:
                mine.popleft()
            end = mine[0][0] if mine else threads.first[core + 1]
            if end > reached[core]:
                parts.append(np.arange(reached[core], end))
                reached[core], moved = end, True
    return np.concatenate(parts) if reached == threads.first[1:] else None


class _Execution:
    """Runs queues and tokens, without time."""

    def __init__(self, threads: Threads, pairs: Pairs, needed: list[tuple[int, ...]], depth: int) -> None:
        self.threads, self.pairs, self.needed, self.depth = threads, pairs, needed, depth
        self.thread = threads.thread.tolist()
        self.queues: list[deque[int]] = [deque() for _ in threads.members]
        self.next = list(threads.first[:-1])
        self.done = [False] * len(threads)
        self.sequence: list[int] = []

    def run(self) -> Column:
        cores = range(len(self.next))
        while sum(self._advance(core) for core in cores):
            pass
        for core in cores:
            if self.next[core] < self.threads.first[core + 1]:
                self._deadlock(core)
        return np.array(self.sequence)

    def _advance(self, core: int) -> bool:
        moved = self._dispatch(core)
        for queue in self.queues[core * ENGINES : (core + 1) * ENGINES]:
            while queue and all(self.done[p] for p in self.needed[queue[0]]):
                self._finish(queue.popleft())
                moved = True
        return moved

    def _finish(self, number: int) -> None:
        self.done[number] = True
        self.sequence.append(number)

    def _dispatch(self, core: int) -> bool:
        begin, end = self.next[core], self.threads.first[core + 1]
        while (number := self.next[core]) < end:
            thread = self.thread[number]
            if thread < 0:
                if any(self.queues[core * ENGINES : (core + 1) * ENGINES]):
                    break
                self._finish(number)
            elif len(self.queues[thread]) >= self.depth:
                break
            else:
                self.queues[thread].append(number)
            self.next[core] += 1
        return self.next[core] > begin

    def _deadlock(self, core: int) -> None:
        for queue in self.queues[core * ENGINES : (core + 1) * ENGINES]:
            if queue:
                lacking = [p for p in self.needed[queue[0]] if not self.done[p]]
                pair = (self.pairs.wait == queue[0]) & (self.pairs.post == lacking[0])
                raise self.threads.error(queue[0], _for_ever(int(self.pairs.token[pair][0])))


def _clocks(threads: Threads, pairs: Pairs, needed: list[tuple[int, ...]], sequence: Column) -> Clocks:
    count = len(threads.members)
    history = _History(count)
    known: list[Clock] = [[0] * count for _ in range(count)]
    after: dict[int, Clock] = {}
    posts = np.zeros(len(threads), bool)
    posts[pairs.post] = True
    fences = np.concatenate([s.opcodes for s in threads.program.streams]) == Fence.opcode
    seen = posts | fences
    seen[pairs.wait] = True
    thread_of, place_of, posting = threads.thread.tolist(), threads.place.tolist(), posts.tolist()
    for number in sequence[seen[sequence]].tolist():
        thread, place = thread_of[number], place_of[number]
        if thread < 0:
            _fence(threads, number, known, history)
            continue
        clock = known[thread]
        if needed[number]:
            for post in needed[number]:
                clock = [a if a > b else b for a, b in zip(clock, after[post], strict=True)]
            known[thread] = clock
            history.add(thread, place, clock)
        if posting[number]:
            after[number] = clock = list(clock)
            clock[thread] = place + 1
    clocks = np.zeros((len(threads), count), np.int64)
    for thread, members in enumerate(threads.members):
        clocks[members] = history.of(thread, len(members))
        clocks[members, thread] = np.arange(len(members))
    return clocks


def _fence(threads: Threads, number: int, known: list[Clock], history: _History) -> None:
    core = int(threads.core[number])
    mine = range(core * ENGINES, (core + 1) * ENGINES)
    joined = [max(column) for column in zip(*(known[t] for t in mine), strict=True)]
    for t in mine:
        joined[t] = int(np.searchsorted(threads.members[t], number))
    for t in mine:
        known[t] = joined
        history.add(t, joined[t], joined)


class _History:
    """Clocks of each thread, from the place on where they hold; the thread's own part is the place itself."""

    def __init__(self, count: int) -> None:
        self.places: list[list[int]] = [[0] for _ in range(count)]
        self.clocks: list[list[Clock]] = [[[0] * count] for _ in range(count)]

    def add(self, thread: int, place: int, clock: Clock) -> None:
        self.places[thread].append(place)
        self.clocks[thread].append(clock)

    def of(self, thread: int, count: int) -> Clocks:
        last = np.searchsorted(self.places[thread], np.arange(count), side="right") - 1
        return np.array(self.clocks[thread], np.int64)[last]


def _check_counts(threads: Threads, pairs: Pairs, clocks: Clocks) -> None:
    """A semaphore holds at most what was posted, without the waits that must have ended before."""
    begin = np.arange(len(pairs.nth)) - pairs.nth
    # Waits pair with posts one by one, so the waiter of any pair is the semaphore's.
    waiter, poster = threads.thread[pairs.wait], threads.thread[pairs.post]
    after = clocks[pairs.post, waiter] + (waiter == poster)
    # Semaphore and place as one ascending number; no place reaches the next semaphore's.
    step = len(threads) + 1
    ended = np.searchsorted(begin * step + threads.place[pairs.wait], begin * step + after) - begin
    beyond = np.flatnonzero(pairs.nth + 1 - ended > MAX_TOKENS)
    if beyond.size:
        i = int(beyond[0])
        raise threads.error(int(pairs.post[i]), f"semaphore {pairs.token[i]} may count beyond {MAX_TOKENS}")
