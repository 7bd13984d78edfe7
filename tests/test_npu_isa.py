"""The instruction set: bits and text round trip, fields know their bounds."""

from __future__ import annotations

import dataclasses
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.numerics.fixed_point import FixedPoint
from sim.assembly import AssemblyError, assemble, disassemble, text_of
from sim.isa import (
    BY_MNEMONIC,
    INSTRUCTIONS,
    Engine,
    Gemm,
    Halt,
    Instruction,
    InstructionError,
    LocalStrides,
    Memory,
    Output,
    Sync,
    Window,
    fields_of,
)
from sim.parameters import pack_parameters, unpack_parameters
from sim.stream import Program, Stream, StreamError, encode
from tests.npu_streams import instructions

BODY = tuple(c for c in INSTRUCTIONS if c is not Halt)
GEMM = Gemm(act=0, wgt=64, acc=0, rows=1, columns=8, outputs=16, accumulate=True, waits=(1,), posts=(2, 3))


def test_opcodes_are_the_places_in_the_list() -> None:
    assert [c.opcode for c in INSTRUCTIONS] == list(range(len(INSTRUCTIONS)))
    assert len(BY_MNEMONIC) == len(INSTRUCTIONS)


@pytest.mark.parametrize("cls", INSTRUCTIONS, ids=lambda c: c.mnemonic)
def test_fields_lie_in_128_bits_and_do_not_overlap(cls: type[Instruction]) -> None:
    taken = np.zeros(128, int)
    taken[:5] += 1
    taken[8:28] += 1
    for field in fields_of(cls):
        taken[field.low_bit : field.low_bit + field.width] += 1
    assert taken.max() == 1
    flags = [f for f in fields_of(cls) if f.kind is bool]
    assert all(5 <= f.low_bit < 8 for f in flags)


@given(st.lists(instructions(BODY), max_size=12))
def test_bits_round_trip(body: list[Instruction]) -> None:
    stream = Stream.encode([*body, Halt()])
    assert stream.decode() == [*body, Halt()]
    assert Stream.from_bytes(stream.to_bytes()) == stream
    assert [e if e >= 0 else None for e in stream.engines.tolist()] == [i.runs_on for i in [*body, Halt()]]


@given(st.lists(instructions(BODY), max_size=6), st.lists(instructions(BODY), max_size=6))
def test_text_round_trips(first: list[Instruction], second: list[Instruction]) -> None:
    program = Program.of(first, second)
    text = disassemble(program)
    assert assemble(text) == program
    assert disassemble(assemble(text)) == text


def test_an_instruction_reads_as_its_text() -> None:
    line = "gemm act=0 wgt=64 acc=0 rows=1 columns=8 outputs=16 accumulate wait=1 post=2,3"
    assert text_of(GEMM) == f"gemm accumulate{line[4:].replace(' accumulate', '')}" or text_of(GEMM) == line
    assert assemble(f"{line} # comment\n\nhalt").streams[0].decode()[0] == GEMM


@pytest.mark.parametrize("cls", INSTRUCTIONS, ids=lambda c: c.mnemonic)
@settings(max_examples=10)
@given(data=st.data())
def test_every_field_refuses_what_does_not_fit(cls: type[Instruction], data: st.DataObject) -> None:
    legal = data.draw(instructions((cls,)))
    for field in fields_of(cls):
        if field.kind is bool:
            continue
        beyond = [field.high + 1, field.low - 1]
        if field.log2:
            beyond.append(3)
        if issubclass(field.kind, IntEnum):
            beyond = [max(field.kind) + 1, -1]
        for value in beyond:
            with pytest.raises(InstructionError, match=f"{cls.mnemonic}: {field.name} is {value}, "):
                dataclasses.replace(legal, **{field.name: value})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: dataclasses.replace(GEMM, rows=0), "gemm: rows is 0"),
        (lambda: dataclasses.replace(GEMM, waits=(1, 2, 3)), "gemm: waits are [1, 2, 3]: at most two"),
        (lambda: dataclasses.replace(GEMM, posts=(31,)), "gemm: posts are [31]"),
        (lambda: dataclasses.replace(GEMM, posts=(4, 4)), "gemm: posts name semaphore 4 twice"),
        (
            lambda: LocalStrides(engine=Engine.VEC, row=0, plane=0, element=1, element_bytes=1),
            "local_strides: engine is VEC, strides belong to LOAD, FETCH and STORE",
        ),
        (
            lambda: Output(out_bits=8, zero_point=0, low=3, high=2, stride=0, table=0),
            "output: low is 3, above high = 2",
        ),
    ],
)
def test_what_single_fields_cannot_say(wrong: object, message: str) -> None:
    with pytest.raises(InstructionError) as caught:
        wrong()  # pyright: ignore
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hlt", "line 1: unknown instruction hlt; known are halt, fence"),
        (
            "\nsync engine=gpu",
            "line 2: sync: engine is 'gpu', it must be one of load, mac, vec, store, fetch",
        ),
        ("sync", "line 1: sync: engine is missing"),
        ("sync engine=mac unit=1", "line 1: sync: unknown field unit; known are engine"),
        ("sync engine=mac wait=x", "line 1: sync: wait is 'x', not a number"),
        ("sync engine=mac engine=mac", "line 1: sync: engine stands twice"),
        (text_of(GEMM).replace("accumulate", "accumulate=1"), "accumulate is a flag and takes no value"),
        (".core 1\nhalt", "line 1: cores stand in their order: .core 0 comes next"),
        ("fence", "core 0: the stream must end with its only halt"),
        ("halt\nhalt", "core 0: the stream must end with its only halt"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    assert message in str(caught.value)


def test_bits_that_are_no_instruction_are_refused_with_their_index() -> None:
    good = encode(Sync(engine=Engine.MAC))
    with pytest.raises(StreamError, match=r"core 3, instruction 1 \(0x0+1f\): opcode 31 is unknown"):
        Stream.from_bytes(good + (31).to_bytes(16, "little")).decode(3)
    empty = bytearray(encode(GEMM))
    empty[12:] = bytes(4)
    with pytest.raises(StreamError, match=r"instruction 1 .*gemm: (rows|columns|outputs) is 0"):
        Stream.from_bytes(good + bytes(empty)).decode()
    memory = Memory.TABLE
    window = encode(
        Window(
            engine=Engine.VEC, kernel_y=1, kernel_x=1, stride_y=1, stride_x=1, dilation_y=1, dilation_x=1,
            pad_top=0, pad_left=0, height=1, width=1,
        )
    )  # fmt: skip
    assert memory.value == 3
    broken = int.from_bytes(window, "little") & ~(7 << 28)
    with pytest.raises(StreamError, match="windows belong to MAC and VEC"):
        Stream.from_bytes(broken.to_bytes(16, "little")).decode()
    with pytest.raises(ValueError, match="17 bytes are not a multiple of 16"):
        Stream.from_bytes(bytes(17))


def _constructed(words: int) -> list[Instruction] | None:
    """What the constructor of the opcode's class makes of the fields one by one, or None where it refuses."""
    cls = INSTRUCTIONS[words & 31]
    tokens = [words >> 8 + 5 * i & 31 for i in range(4)]
    fields: dict[str, int] = {}
    for field in fields_of(cls):
        raw = words >> field.low_bit & ((1 << field.width) - 1)
        if field.signed and raw >> (field.width - 1):
            raw -= 1 << field.width
        try:
            fields[field.name] = field.kind(1 << raw if field.log2 else raw)
        except ValueError:
            return None
    waits, posts = (tuple(t for t in pair if t != 31) for pair in (tokens[:2], tokens[2:]))
    try:
        return [cls(waits=waits, posts=posts, **fields)]  # pyright: ignore
    except InstructionError:
        return None


@settings(max_examples=500)
@given(st.sampled_from(INSTRUCTIONS), st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 128) - 1))
def test_columns_refuse_what_constructors_refuse(cls: type[Instruction], bits: int, mask: int) -> None:
    """Of any bits; with a mask, so that small values, and bits that belong to no field, are met too."""
    words = bits & mask & ~31 | cls.opcode
    stream = Stream.from_bytes(words.to_bytes(16, "little"))
    expected = _constructed(words)
    if expected is None:
        with pytest.raises(StreamError, match=cls.mnemonic):
            stream.decode()
    else:
        assert stream.decode() == expected


@given(
    st.lists(
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(2**30, 2**31 - 1), st.integers(1, 62)),
        max_size=9,
    )
)
def test_parameters_round_trip(entries: list[tuple[int, int, int]]) -> None:
    bias, multiplier, shift = (np.array([e[i] for e in entries], np.int64) for i in range(3))
    packed = pack_parameters(bias, multiplier, shift)
    assert packed.size == 9 * len(entries)
    for got, expected in zip(unpack_parameters(packed), (bias, multiplier, shift), strict=True):
        assert np.array_equal(got, expected)


def test_parameters_refuse_what_requantize_does_not_know() -> None:
    one = FixedPoint.nearest(1.0)
    with pytest.raises(ValueError, match=r"a shift in \[63, 63\] lies outside of \[1, 62\]"):
        pack_parameters(np.array([0]), np.array([one.multiplier]), np.array([63]))
