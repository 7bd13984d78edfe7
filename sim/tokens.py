"""Tokens for a program that was written as if each instruction ended before the next one began.

For each instruction, the last instruction of every other engine that it must come after (a common byte that
one of them writes) is looked up; what is not known already through other tokens gets one. A semaphore belongs
to one pair of engines, so the n-th wait meets the n-th post. Where two engines of different cores have none
(see sim/semaphores.py), others pass the token on: each with a `Sync` that waits and posts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.conflicts import Space, apart, spaces
from sim.fields import Column
from sim.footprint import accesses
from sim.isa import TOKEN_NONE, Engine, Fence, Halt, Instruction, Sync
from sim.order import Clock
from sim.semaphores import Semaphores
from sim.stream import Program, Stream
from sim.threads import ENGINES, Threads

_BLOCK = 256  # instructions whose accesses are compared together
_PAIRS = 1 << 20  # of accesses that are held at once
_Lists = list[list[int]]


@dataclass(frozen=True, slots=True)
class Synchronised:
    """A program. origin: for each core and instruction, the number of the given one that it comes from, or
    that a token is passed on for (-1: none)."""

    program: Program
    origin: tuple[tuple[int, ...], ...]


def insert_tokens(instructions: Sequence[tuple[int, Instruction]], config: NpuConfig) -> Synchronised:
    """The program of (core, instruction) pairs, which are given in the order that their results must respect,
    without tokens and without `Halt`. The order within a core is kept.

    Errors: ValueError where an instruction carries tokens already, or for more cores than semaphores join;
    StreamError where a register is not set.
    """
    cores = 1 + max((core for core, _ in instructions), default=0)
    lists: list[list[Instruction]] = [[] for _ in range(cores)]
    position: _Lists = [[] for _ in range(cores)]
    for at, (core, instruction) in enumerate(instructions):
        if instruction.waits or instruction.posts:
            raise ValueError(f"{instruction.mnemonic}: tokens are inserted into streams without any")
        if isinstance(instruction, Halt):
            raise ValueError("halt is added at the end of each stream")
        lists[core].append(instruction)
        position[core].append(at)
    bare = Program.of(*lists)
    for at in position:
        at.append(len(instructions))
    threads = Threads.of(bare)
    inserted = _Insertion(threads, np.concatenate(position), config)
    inserted.run()
    streams: list[Stream] = []
    origin: list[tuple[int, ...]] = []
    for core, (stream, at) in enumerate(zip(bare.streams, position, strict=True)):
        mine = slice(threads.first[core], threads.first[core + 1])
        relays: dict[int, list[_Relay]] = defaultdict(list)
        for relay in inserted.relays[core]:
            relays[bisect_left(at, relay.written)].append(relay)
        carried, source = _carried(stream, [*at[:-1], -1], inserted.waits[mine], inserted.posts[mine], relays)
        streams.append(carried)
        origin.append(source)
    return Synchronised(Program(tuple(streams)), tuple(origin))


@dataclass(frozen=True, slots=True)
class _Poster:
    """An instruction or relay of a thread. known: of each thread, how many instructions have ended when it
    has."""

    thread: int
    posts: list[int]
    known: Clock


@dataclass(frozen=True, slots=True)
class _Relay:
    """A `Sync` that passes a token on, in front of instruction `written` of the given order."""

    written: int
    waits: list[int]
    poster: _Poster


class _Insertion:
    """Walks through all instructions in the order that they were given in.

    written: the place of each instruction in that order. known: of each thread, how many instructions of all
    threads have ended before whatever it starts from now on.
    """

    def __init__(self, threads: Threads, written: Column, config: NpuConfig) -> None:
        self.threads, self.written = threads, written
        count = len(threads.members)
        per_core = [accesses(s, config, core) for core, s in enumerate(threads.program.streams)]
        self.recents = [_Recent(s, written, count) for s in spaces(per_core, threads)]
        self.known: list[Clock] = [[0] * count for _ in range(count)]
        self.ends: list[list[Clock]] = [[] for _ in range(count)]
        self.members = [m.tolist() for m in threads.members]
        self.semaphores = Semaphores(count // ENGINES)
        self.waits: _Lists = [[] for _ in range(len(threads))]
        self.posts: _Lists = [[] for _ in range(len(threads))]
        self.relays: list[list[_Relay]] = [[] for _ in range(count // ENGINES)]

    def run(self) -> None:
        """Fills in waits and posts of each instruction, and what each core passes on."""
        order = np.argsort(self.written, kind="stable")
        for begin in range(0, len(order), _BLOCK):
            block = order[begin : begin + _BLOCK]
            needed = np.full((len(block), len(self.known)), -1)
            for recent in self.recents:
                recent.look_up(needed, begin, begin + len(block), self.known)
            threads = self.threads.thread[block].tolist()
            for number, thread, before in zip(block.tolist(), threads, needed.tolist(), strict=True):
                if thread < 0:
                    self._fence(number)
                else:
                    self._wait(number, thread, before)

    def _wait(self, number: int, thread: int, needed: list[int]) -> None:
        """needed: of each thread, the place of the last instruction that must have ended; -1: none."""
        known, members = self.known[thread], self.members
        late = [t for t, place in enumerate(needed) if place >= known[t] and t != thread]
        if len(late) > 1:  # the latest first: it may know of the others
            late.sort(key=lambda t: self.written[members[t][needed[t]]], reverse=True)
        posters: dict[int, _Poster] = {}
        for before in late:
            place = needed[before]
            if known[before] <= place:
                poster = self._poster(before, place, thread, int(self.written[number]))
                token = self.semaphores.between(poster.thread, thread)
                if token in posters:  # the relay that comes now is behind that one
                    posters[token].posts.remove(token)
                posters[token] = poster
                poster.posts.append(token)
                known = _joined(known, poster.known)
        self.waits[number] += posters
        self.known[thread] = known = list(known)
        known[thread] += 1
        self.ends[thread].append(known)

    def _poster(self, before: int, place: int, thread: int, written: int) -> _Poster:
        """What posts to a thread when instruction `place` of another one has ended: that itself, or the last
        relay on a path from there, or from the last thread on it that knows. written: of the waiting one."""
        poster = _Poster(before, self.posts[self.members[before][place]], self.ends[before][place])
        between = self.semaphores.path(before, thread)[1:-1]
        told = max((i for i, t in enumerate(between) if self.known[t][before] > place), default=-1)
        for at, other in enumerate(between[max(told, 0) :], max(told, 0)):
            waits: list[int] = []
            if at != told:
                waits.append(self.semaphores.between(poster.thread, other))
                poster.posts.extend(waits)
                self.known[other] = _joined(self.known[other], poster.known)
            poster = _Poster(other, [], self.known[other])
            self.relays[other // ENGINES].append(_Relay(written, waits, poster))
        return poster

    def _fence(self, number: int) -> None:
        core, index = self.threads.where(number)
        if self.threads.program.streams[core].opcodes[index] == Fence.opcode:
            mine = range(core * ENGINES, (core + 1) * ENGINES)
            joined = [max(column) for column in zip(*(self.known[t] for t in mine), strict=True)]
            for t in mine:
                self.known[t] = list(joined)


class _Recent:
    """Accesses to one memory that not everybody who comes there knows to have ended."""

    def __init__(self, space: Space, written: Column, count: int) -> None:
        at = written[space.number]
        order = np.argsort(at, kind="stable")
        self.space, self.at = space.at(order), at[order]
        self.visitors = np.unique(space.thread)
        self.count = count
        self.rows = np.zeros(0, np.int64)

    def look_up(self, needed: NDArray[np.int64], begin: int, end: int, known: Sequence[Clock]) -> None:
        """For instructions begin..end of the given order, raises `needed` [instruction, thread] to the place
        of the last instruction of each thread that conflicts with it and stands before it."""
        first, last = np.searchsorted(self.at, (begin, end))
        if first == last:
            return
        space = self.space
        self._forget(known)
        mine = np.arange(first, last)
        rows = np.concatenate([self.rows, mine])
        self.rows = rows = rows[np.argsort(space.thread[rows], kind="stable")]
        present, starts = np.unique(space.thread[rows], return_index=True)
        step = max(1, _PAIRS // len(rows))
        for some in (mine[i : i + step] for i in range(0, len(mine), step)):
            places = np.where(self._conflicts(some, rows), space.place[rows], -1)
            latest = np.full((len(some), self.count), -1)
            latest[:, present] = np.maximum.reduceat(places, starts, axis=1)
            np.maximum.at(needed, self.at[some] - begin, latest)

    def _conflicts(self, mine: Column, rows: Column) -> NDArray[np.bool_]:
        """[mine, rows]: whether a row comes before and has a common byte that one of them writes."""
        space, at = self.space, self.at
        hit = (
            (space.begin[rows] < space.end[mine, None])
            & (space.end[rows] > space.begin[mine, None])
            & (space.write[rows] | space.write[mine, None])
            & (at[rows] < at[mine, None])
        )
        if space.pitch.any():
            i, j = np.nonzero(hit)
            hit[i, j] = ~apart(space, rows[j], space, mine[i])
        return hit

    def _forget(self, known: Sequence[Clock]) -> None:
        """Drops what all other threads that come here know."""
        if self.rows.size:
            table = np.array(known)[self.visitors]
            # A thread knows of itself by its own order.
            table[np.arange(len(self.visitors)), self.visitors] = np.iinfo(np.int64).max
            ended = table.min(axis=0)[self.space.thread[self.rows]]
            self.rows = self.rows[self.space.place[self.rows] >= ended]


def _joined(a: Clock, b: Clock) -> Clock:
    return [x if x > y else y for x, y in zip(a, b, strict=True)]


def _carried(
    stream: Stream,
    numbers: Sequence[int],
    waits: _Lists,
    posts: _Lists,
    relays: Mapping[int, Sequence[_Relay]],
) -> tuple[Stream, tuple[int, ...]]:
    """The stream with its tokens and relays (of each index, those in front of it), and the origin of each
    instruction; what is beyond two waits and posts stands before and behind the instruction. numbers: of the
    given instructions."""
    source: list[int] = []
    origin: list[int] = []
    tokens: list[tuple[int, ...]] = []
    carriers: list[tuple[int, int]] = []  # places, and engines
    engines, none = stream.engines.tolist(), (TOKEN_NONE, TOKEN_NONE)
    for index, (taken, given) in enumerate(zip(waits, posts, strict=True)):
        for relay in relays.get(index, ()):
            carriers.append((len(tokens), relay.poster.thread % ENGINES))
            origin.append(relay.written)
            tokens.append((*(*relay.waits, *none)[:2], *(*relay.poster.posts, *none)[:2]))
        for i in range(2, len(taken), 2):
            carriers.append((len(tokens), engines[index]))
            tokens.append((*(*taken[i:], *none)[:2], *none))
        tokens.append((*(*taken, *none)[:2], *(*given, *none)[:2]))
        for i in range(2, len(given), 2):
            carriers.append((len(tokens), engines[index]))
            tokens.append((*none, *(*given[i:], *none)[:2]))
        source += [index] * (len(tokens) - len(source))
        origin += [numbers[index]] * (len(tokens) - len(origin))
    words = stream.words[source]
    if carriers:
        places, of = zip(*carriers, strict=True)
        words[list(places)] = Stream.encode([Sync(engine=Engine(e)) for e in of]).words
    return Stream(words).with_tokens(np.array(tokens)), tuple(origin)
