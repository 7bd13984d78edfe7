"""Tokens: inserted ones suffice, and a program with a mutation is refused with the instruction named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.assembly import text_of
from sim.checker import check
from sim.config import NpuConfig, load_config
from sim.functional.core import Core, External
from sim.functional.execute import step
from sim.isa import (
    Engine,
    Fill,
    Gemm,
    Halt,
    Instruction,
    InstructionError,
    Load,
    LocalStrides,
    Memory,
    Requantize,
    Store,
    Strides,
    Sync,
)
from sim.order import execution_order
from sim.programs.random import KINDS, instructions_of, random_program
from sim.simulate import simulate
from sim.stream import Program, Stream, StreamError
from sim.timing import time_program
from sim.tokens import insert_tokens
from tests.npu_core import CONFIG, operands, output, window

kinds, seeds = st.sampled_from(sorted(KINDS)), st.integers(0, 10_000)
presets = st.sampled_from(["npu-128", "npu-256", "npu-512"]).map(load_config)
LOCAL = {
    e: LocalStrides(engine=e, row=0, plane=0, element=1, element_bytes=1) for e in (Engine.LOAD, Engine.STORE)
}
OUTSIDE = {e: Strides(engine=e, row=0, plane=0) for e in (Engine.LOAD, Engine.STORE)}
REGISTERS = [*LOCAL.values(), *OUTSIDE.values()]


@settings(max_examples=60, deadline=None)
@given(kinds, seeds, presets)
def test_inserted_tokens_pass_the_checker_and_keep_the_meaning(
    kind: str, seed: int, config: NpuConfig
) -> None:
    """Contents equal those of the program's text, run from top to bottom."""
    case = random_program(kind, seed, config)
    external = case.external(config)
    run = simulate(case.program, config, external)
    core, plain = Core.of(config), case.external(config)
    for instruction in instructions_of(kind, seed, config):
        step(core, plain, instruction)
    assert np.array_equal(external.sram.data, plain.sram.data)
    assert np.array_equal(run.cores[0].accumulators.data, core.accumulators.data)
    for memory, held in core.local.items():
        assert np.array_equal(run.cores[0].local[memory].data, held.data)


@settings(max_examples=30, deadline=None)
@given(kinds, seeds)
def test_origins_lead_back_to_the_given_instructions(kind: str, seed: int) -> None:
    given_ = instructions_of(kind, seed, CONFIG)
    found = insert_tokens([(0, i) for i in given_], CONFIG)
    bare = [replace(i, waits=(), posts=()) for i in found.program.streams[0].decode()]
    origin = found.origin[0]
    assert origin[-1] == -1
    own = [(n, i) for n, i in zip(origin, bare, strict=True) if not isinstance(i, Sync)]
    assert [(n, i) for n, i in own[:-1]] == list(enumerate(given_))


def _without(instruction: Instruction, which: str, place: int) -> Instruction:
    tokens = list(getattr(instruction, which))
    del tokens[place % len(tokens)]
    return replace(instruction, **{which: tuple(tokens)})


@settings(max_examples=150, deadline=None)
@given(kinds, seeds, st.integers(0, 1 << 20), st.sampled_from(["waits", "posts"]))
def test_a_dropped_token_is_refused(kind: str, seed: int, which: int, tokens: str) -> None:
    """Whichever it is: its partner is left over, or waits for ever, or meets another's."""
    case = random_program(kind, seed, CONFIG)
    body = case.program.streams[0].decode()
    carriers = [i for i, x in enumerate(body) if getattr(x, tokens)]
    at = carriers[which % len(carriers)]
    body[at] = _without(body[at], tokens, which)
    with pytest.raises(StreamError) as caught:
        check(Program((Stream.encode(body),)), CONFIG)
    error = caught.value
    assert error.text == text_of(body[error.index]) and f"instruction {error.index} (" in str(error)


@settings(max_examples=150, deadline=None)
@given(kinds, seeds, st.integers(0, 1 << 20))
def test_a_dropped_pair_is_a_hazard_or_was_not_needed(kind: str, seed: int, which: int) -> None:
    """A post and its wait taken out together: the checker finds the hazard that they covered, always, since
    insertion adds none that is known otherwise."""
    body = random_program(kind, seed, CONFIG).program.streams[0].decode()
    posts = [(i, t) for i, x in enumerate(body) for t in x.posts]
    at, token = posts[which % len(posts)]
    number = sum(token in x.posts for x in body[:at])
    waits = [i for i, x in enumerate(body) if token in x.waits]
    for i, name in ((at, "posts"), (waits[number], "waits")):
        body[i] = replace(body[i], **{name: tuple(t for t in getattr(body[i], name) if t != token)})
    with pytest.raises(
        StreamError, match=r"instruction \d+ .*: no chain of tokens puts one behind the other"
    ):
        check(Program((Stream.encode(body),)), CONFIG)


_ADDRESSES = ("local", "act", "wgt", "acc", "dst", "param", "a", "b", "external")


@settings(max_examples=150, deadline=None)
@given(kinds, seeds, st.integers(0, 1 << 20), st.integers(1, (1 << 20) - 1))
def test_a_wrong_address_is_refused_or_moves_results(kind: str, seed: int, which: int, by: int) -> None:
    """Refused with an instruction's text, or the program computes something else without a hazard."""
    case = random_program(kind, seed, CONFIG)
    body = case.program.streams[0].decode()
    places = [(i, n) for i, x in enumerate(body) for n in _ADDRESSES if hasattr(x, n)]
    at, name = places[which % len(places)]
    try:
        body[at] = replace(body[at], **{name: getattr(body[at], name) ^ by})
    except InstructionError:
        return
    external = case.external(CONFIG)
    try:
        simulate(Program((Stream.encode(body),)), CONFIG, external)
    except StreamError as error:
        assert error.text == text_of(body[error.index])


def _fill(local: int, size: int = 16, **tokens: tuple[int, ...]) -> Fill:
    return Fill(
        engine=Engine.LOAD,
        memory=Memory.ACTIVATION,
        local=local,
        row_bytes=size,
        rows=1,
        planes=1,
        pattern=0,
        **tokens,
    )


def _store(local: int, external: int = 0, rows: int = 1, size: int = 16, **tokens: tuple[int, ...]) -> Store:
    return Store(external=external, local=local, row_bytes=size, rows=rows, planes=1, **tokens)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            [_fill(0), _store(0)],
            "reads bytes 0..15 of the activation memory while core 0, instruction 4 (fill",
        ),
        (
            [_fill(0, posts=(1,)), _store(8, waits=(1,)), _fill(0)],
            "instruction 6 (fill engine=load memory=activation",
        ),
        ([_fill(8190)], "reaches bytes 8190..8205 of the activation memory, which ends at 8192"),
        ([_store(0, (1 << 21) - 1)], "reaches bytes 2097151..2097166 of SRAM, which ends at 2097152"),
        (
            [_fill(0, waits=(1,))],
            "instruction 4 (fill engine=load memory=activation local=0 row_bytes=16 rows=1 planes=1",
        ),
        ([_fill(0, waits=(1,))], "waits for semaphore 1 for ever"),
        ([_fill(0, posts=(1,))], "semaphore 1 ends at 1: a wait is missing"),
        (
            [_fill(0, posts=(1,)), Sync(engine=Engine.MAC, posts=(1,)), Sync(engine=Engine.VEC, waits=(1,))],
            "semaphore 1 is posted by LOAD of core 0 and by MAC of core 0, in an order left to chance",
        ),
        (
            [Sync(engine=Engine.MAC, posts=(2,))] * 256 + [Sync(engine=Engine.VEC, waits=(2,))] * 256,
            "semaphore 2 may count beyond 255",
        ),
    ],
)
def test_what_is_wrong_is_said(body: list[Instruction], message: str) -> None:
    with pytest.raises(StreamError) as caught:
        check(Program.of([*REGISTERS, *body]), CONFIG)
    assert message in str(caught.value)


def test_two_that_wait_for_each_other_are_a_deadlock() -> None:
    body = [Sync(engine=Engine.MAC, waits=(0,), posts=(1,)), Sync(engine=Engine.VEC, waits=(1,), posts=(0,))]
    for judge in (check, execution_order, time_program):
        with pytest.raises(StreamError, match=r"instruction 0 \(sync engine=mac wait=0 post=1\): waits for"):
            judge(Program.of(body), CONFIG)


def test_a_queue_that_is_too_short_is_a_deadlock() -> None:
    """MAC waits for what the dispatcher cannot reach."""
    body = [*[Sync(engine=Engine.MAC, waits=(0,))] * 4, *[Sync(engine=Engine.VEC, posts=(0,))] * 4]
    check(Program.of(body), CONFIG)
    for judge in (check, time_program):
        with pytest.raises(StreamError, match=r"waits for"):
            judge(Program.of(body), replace(CONFIG, queue_depth=2))


def test_columns_of_one_image_do_not_meet() -> None:
    """Two tiles of rows that lie side by side in SRAM: the hulls meet, the columns do not."""
    wide = Strides(engine=Engine.STORE, row=64, plane=0)
    read = Strides(engine=Engine.LOAD, row=64, plane=0)
    rows = replace(LOCAL[Engine.STORE], row=16)
    into = replace(LOCAL[Engine.LOAD], row=16)

    def program(column: int) -> Program:
        load = Load(
            engine=Engine.LOAD,
            external=column,
            memory=Memory.ACTIVATION,
            local=256,
            row_bytes=16,
            rows=4,
            planes=1,
        )
        store = _store(0, 0, 4, waits=(0,))
        return Program.of([into, _fill(0, 64, posts=(0,)), wide, rows, store, read, load])

    check(program(16), CONFIG)
    with pytest.raises(
        StreamError, match=r"reads bytes 15\.\.222 of SRAM while .* may be writing bytes 0\.\.207"
    ):
        check(program(15), CONFIG)


def test_cores_meet_in_shared_memory() -> None:
    """What one core stores another loads, through a shared semaphore; without it, that is a hazard."""
    config = load_config("npu-512")
    load = Load(
        engine=Engine.LOAD, external=0, memory=Memory.ACTIVATION, local=0, row_bytes=16, rows=1, planes=1
    )
    body = [
        *((0, r) for r in (LOCAL[Engine.LOAD], LOCAL[Engine.STORE], OUTSIDE[Engine.STORE])),
        *((1, r) for r in (LOCAL[Engine.LOAD], OUTSIDE[Engine.LOAD])),
        (0, replace(_fill(0), pattern=0x0707)), (0, _store(0)), (1, load),
    ]  # fmt: skip
    found = insert_tokens(body, config)
    external = External.of(config)
    run = simulate(found.program, config, external)
    assert run.cores[1].activation.data[:17].tolist() == [7] * 16 + [0]
    assert found.origin == ((0, 1, 2, 5, 6, -1), (3, 4, 7, -1))
    bare = [[i for c, i in body if c == core] for core in (0, 1)]
    bare[0][3:] = [replace(bare[0][3], posts=(0,)), replace(bare[0][4], waits=(0,))]
    with pytest.raises(StreamError, match=r"core 1, instruction 2 \(load .*: reads bytes 0\.\.15 of SRAM"):
        check(Program.of(*bare), config)
    with pytest.raises(ValueError, match="2 streams for the 1 cores of npu-128"):
        check(found.program, CONFIG)


def test_more_than_two_tokens_are_carried() -> None:
    """The result of MAC, parameters of LOAD, and a place that STORE has read: VEC waits for three engines."""
    body: list[Instruction] = [
        *REGISTERS,
        window(Engine.MAC),
        operands(channels=1),
        output(),
        _fill(0),
        _store(0),
        replace(_fill(0), memory=Memory.WEIGHT),
        _fill(64),
        Gemm(act=64, wgt=0, acc=0, rows=1, columns=1, outputs=1),
        replace(_fill(0), memory=Memory.PARAMETER),
        Requantize(acc=0, dst=0, param=0, pixels=1, channels=1),
    ]
    found = insert_tokens([(0, i) for i in body], CONFIG)
    check(found.program, CONFIG)
    carrier, last, _ = found.program.streams[0].decode()[-3:]
    assert isinstance(carrier, Sync) and len(carrier.waits) == 1 and len(last.waits) == 2
    assert found.origin[0][-3:] == (len(body) - 1, len(body) - 1, -1)


def test_tokens_are_inserted_once() -> None:
    with pytest.raises(ValueError, match="fill: tokens are inserted into streams without any"):
        insert_tokens([(0, _fill(0, posts=(1,)))], CONFIG)
    with pytest.raises(ValueError, match="halt is added at the end"):
        insert_tokens([(0, Halt())], CONFIG)
