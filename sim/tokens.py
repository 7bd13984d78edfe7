"""Tokens for a program that was written as if each instruction ended before the next one began.

For each instruction, the last instruction of every other engine that it must come after (a common byte that
one of them writes) is looked up; what is not known already through other tokens gets one. A semaphore belongs
to one pair of engines, so the n-th wait meets the n-th post.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sim.config import NpuConfig
from sim.conflicts import by_instruction, spaces
from sim.footprint import accesses
from sim.isa import LOCAL_TOKENS, TOKEN_NONE, Fence, Halt, Instruction, Sync
from sim.order import ENGINES, Clock, threads_of
from sim.stream import Program, Stream


@dataclass(slots=True)
class _Tokens:
    waits: list[int] = field(default_factory=list[int])
    posts: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True)
class Synchronised:
    """A program. origin: for each core and instruction, the number of the given one that it comes from (-1:
    none)."""

    program: Program
    origin: tuple[tuple[int, ...], ...]


def insert_tokens(instructions: Sequence[tuple[int, Instruction]], config: NpuConfig) -> Synchronised:
    """The program of (core, instruction) pairs, which are given in the order that their results must respect,
    without tokens and without `Halt`. The order within a core is kept.

    Errors: ValueError where an instruction carries tokens already or shared semaphores do not suffice;
    StreamError where a register is not set.
    """
    cores = 1 + max((core for core, _ in instructions), default=0)
    lists: list[list[Instruction]] = [[] for _ in range(cores)]
    position: list[list[int]] = [[] for _ in range(cores)]
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
    tokens = _needed(bare, position, config)
    streams: list[Stream] = []
    origin: list[tuple[int, ...]] = []
    for mine, marks, at in zip(lists, tokens, position, strict=True):
        carried = [_carried(i, t) for i, t in zip([*mine, Halt()], marks, strict=True)]
        streams.append(Stream.encode(i for group in carried for i in group))
        comes_from = (n if n < len(instructions) else -1 for n in at)
        origin.append(tuple(n for n, group in zip(comes_from, carried, strict=True) for _ in group))
    return Synchronised(Program(tuple(streams)), tuple(origin))


def _needed(program: Program, position: Sequence[Sequence[int]], config: NpuConfig) -> list[list[_Tokens]]:
    threads = threads_of(program)
    count = ENGINES * len(program.streams)
    place, of_thread = _places(threads, count)
    found = spaces([accesses(s, config, c) for c, s in enumerate(program.streams)], position, threads, place)
    table = dict(by_instruction(found))
    tokens = [[_Tokens() for _ in range(len(s))] for s in program.streams]
    known: list[Clock] = [[0] * count for _ in range(count)]
    ends: list[list[Clock]] = [[] for _ in range(count)]
    semaphores = _Semaphores()
    order = sorted((at, core, i) for core, mine in enumerate(position) for i, at in enumerate(mine))
    for _, core, index in order:
        thread = threads[core][index]
        if thread < 0:
            _fence(program.streams[core], index, core, known)
            continue
        needed: dict[int, int] = {}
        for space, at in table.get((core, index), ()):
            for other in space.conflicting(at).tolist():
                before, number = int(space.thread[other]), int(space.place[other])
                needed[before] = max(needed.get(before, -1), number)
        # The latest first: it may know of the others.
        latest = sorted(needed.items(), key=lambda n: position[n[0] // ENGINES][of_thread[n[0]][n[1]]])
        for before, number in reversed(latest):
            if known[thread][before] <= number:
                token = semaphores.between(before, thread)
                tokens[core][index].waits.append(token)
                tokens[before // ENGINES][of_thread[before][number]].posts.append(token)
                known[thread] = [max(a, b) for a, b in zip(known[thread], ends[before][number], strict=True)]
        known[thread] = list(known[thread])
        known[thread][thread] += 1
        ends[thread].append(known[thread])
        for space, at in table.get((core, index), ()):
            space.forget(known, at)
    return tokens


def _places(threads: Sequence[Sequence[int]], count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Number of each instruction within its thread, and the indices of each thread's instructions."""
    place = [[0] * len(mine) for mine in threads]
    of_thread: list[list[int]] = [[] for _ in range(count)]
    for core, mine in enumerate(threads):
        for index, thread in enumerate(mine):
            if thread >= 0:
                place[core][index] = len(of_thread[thread])
                of_thread[thread].append(index)
    return place, of_thread


def _fence(stream: Stream, index: int, core: int, known: list[Clock]) -> None:
    if stream.opcodes[index] == Fence.opcode:
        mine = range(core * ENGINES, (core + 1) * ENGINES)
        joined = [max(column) for column in zip(*(known[t] for t in mine), strict=True)]
        for t in mine:
            known[t] = list(joined)


class _Semaphores:
    """Numbers of semaphores: one for each pair of engines of a core; shared ones as they are needed."""

    def __init__(self) -> None:
        self.shared: dict[tuple[int, int], int] = {}

    def between(self, before: int, after: int) -> int:
        a, b = before % ENGINES, after % ENGINES
        if before // ENGINES == after // ENGINES:
            return a * (ENGINES - 1) + b - (b > a)
        number = LOCAL_TOKENS + self.shared.setdefault((before, after), len(self.shared))
        if number >= TOKEN_NONE:
            raise ValueError(
                f"more than {TOKEN_NONE - LOCAL_TOKENS} pairs of engines of different cores meet"
            )
        return number


def _carried(instruction: Instruction, tokens: _Tokens) -> list[Instruction]:
    """The instruction with its tokens; what is beyond two waits and posts stands before and behind it."""
    engine = instruction.runs_on
    if engine is None:
        return [instruction]
    waits, posts = tokens.waits, tokens.posts
    before = [Sync(engine=engine, waits=tuple(waits[i : i + 2])) for i in range(2, len(waits), 2)]
    behind = [Sync(engine=engine, posts=tuple(posts[i : i + 2])) for i in range(2, len(posts), 2)]
    return [*before, replace(instruction, waits=tuple(waits[:2]), posts=tuple(posts[:2])), *behind]
