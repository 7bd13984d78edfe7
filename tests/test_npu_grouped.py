"""Programs run group by group, in an order that tokens allow."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.checker import check
from sim.config import MAX_CORES
from sim.functional.core import Core, External
from sim.functional.execute import execute
from sim.grouped import grouped_order
from sim.stream import DISPATCHER
from sim.tokens import insert_tokens
from tests.test_npu_cores import configured, programs


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, MAX_CORES), st.integers(1, 5))
def test_memories_are_those_of_any_order(data: st.DataObject, cores: int, count: int) -> None:
    """Engines keep their order, everybody runs once, and nothing waits that need not."""
    config = configured(cores)
    program = insert_tokens(data.draw(programs(cores)), config).program
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 16)))
    groups = [np.sort(rng.integers(0, count, len(s))) for s in program.streams]
    order = grouped_order(program, groups)
    assert sorted(order) == [(c, i) for c, s in enumerate(program.streams) for i in range(len(s))]
    for core, stream in enumerate(program.streams):
        for engine in {*stream.engines.tolist()} - {DISPATCHER}:
            mine = [i for c, i in order if c == core and stream.engines[i] == engine]
            assert mine == sorted(mine)
    decoded = [s.decode(core) for core, s in enumerate(program.streams)]
    found: list[np.ndarray] = []
    for each in (order, check(program, config).pairs()):
        external = External.of(config, np.arange(256).astype(np.uint8))
        execute([Core.of(config) for _ in program.streams], external, decoded, each)
        found.append(external.sram.data.copy())
    one, other = found
    assert np.array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_groups_that_need_not_wait_are_not_mixed(data: st.DataObject) -> None:
    """On one core whose groups follow each other in the stream, so do they in the order."""
    config = configured(1)
    program = insert_tokens(data.draw(programs(1)), config).program
    size = len(program.streams[0])
    groups = np.arange(size) * 4 // size
    order = [int(groups[i]) for _, i in grouped_order(program, [groups])]
    assert order == sorted(order)
