"""Several cores: whatever they do to each other's data, tokens suffice, for as many as can be configured."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.checker import check
from sim.config import MAX_CORES, NpuConfig, load_config
from sim.functional.core import Core, External
from sim.functional.execute import step
from sim.isa import Engine, Fill, Instruction, Load, LocalStrides, Memory, Store, Strides
from sim.semaphores import SHARED, Semaphores
from sim.simulate import simulate
from sim.stream import Stream, StreamError
from sim.threads import ENGINES
from sim.timing import time_program
from sim.tokens import insert_tokens

_BYTES = 256  # of SRAM and of each core that programs touch
_MOVERS = (Engine.LOAD, Engine.FETCH, Engine.STORE)
Written = list[tuple[int, Instruction]]


def configured(cores: int, outstanding: int = 4) -> NpuConfig:
    config = load_config("npu-512")
    dma = replace(config.dma, outstanding_instructions=outstanding)
    small = {name: replace(getattr(config, name), size_bytes=_BYTES) for name in ("sram", "dram")}
    return replace(config, cores=cores, dma=dma, **small)


@st.composite
def programs(draw: st.DrawFn, cores: int) -> Written:
    """All cores fill some of their memory, then rows move between them and SRAM, anyhow."""
    written: Written = []
    for core in range(cores):
        for engine in _MOVERS:
            written += [
                (core, Strides(engine=engine, row=0, plane=0)),
                (core, LocalStrides(engine=engine, row=0, plane=0, element=1, element_bytes=1)),
            ]
        fill = Fill(
            engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=_BYTES, rows=1, planes=1,
            pattern=257 * (core + 1),
        )  # fmt: skip
        written.append((core, fill))
    places = st.integers(0, _BYTES - 1)
    moves = st.tuples(st.integers(0, cores - 1), st.sampled_from(_MOVERS), places, places, places)
    for core, engine, external, local, length in draw(st.lists(moves, min_size=1, max_size=60)):
        size = 1 + min(length, _BYTES - 1 - external, _BYTES - 1 - local)
        if engine is Engine.STORE:
            move = Store(external=external, local=local, row_bytes=size, rows=1, planes=1)
        else:
            load = Load(engine=engine, external=external, memory=Memory.ACTIVATION, local=local, row_bytes=1,
                        rows=1, planes=1)  # fmt: skip
            move = replace(load, row_bytes=size)
        written.append((core, move))
    return written


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, MAX_CORES), st.sampled_from([1, 4]))
def test_what_many_cores_share_has_its_order(data: st.DataObject, cores: int, outstanding: int) -> None:
    """Contents are those of the instructions one by one; short queues end too."""
    config = configured(cores, outstanding)
    written = data.draw(programs(cores))
    program = insert_tokens(written, config).program
    sram = np.arange(_BYTES).astype(np.uint8)
    external, expected = External.of(config, sram), External.of(config, sram)
    run = simulate(program, config, external)
    one_by_one = [Core.of(config) for _ in range(cores)]
    for core, instruction in written:
        step(one_by_one[core], expected, instruction)
    assert np.array_equal(external.sram.data, expected.sram.data)
    for mine, other in zip(run.cores, one_by_one, strict=True):
        assert np.array_equal(mine.activation.data, other.activation.data)
    short = replace(config, queue_depth=1)
    check(program, short)
    assert time_program(program, short).cycles > 0


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(3, MAX_CORES), st.sampled_from(["waits", "posts"]))
def test_no_token_between_cores_is_too_much(data: st.DataObject, cores: int, side: str) -> None:
    """Whichever is left out, relays' included: the checker says so."""
    config = configured(cores)
    program = insert_tokens(data.draw(programs(cores)), config).program
    bodies = [s.decode(core) for core, s in enumerate(program.streams)]
    carriers = [(c, i) for c, body in enumerate(bodies) for i, x in enumerate(body) if getattr(x, side)]
    if not carriers:
        return
    core, at = data.draw(st.sampled_from(carriers))
    bodies[core][at] = replace(bodies[core][at], **{side: getattr(bodies[core][at], side)[1:]})
    with pytest.raises(StreamError):
        check(replace(program, streams=tuple(Stream.encode(b) for b in bodies)), config)


@pytest.mark.parametrize("cores", range(1, MAX_CORES + 1))
def test_every_engine_that_stores_or_loads_reaches_every_other(cores: int) -> None:
    """Whichever pairs come first: all neighbours on a path have a semaphore of their own, between them only
    STORE."""
    threads = [core * ENGINES + e for core in range(cores) for e in _MOVERS]
    for order in (list(permutations(threads, 2)), list(permutations(threads[::-1], 2))):
        found = Semaphores(cores)
        for before, after in order:
            path = found.path(before, after)
            assert (path[0], path[-1]) == (before, after)
            assert all(t % ENGINES == Engine.STORE for t in path[1:-1])
            numbers = [found.between(a, b) for a, b in pairwise(path)]
            assert len(set(path)) == len(path) and all(0 <= n < 31 for n in numbers)
        assert len(found.shared) == len(set(found.shared.values())) <= SHARED


def test_two_cores_need_no_relays() -> None:
    """One of two that meet is a STORE."""
    meeting = [(a, b) for a in _MOVERS for b in _MOVERS if Engine.STORE in (a, b)]
    found = Semaphores(2)
    for a, b in meeting:
        for before, after in ((a, ENGINES + b), (ENGINES + b, a)):
            assert len(found.path(before, after)) == 2


def test_semaphores_join_as_many_cores_as_can_be_configured() -> None:
    assert MAX_CORES == SHARED
    with pytest.raises(ValueError, match="12 cores: 11 shared semaphores join no more than 11 cores"):
        Semaphores(MAX_CORES + 1)
