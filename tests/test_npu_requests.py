"""Several instructions of one engine at a time: what is asked for ahead, and what keeps its order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from sim.config import NpuConfig, load_config
from sim.isa import Engine, Fill, Load, Memory, Sync
from sim.programs.random import random_program
from sim.statistics import statistics
from sim.timing import time_program
from tests.npu_core import CONFIG
from tests.test_npu_timing import DENSE, ISSUE, kinds, one_at_a_time, presets, seeds, spans


def loads(
    *parts: tuple[bool, int], engine: Engine = Engine.LOAD, config: NpuConfig = CONFIG
) -> list[tuple[int, int]]:
    """Start and end of rows of so many bytes, from DRAM or SRAM, one behind the other in one bank."""
    rows = [
        Load(
            engine=engine, dram=dram, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=size, rows=1,
            planes=1,
        )
        for dram, size in parts
    ]  # fmt: skip
    registers = (replace(r, engine=engine) for r in DENSE)
    return spans(*registers, *rows, config=config)[0]


def test_requests_of_the_next_transfer_do_not_wait_for_the_end() -> None:
    """npu-128: four requests of SRAM on their way, each burst takes 4 cycles, 32 after its request.

    Two bursts each: those of the second transfer come right behind the first one's, the third's requests are
    sent when those of the first have ended, and come 36 cycles after them.
    """
    first, second, third = loads(*[(False, 64)] * 3)
    assert first == (3, 3 + ISSUE + 32 + 8)
    assert second == (4, first[1] + 8)
    assert third == (5, first[1] + 36)
    apart = loads(*[(False, 64)] * 3, config=one_at_a_time(CONFIG))
    assert [end for _, end in apart] == [first[1], 2 * first[1] - 3, 3 * first[1] - 6]


def test_no_more_instructions_are_begun_than_may_be() -> None:
    found = loads(*[(False, 64)] * 6)
    allowed = CONFIG.dma.outstanding_instructions
    assert [start for start, _ in found[allowed:]] == [end for _, end in found[: len(found) - allowed]]


def test_data_of_another_port_come_behind() -> None:
    """SRAM's burst is there long before the one that DRAM takes 64 + 128 cycles for, and waits for it."""
    slow, quick = loads((True, 128), (False, 32))
    assert slow[1] - slow[0] == ISSUE + 64 + 128
    assert quick == (slow[0] + 1, slow[1] + 4)


def test_requests_are_sent_in_the_order_of_instructions() -> None:
    """20 bursts of SRAM: the last is asked for when the 16th has ended; only then DRAM is asked."""
    sram, dram = loads((False, 640), (True, 128))
    asked = sram[1] - 36
    assert dram[0] < asked and dram[1] == asked + 64 + 128


def test_tokens_are_posted_in_the_order_of_instructions() -> None:
    """A bare semaphore behind a transfer posts when that has ended; the next one waits for its cycle only."""
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=64, rows=1, planes=1
    )
    bare = Sync(engine=Engine.LOAD, posts=(0,))
    found, _ = spans(*DENSE, load, bare, load, Sync(engine=Engine.MAC, waits=(0,)))
    first, posting, second, waiting = found
    assert posting == (4, first[1] + 1) and waiting[0] == posting[1]
    assert second == (5, first[1] + 1 + 8)


def test_a_fill_takes_its_turn() -> None:
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=160, rows=1, planes=1, pattern=0
    )
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=64, rows=1, planes=1
    )
    found, timing = spans(*DENSE, load, fill, load)
    assert [end - found[0][1] for _, end in found[1:]] == [10, 18]
    busy = statistics(timing, CONFIG).engines[0]["LOAD"].busy
    assert busy == found[-1][1] - 1  # with both registers, from cycle 1 on


@settings(max_examples=60, deadline=None)
@given(kinds, seeds, presets)
def test_more_transfers_on_their_way_are_hardly_slower(kind: str, seed: int, config: NpuConfig) -> None:
    """Never would be too much to say: a transfer that begins earlier takes banks that others want, in the
    hardware description too."""
    program = random_program(kind, seed, config).program
    before = time_program(program, one_at_a_time(config)).cycles
    assert time_program(program, config).cycles <= 1.1 * before


@pytest.mark.parametrize("preset", ["npu-128", "npu-512"])
def test_more_transfers_on_their_way_are_faster_on_the_whole(preset: str) -> None:
    config = load_config(preset)
    programs = [random_program("transfers", seed, config).program for seed in range(20)]
    several, one = (sum(time_program(p, c).cycles for p in programs) for c in (config, one_at_a_time(config)))
    assert several < (0.8 if preset == "npu-512" else 1.0) * one
