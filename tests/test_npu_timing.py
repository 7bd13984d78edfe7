"""Cycles: cases computed by hand first, then laws that hold for any program."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.config import NpuConfig, load_config
from sim.durations import transfer_cycles, work
from sim.isa import (
    Binary,
    Depthwise,
    Elementwise,
    Engine,
    Fence,
    Fill,
    Gemm,
    Instruction,
    Load,
    LocalStrides,
    Memory,
    Requantize,
    Store,
    Strides,
    Sync,
)
from sim.port import fair_shares
from sim.programs.random import KINDS, random_program
from sim.simulate import simulate
from sim.statistics import statistics
from sim.stream import Program, Stream, StreamError
from sim.timing import Timing, time_program
from sim.trace import trace
from tests.npu_core import CONFIG, inputs, operands, output, window

ISSUE, PIPELINE = CONFIG.issue_cycles, CONFIG.mac.pipeline_cycles
DENSE = (
    Strides(engine=Engine.LOAD, row=0, plane=0),
    LocalStrides(engine=Engine.LOAD, row=0, plane=0, element=1, element_bytes=1),
)


def cycles(*instructions: Instruction, config: NpuConfig = CONFIG) -> float:
    """Of the last instruction, alone on its engine."""
    return float(work(Stream.encode(instructions), config).cycles[-1])


def gemm(rows: int, columns: int, outputs: int, channels: int, kernel: int = 1, **widths: int) -> float:
    return cycles(
        window(Engine.MAC, kernel_y=kernel, kernel_x=kernel, height=32, width=32),
        operands(channels=channels, **widths),
        Gemm(act=0, wgt=0, acc=0, rows=rows, columns=columns, outputs=outputs),
    )


def test_one_fold_is_its_weights_and_its_rows() -> None:
    """16 x 8 weights through a port of 16 bytes: 8 cycles; then one cycle for each of 20 positions."""
    assert gemm(4, 5, 8, 16) == 8 + 20 + PIPELINE


def test_weights_hide_behind_the_fold_before() -> None:
    """K = 40: folds of 16, 16 and 8 rows, whose weights take 8, 8 and 4 cycles; 20 positions each."""
    assert gemm(4, 5, 8, 40) == 8 + 3 * 20 + PIPELINE


def test_few_rows_wait_for_weights() -> None:
    """2 positions: each fold but the last lasts as long as the weights of the next one, 8, 8 and 4 cycles."""
    assert gemm(1, 2, 8, 48) == 8 + 8 + 8 + 2 + PIPELINE
    assert gemm(1, 2, 8, 40) == 8 + 8 + 4 + 2 + PIPELINE


def test_blocks_of_outputs_follow_each_other() -> None:
    """N = 20: blocks of 8, 8 and 4; the last one's 16 rows of 4 bytes take 4 cycles."""
    assert gemm(4, 5, 20, 16) == 8 + 3 * 20 + PIPELINE
    assert gemm(1, 1, 20, 16) == 8 + 8 + 4 + 1 + PIPELINE


def test_taps_are_folds_of_their_own() -> None:
    assert gemm(4, 5, 8, 3, kernel=3) == 2 + 9 * 20 + PIPELINE  # 3 rows of 8 bytes: 2 cycles


@pytest.mark.parametrize(
    ("act", "wgt", "times"), [(16, 8, 0.5), (8, 8, 1), (8, 4, 2), (4, 8, 2), (4, 4, 4), (8, 2, 2), (2, 2, 8)]
)
def test_narrow_operands_take_fewer_folds(act: int, wgt: int, times: float) -> None:
    """Two words of accumulators for each column and cycle: beyond 4-bit weights the port is the limit."""
    folds = 64 * 64 * 20 / (128 * times)
    found = gemm(4, 5, 64, 64, act_bits=act, wgt_bits=wgt)
    assert folds < found - PIPELINE <= folds + 32  # and the first fold's weights


def test_a_wider_port_lets_two_bits_pay() -> None:
    wide = replace(CONFIG, mac=replace(CONFIG.mac, accumulator_port_bits=1024))
    body = (
        window(Engine.MAC),
        operands(channels=64, wgt_bits=2),
        Gemm(act=0, wgt=0, acc=0, rows=4, columns=5, outputs=64),
    )  # fmt: skip
    assert cycles(*body) - PIPELINE - 8 == 2 * (cycles(*body, config=wide) - PIPELINE - 8)


def test_depthwise_takes_four_taps_of_four_channels_at_once() -> None:
    """9 taps are 3 steps; 10 channels 3 groups; each group's 9 rows of weights hide behind the one before."""
    body = (
        window(Engine.MAC, kernel_y=3, kernel_x=3, height=8, width=8),
        operands(channels=10),
        Depthwise(act=0, wgt=0, acc=0, rows=4, columns=5),
    )
    assert cycles(*body) == 9 + 3 * (20 * 3) + PIPELINE


def test_vec_takes_eight_lanes_of_each_row() -> None:
    requantize = Requantize(acc=0, dst=0, param=0, pixels=5, channels=20)
    assert cycles(output(), requantize) == 5 * 3 + CONFIG.vec.pipeline_cycles
    once = Elementwise(function=Binary.ADD, a=0, b=0, dst=0, rows=2, count=64)
    assert cycles(inputs(), output(), once) == 2 * 8 + CONFIG.vec.pipeline_cycles


@pytest.mark.parametrize(
    ("bursts", "burst", "latency", "outstanding", "expected"),
    [
        (1, 4, 32, 4, 36),
        (4, 4, 32, 4, 48),  # four requests are on their way at once
        (5, 4, 32, 4, 72),  # the fifth is sent when the first has arrived
        (10, 4, 32, 16, 72),  # enough requests: one latency, then burst upon burst
        (3, 128, 64, 2, 448),
    ],
)
def test_a_transfer_alone(bursts: int, burst: float, latency: int, outstanding: int, expected: int) -> None:
    assert transfer_cycles(np.array([bursts]), burst, latency, outstanding)[0] == expected


def test_short_rows_cost_whole_bursts() -> None:
    """12 rows of 5 bytes: 12 bursts of 32 bytes where the whole would be 2."""
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=5, rows=12, planes=1
    )
    found = work(Stream.encode([*DENSE, load]), CONFIG)
    assert (found.moved[-1], found.port_cycles[-1]) == (12 * 32, 12 * 4)
    assert found.cycles[-1] + found.latency[-1] == 3 * (32 + 4) + 3 * 4


def test_scattered_elements_limit_a_transfer() -> None:
    turned = LocalStrides(engine=Engine.LOAD, row=1, plane=0, element=64, element_bytes=1)
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=1024, rows=1, planes=1
    )
    quick = replace(CONFIG, sram=replace(CONFIG.sram, read_outstanding=16))
    assert cycles(DENSE[0], DENSE[1], load, config=quick) == 1024 / 8
    assert cycles(DENSE[0], turned, load, config=quick) == 1024 / CONFIG.dma.scatter_elements
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=100, rows=3, planes=1, pattern=0
    )
    assert cycles(DENSE[1], fill) == 3 * 7


def test_fair_shares() -> None:
    assert fair_shares([0.2, 1.0, 0.5]) == pytest.approx([0.2, 0.4, 0.4])
    assert fair_shares([0.2, 0.3]) == [0.2, 0.3]


def spans(*instructions: Instruction, config: NpuConfig = CONFIG) -> tuple[list[tuple[int, int]], Timing]:
    """Start and end of each instruction, without the registers."""
    program = Program.of(instructions)
    timing = time_program(program, config)
    s = timing.spans[0]
    kept = [i for i, x in enumerate(instructions) if not isinstance(x, Strides | LocalStrides)]
    return [(int(s.start[i]), int(s.end[i])) for i in kept], timing


def test_dispatch_takes_a_cycle_and_so_does_a_sync() -> None:
    """Dispatched in cycles 0 and 1, taken in the cycle after."""
    found, timing = spans(Sync(engine=Engine.MAC), Sync(engine=Engine.VEC))
    assert found == [(1, 2), (2, 3)]
    assert timing.cycles == 3


def test_a_token_passes_in_the_cycle_of_the_end() -> None:
    fill = Fill(
        engine=Engine.LOAD,
        memory=Memory.ACTIVATION,
        local=0,
        row_bytes=160,
        rows=1,
        planes=1,
        pattern=0,
        posts=(0,),
    )
    found, timing = spans(*DENSE, fill, Sync(engine=Engine.MAC, waits=(0,)))
    assert found[0] == (3, 3 + ISSUE + 10)
    assert found[1][0] == found[0][1]
    assert timing.spans[0].token[3] == found[0][1] - 4  # dispatched in cycle 3


def test_a_fence_holds_the_dispatcher() -> None:
    found, _ = spans(Sync(engine=Engine.MAC), Fence(), Sync(engine=Engine.VEC))
    assert found[2][0] >= found[0][1]


def test_a_bank_serves_one_engine_at_a_time() -> None:
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=160, rows=1, planes=1, pattern=0
    )
    store = Store(external=0, local=1000, row_bytes=4, rows=1, planes=1)
    local = LocalStrides(engine=Engine.STORE, row=0, plane=0, element=1, element_bytes=1)
    outside = Strides(engine=Engine.STORE, row=0, plane=0)
    found, timing = spans(*DENSE, outside, local, fill, store)
    assert found[1][0] == found[0][1]  # both in the first bank of 1024 bytes
    assert timing.spans[0].bank[5] > 0
    found, _ = spans(*DENSE, outside, local, fill, replace(store, local=1024))
    assert found[1][0] < found[0][1]


def test_two_transfers_share_a_port() -> None:
    """Each alone takes the whole port; together each takes twice as long."""
    quick = replace(CONFIG, sram=replace(CONFIG.sram, read_outstanding=64, write_outstanding=64))
    registers = [
        r for e in (Engine.LOAD, Engine.STORE)
        for r in (
            Strides(engine=e, row=0, plane=0),
            LocalStrides(engine=e, row=0, plane=0, element=1, element_bytes=1),
        )
    ]  # fmt: skip
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=2048, rows=1, planes=1
    )
    store = Store(external=0, local=4096, row_bytes=2048, rows=1, planes=1)
    (alone,), _ = spans(*registers, load, config=quick)
    found, timing = spans(*registers, load, store, config=quick)
    assert alone[1] - alone[0] == ISSUE + 32 + 256
    assert found[0][1] - found[0][0] == ISSUE + 32 + 511  # the store comes a cycle later
    assert timing.spans[0].bus[4] == 255


def test_cores_share_the_ports_and_nothing_else() -> None:
    """Two cores that compute do so side by side; two that load one port's worth take twice as long."""
    config = load_config("npu-512")
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=4096, rows=1, planes=1, pattern=0
    )
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=8192, rows=1, planes=1
    )

    def both(last: Instruction) -> tuple[int, int]:
        bodies = [*DENSE, last], [*DENSE, last]
        return time_program(Program.of(bodies[0]), config).cycles, time_program(
            Program.of(*bodies), config
        ).cycles

    assert both(fill)[0] == both(fill)[1]
    port, latency = 2 * 8192 / 16, config.sram.read_latency_cycles
    alone, together = both(load)
    assert alone < port < together - latency <= port + 10


def test_a_full_queue_holds_the_dispatcher() -> None:
    """One runs, two wait; the fourth is dispatched when the second starts, VEC's behind it."""
    narrow = replace(one_at_a_time(CONFIG), queue_depth=2)
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=1600, rows=1, planes=1, pattern=0
    )
    found, timing = spans(*DENSE, *[fill] * 4, Sync(engine=Engine.VEC), config=narrow)
    assert found[4][0] >= found[0][1]
    assert timing.spans[0].queue[6] == found[4][0]


def one_at_a_time(config: NpuConfig) -> NpuConfig:
    return replace(config, dma=replace(config.dma, outstanding_instructions=1))


def test_waiting_for_ever_is_an_error() -> None:
    with pytest.raises(
        StreamError, match=r"core 0, instruction 0 \(sync engine=mac wait=3\): waits for ever"
    ):
        time_program(Program.of([Sync(engine=Engine.MAC, waits=(3,))]), CONFIG)


# Laws

kinds, seeds = st.sampled_from(sorted(KINDS)), st.integers(0, 10_000)
# In "transfers", three engines want the same banks in an order left to chance: an earlier start of one can
# delay another that matters more.
orderly = st.sampled_from(sorted(set(KINDS) - {"transfers"}))
presets = st.sampled_from(["npu-128", "npu-256", "npu-512"]).map(load_config)


@settings(max_examples=60, deadline=None)
@given(kinds, seeds, presets)
def test_cycles_are_above_the_roofline(kind: str, seed: int, config: NpuConfig) -> None:
    program = random_program(kind, seed, config).program
    timing = time_program(program, config)
    found = statistics(timing, config)
    (w,) = timing.work
    times = np.maximum(1, 64 / np.maximum(w.mac_bits, 1) * 1.0)
    assert timing.cycles * config.mac.rows * config.mac.columns >= (w.macs / times).sum()
    for port, memory in enumerate((config.sram, config.dram)):
        assert timing.cycles >= w.moved[w.port == port].sum() / memory.bytes_per_cycle - 1
    for engine in found.engines[0].values():
        assert engine.busy + engine.queue + engine.token + engine.bank <= timing.cycles


def _faster(config: NpuConfig, times: float) -> NpuConfig:
    """Both ports; bursts of the same bytes."""
    sram, dram = (
        replace(p, bytes_per_cycle=min(p.burst_bytes, p.bytes_per_cycle * times))
        for p in (config.sram, config.dram)
    )
    return replace(config, sram=sram, dram=dram)


@settings(max_examples=60, deadline=None)
@given(orderly, seeds, presets, st.sampled_from([1.25, 2.0, 4.0]))
def test_more_bandwidth_is_never_slower(kind: str, seed: int, config: NpuConfig, times: float) -> None:
    program = random_program(kind, seed, config).program
    before, after = (time_program(program, c).cycles for c in (config, _faster(config, times)))
    assert after <= before


@settings(max_examples=40, deadline=None)
@given(orderly, seeds, presets)
def test_deeper_queues_and_lower_latencies_are_never_slower(kind: str, seed: int, config: NpuConfig) -> None:
    program = random_program(kind, seed, config).program
    before = time_program(program, config).cycles
    assert time_program(program, replace(config, queue_depth=2 * config.queue_depth)).cycles <= before
    sram = replace(config.sram, read_latency_cycles=8, write_latency_cycles=8)
    assert time_program(program, replace(config, sram=sram)).cycles <= before


def test_timing_alone_gives_the_cycles_of_a_whole_run() -> None:
    case = random_program("conv", 3, CONFIG)
    run = simulate(case.program, CONFIG, case.external(CONFIG))
    assert time_program(case.program, CONFIG).cycles == run.timing.cycles


def test_statistics_add_up_over_parts() -> None:
    """Layers: what is moved and multiplied is shared out without rest; energy likewise, but for idling."""
    timing = time_program(random_program("low_bits", 5, CONFIG).program, CONFIG)
    half = np.arange(len(timing.spans[0].start)) < 20
    whole = statistics(timing, CONFIG)
    parts = [statistics(timing, CONFIG, [m]) for m in (half, ~half)]
    for name in ("macs", "sram_bytes", "dram_bytes", "instructions"):
        assert sum(getattr(p, name) for p in parts) == getattr(whole, name)
    for name in set(whole.energy_pj) - {"idle"}:
        assert sum(p.energy_pj[name] for p in parts) == pytest.approx(whole.energy_pj[name])
    for engine in Engine:
        assert sum(p.engines[0][engine.name].busy for p in parts) == whole.engines[0][engine.name].busy


def test_statistics_tell_how_much_of_each_memory_is_touched() -> None:
    """Two fills that overlap by half, and one far away."""
    fill = Fill(
        engine=Engine.LOAD, memory=Memory.ACTIVATION, local=0, row_bytes=64, rows=1, planes=1, pattern=0
    )
    program = Program.of([*DENSE, fill, replace(fill, local=32), replace(fill, local=1000)])
    touched = statistics(time_program(program, CONFIG), CONFIG).touched
    assert touched == {
        "ACTIVATION": 96 + 64, "WEIGHT": 0, "PARAMETER": 0, "TABLE": 0, "ACCUMULATOR": 0
    }  # fmt: skip


def test_a_trace_holds_every_instruction_and_all_bytes() -> None:
    case = random_program("conv", 3, CONFIG)
    timing = time_program(case.program, CONFIG)
    names = [[f"layer {i // 10}" for i in range(len(case.program))]]
    events = json.loads(trace(case.program, timing, CONFIG, names))["traceEvents"]
    shown = [e for e in events if e["ph"] == "X"]
    assert len(shown) == len(case.program) - 1
    assert {e["name"] for e in shown} <= set(names[0])
    counted = max(e["args"]["bytes"] for e in events if e["ph"] == "C" and e["name"] == "SRAM")
    assert counted == statistics(timing, CONFIG).sram_bytes
