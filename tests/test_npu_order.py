"""Orders and clocks: what a program's tokens say, held against all paths through its posts and waits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.config import load_config
from sim.isa import LOCAL_TOKENS, Fence, Halt, Instruction
from sim.order import execution_order
from sim.programs.random import KINDS, random_program
from sim.stream import Program, Stream, StreamError
from tests.npu_core import CONFIG

kinds, seeds = st.sampled_from(sorted(KINDS)), st.integers(0, 10_000)
DUAL = load_config("npu-512")


def _thread(core: int, instruction: Instruction) -> int | None:
    engine = instruction.runs_on
    return None if engine is None else 5 * core + engine


def _edges(bodies: list[list[Instruction]]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs (core, index) of what ends before what starts, directly."""
    edges: list[tuple[tuple[int, int], tuple[int, int]]] = []
    posts: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    waits: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for core, body in enumerate(bodies):
        last: dict[int, tuple[int, int]] = {}
        for index, instruction in enumerate(body):
            here, thread = (core, index), _thread(core, instruction)
            if thread is None:  # the dispatcher waits for all engines, and all behind it for the dispatcher
                edges += [(before, here) for before in last.values()]
                last = dict.fromkeys(range(5 * core, 5 * core + 5), here)
                continue
            if thread in last:
                edges.append((last[thread], here))
            last[thread] = here
            for tokens, of in ((instruction.posts, posts), (instruction.waits, waits)):
                for token in tokens:
                    of[core if token < LOCAL_TOKENS else -1, token].append(here)
    for key, mine in posts.items():
        edges += zip(mine, waits[key], strict=True)
    return edges


def _check(bodies: list[list[Instruction]], found_in: Program) -> None:
    order = execution_order(found_in, DUAL)
    sequence = order.pairs()
    place = {pair: n for n, pair in enumerate(sequence)}
    assert len(place) == sum(map(len, bodies))
    before: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    into: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for a, b in _edges(bodies):
        assert place[a] < place[b]
        into[b].append(a)
    for here in sequence:
        for a in into[here]:
            before[here] |= before[a] | {a}
    for core, body in enumerate(bodies):
        for index, instruction in enumerate(body):
            if _thread(core, instruction) is None:
                continue
            expected = np.zeros(5 * len(bodies), int)
            for c, i in before[core, index]:
                if (thread := _thread(c, bodies[c][i])) is not None:
                    expected[thread] += 1
            got = order.clocks[order.threads.first[core] + index]
            assert got.tolist() == expected.tolist(), (core, index)


@settings(max_examples=40, deadline=None)
@given(kinds, seeds, st.data())
def test_clocks_count_what_lies_on_a_path(kind: str, seed: int, data: st.DataObject) -> None:
    """Of programs as they are inserted, with a fence or without; and with a wait dispatched before its
    post, so that no core can run its stream as it is written."""
    body = random_program(kind, seed, CONFIG).program.streams[0].decode()[:-1]
    if data.draw(st.booleans()):
        body.insert(data.draw(st.integers(0, len(body))), Fence())
    pairs = [i for i, (x, y) in enumerate(pairwise(body)) if set(x.posts) & set(y.waits)]
    if pairs and data.draw(st.booleans()):
        at = data.draw(st.sampled_from(pairs))
        body[at], body[at + 1] = body[at + 1], body[at]
    bodies: list[list[Instruction]] = [[*body, Halt()]]
    _check(bodies, Program((Stream.encode(bodies[0]),)))


@settings(max_examples=20, deadline=None)
@given(kinds, seeds, kinds, seeds, st.data())
def test_clocks_reach_over_cores(kind: str, seed: int, other: str, second: int, data: st.DataObject) -> None:
    """Two programs of one core each, and shared semaphores from some of the first to some of the second."""
    bodies = [
        random_program(k, s, DUAL).program.streams[0].decode() for k, s in ((kind, seed), (other, second))
    ]
    for token in range(LOCAL_TOKENS, LOCAL_TOKENS + data.draw(st.integers(1, 3))):
        poster, waiter = data.draw(st.permutations([0, 1]))
        for core, name in ((poster, "posts"), (waiter, "waits")):
            free = [
                i for i, x in enumerate(bodies[core]) if x.runs_on is not None and len(getattr(x, name)) < 2
            ]
            at = data.draw(st.sampled_from(free))
            held = getattr(bodies[core][at], name)
            bodies[core][at] = replace(bodies[core][at], **{name: (*held, token)})
    program = Program(tuple(Stream.encode(b) for b in bodies))
    try:
        execution_order(program, DUAL)
    except StreamError as error:
        assert "for ever" in str(error)  # they wait for each other
        return
    _check(bodies, program)
