"""Between layers of the NPU: the order of dispatch, and constants that come to SRAM ahead of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Value
from compiler.ir.types import quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import bias_type
from compiler.ops.convolution import Conv2D
from compiler.ops.elementwise import Add
from compiler.ops.shape import Transpose
from schedules.npu_choices import Choices, Manner
from schedules.npu_demands import Written, demanded
from schedules.npu_dispatch import in_order_of_start
from schedules.npu_room import Room, Staging
from schedules.tuning.measure import Outcome
from sim.checker import check
from sim.config import load_config, preset_names
from sim.isa import Engine, Inflate, Load, LocalStrides, Memory, Store
from sim.programs.random import instructions_of
from sim.timing import time_program
from sim.tokens import insert_tokens
from targets.measuring.npu import Network
from targets.streams import writing
from targets.streams.lowering import lower_to_streams
from targets.streams.writing import StreamStep
from tests.npu_networks import check_exact
from tests.random_graphs import random_arrays

ANY = settings(deadline=None)


@settings(ANY, max_examples=20)
@given(
    st.sampled_from(["gemm", "conv", "depthwise", "vec", "pool", "dma"]),
    st.integers(0, 2**16),
    st.sampled_from(preset_names()),
)
def test_dispatch_keeps_each_engines_order_and_all_proofs(kind: str, seed: int, preset: str) -> None:
    config = load_config(preset)
    written = [(0, i) for i in instructions_of(kind, seed, config)]
    found = insert_tokens(written, config)
    sorted_ = in_order_of_start(found, config)
    check(sorted_.program, config)
    for before, after in zip(found.program.streams, sorted_.program.streams, strict=True):
        for engine in Engine:
            mine = [s.words[s.engines == engine].tolist() for s in (before, after)]
            assert mine[0] == mine[1]


@settings(ANY, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6), st.integers(0, 6)), max_size=30),
    st.integers(40, 120),
)
def test_what_lives_at_one_time_shares_no_byte(wanted: list[tuple[int, int, int]], size: int) -> None:
    room = Room(size, [])
    for count, a, b in wanted:
        first, last = min(a, b), max(a, b)
        at = room.find(count, first, last)
        alive = [(x, y) for x, y, f, t in room.taken if f <= last and first <= t]
        if at is None:
            ends = [0, *(y for _, y in alive)]
            assert all(e + count > size or any(x < e + count and e < y for x, y in alive) for e in ends)
            continue
        assert at + count <= size and all(y <= at or at + count <= x for x, y in alive)
        room.taken.append((at, at + count, first, last))


I8 = QuantizedType(ElementType.I8, Quantization((0.05,), 0))


def convolved(graph: Graph, x: Value, outputs: int, stride: int, number: int) -> Value:
    """By 3 x 3 random weights."""
    rng = np.random.default_rng(number)
    codes = rng.integers(-127, 128, (outputs, 3, 3, x.type.shape[-1])).astype(np.int8)
    scales = tuple(float(s) for s in rng.uniform(0.001, 0.1, outputs).astype(np.float32))
    of = quantized(codes.shape, QuantizedType(ElementType.I8, Quantization(scales, 0, 0)))
    weight = graph.constant(codes, of, Location(()), f"w{number}")
    zeros = np.zeros(outputs, np.int32)
    bias = graph.constant(zeros, bias_type(x.type, of), Location(()), f"b{number}")
    op = Conv2D((stride, stride), (1, 1, 1, 1), (1, 1), 1, None, I8)
    (y,) = graph.append(op, [x, weight, bias], Location((f"conv{number}",)), [f"y{number}"])
    return y


def narrowing() -> Graph:
    """A long layer with few weights, then short ones with many."""
    graph = Graph("narrowing")
    x = graph.add_input("x", quantized((1, 96, 96, 8), I8))
    for number, (outputs, stride) in enumerate(((16, 1), (32, 4), (64, 4), (64, 1))):
        x = convolved(graph, x, outputs, stride, number)
    graph.outputs.append(x)
    return graph


def turned() -> Graph:
    """A layer whose elements LOAD spreads, between some with many weights."""
    graph = Graph("turned")
    x = graph.add_input("x", quantized((1, 32, 32, 32), I8))
    x = convolved(graph, x, 32, 1, 0)
    (x,) = graph.append(Transpose((0, 3, 1, 2)), [x], Location(("turn",)), ["t"])
    for number, (outputs, stride) in enumerate(((64, 4), (128, 2), (128, 1)), 1):
        x = convolved(graph, x, outputs, stride, number)
    graph.outputs.append(x)
    return graph


@pytest.mark.parametrize("preset", ["npu-128", "npu-256"])
def test_constants_of_later_layers_come_while_the_flash_would_idle(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, config = narrowing(), load_config(preset)
    check_exact(graph, config, random_arrays(graph, 0))
    (step,) = lower_to_streams(graph, config).steps
    assert isinstance(step, StreamStep)
    bank = config.scratchpad.activation_bytes // config.scratchpad.activation_banks
    stores = [i for i in step.program.streams[0].decode() if isinstance(i, Store)]
    copied = sum(i.row_bytes for i in stores if i.local >= 6 * bank)
    assert copied > 10_000
    monkeypatch.setattr(writing, "stage", lambda *_: None)
    (plain,) = lower_to_streams(graph, config).steps
    assert isinstance(plain, StreamStep)
    assert time_program(step.program, config).cycles < 0.9 * time_program(plain.program, config).cycles


@pytest.mark.parametrize("graph", [narrowing(), turned()], ids=["narrowing", "turned"])
@pytest.mark.parametrize("idle", [0.3, 1.2])
def test_both_engines_fetch_copies_where_they_share(graph: Graph, idle: float) -> None:
    config = load_config("npu-256")
    loads: list[int] = []
    for shares in (False, True):
        staging = Staging(idle, 10000.0, even=shares, shares=shares)
        choices = Choices(stagings={0: staging})
        measured = Network(graph, config).measure(choices)
        assert measured.outcome is Outcome.MEASURED, measured.said  # checked, and the interpreter's bits
        (step,) = lower_to_streams(graph, config, attempts=(choices,)).steps
        assert isinstance(step, StreamStep)
        constants = (Memory.WEIGHT, Memory.PARAMETER)
        body = step.program.streams[0].decode()
        mine = (i for i in body if i.runs_on is Engine.LOAD and isinstance(i, (Load, Inflate)))
        loads.append(sum(i.memory in constants and not i.dram for i in mine))
    assert loads[1] > 0
    assert graph.name != "turned" or loads[1] > loads[0]


def summed() -> Graph:
    """A sum of two images, for which FETCH brings one, before layers with many weights."""
    graph = Graph("summed")
    x = graph.add_input("x", quantized((1, 64, 64, 16), I8))
    y = convolved(graph, x, 16, 1, 0)
    (y,) = graph.append(Add(None, I8), [x, y], Location(("sum",)), ["s"])
    for number, (outputs, stride) in enumerate(((32, 4), (64, 4), (128, 1), (128, 1)), 1):
        y = convolved(graph, y, outputs, stride, number)
    graph.outputs.append(y)
    return graph


def fetched_during_the_sum(choices: Choices) -> tuple[int, int]:
    """Loads of FETCH that belong to the sum, and how many copies are made between them."""
    graph, config = summed(), load_config("npu-256")
    measured = Network(graph, config).measure(choices)
    assert measured.outcome is Outcome.MEASURED, measured.said
    (step,) = lower_to_streams(graph, config, attempts=(choices,)).steps
    assert isinstance(step, StreamStep)
    mine = [
        (i.dram, int(number))
        for i, number in zip(step.program.streams[0].decode(), step.numbers[0], strict=True)
        if isinstance(i, Load) and i.runs_on is Engine.FETCH and i.memory is Memory.ACTIVATION
    ]
    own = [at for at, (dram, number) in enumerate(mine) if not dram and number == 1]
    return len(own), sum(dram for dram, _ in mine[own[0] : own[-1]]) if own else 0


def test_copies_pause_while_fetch_brings_operands() -> None:
    assert fetched_during_the_sum(Choices(stagings={0: Staging()}))[1] > 0
    own, copies = fetched_during_the_sum(Choices(stagings={0: Staging(pauses=True)}))
    assert own > 1 and not copies


def test_load_alone_brings_operands_where_it_is_told_to() -> None:
    """A finer grain makes more pieces."""
    plain, _ = fetched_during_the_sum(Choices(manners={1: Manner()}))
    finer, _ = fetched_during_the_sum(Choices(manners={1: Manner(1 / 32)}))
    alone, _ = fetched_during_the_sum(Choices(manners={1: Manner(alone=True)}))
    assert finer > plain > alone == 0


def test_only_constants_are_demands() -> None:
    config = load_config("npu-128")
    body = instructions_of("dma", 3, config)
    written = Written([(0, i) for i in body], [0] * len(body))
    loads = [body[n] for n in demanded(written, 0)]
    assert all(getattr(i, "dram", False) for i in loads)
    assert not demanded(written, config.dram.size_bytes)


def test_a_load_that_spreads_elements_is_left_alone() -> None:
    """It depends on a register of its engine, which another engine or a copy does not have."""
    load = Load(
        engine=Engine.LOAD,
        dram=True,
        external=0,
        memory=Memory.ACTIVATION,
        local=0,
        row_bytes=8,
        rows=1,
        planes=1,
    )
    spread, plain = (
        LocalStrides(engine=Engine.LOAD, row=0, plane=0, element=element, element_bytes=1)
        for element in (13, 1)
    )
    body = [plain, load, spread, load, plain, load]
    assert demanded(Written([(0, i) for i in body], [0] * len(body)), 0) == [1, 5]
