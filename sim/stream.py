"""Command streams: the binary that a driver hands to a core, and views of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.fields import Column, Field, Words
from sim.isa import INSTRUCTIONS, TOKEN_NONE, Engine, Halt, Instruction, InstructionError, fields_of
from sim.isa.base import BODY_AT, ENGINE_BITS, OPCODE_BITS, TOKEN_BITS, TOKENS_AT

INSTRUCTION_BYTES = 16
_TOKENS = tuple(
    Field(n, TOKEN_BITS, low_bit=TOKENS_AT + TOKEN_BITS * i)
    for i, n in enumerate(("wait0", "wait1", "post0", "post1"))
)
_OPCODE = Field("opcode", OPCODE_BITS)
_ENGINE = Field("engine", ENGINE_BITS, low_bit=BODY_AT)
DISPATCHER = -1  # in Stream.engines: the dispatcher executes it itself


class StreamError(ValueError):
    """A stream that no core can run; the message names core, index and text of the instruction."""

    def __init__(self, core: int, index: int, text: str, reason: str) -> None:
        super().__init__(f"core {core}, instruction {index} ({text}): {reason}")
        self.core, self.index, self.text, self.reason = core, index, text, reason


@dataclass(frozen=True, eq=False)  # no slots: cached properties
class Stream:
    """The instructions of one core as words [n, 2] of 64 bits, little end first."""

    words: Words

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and np.array_equal(self.words, other.words)

    def __hash__(self) -> int:
        return hash(self.words.tobytes())

    @classmethod
    def encode(cls, instructions: Iterable[Instruction]) -> Stream:
        encoded = b"".join(encode(i) for i in instructions)
        return cls.from_bytes(encoded)

    @classmethod
    def from_bytes(cls, data: bytes) -> Stream:
        """Errors: ValueError where the bytes are no whole instructions. Contents are checked by `decode`."""
        if len(data) % INSTRUCTION_BYTES:
            raise ValueError(f"{len(data)} bytes are not a multiple of {INSTRUCTION_BYTES}")
        return cls(np.frombuffer(data, "<u8").reshape(-1, 2).astype(np.uint64))

    def to_bytes(self) -> bytes:
        return self.words.astype("<u8").tobytes()

    @cached_property
    def opcodes(self) -> Column:
        return _OPCODE.extract(self.words)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """[n, 4]: wait0, wait1, post0, post1; TOKEN_NONE where there is none."""
        return np.stack([f.extract(self.words) for f in _TOKENS], axis=1)

    @cached_property
    def engines(self) -> Column:
        """Engine of each instruction, or DISPATCHER."""
        fixed = np.full(1 << OPCODE_BITS, DISPATCHER)
        chosen = np.zeros(1 << OPCODE_BITS, bool)
        for cls in INSTRUCTIONS:
            if cls.engine_of_opcode is not None:
                fixed[cls.opcode] = cls.engine_of_opcode
            chosen[cls.opcode] = any(f.kind is Engine for f in fields_of(cls))
        return np.where(chosen[self.opcodes], _ENGINE.extract(self.words), fixed[self.opcodes])

    def select(self, cls: type[Instruction]) -> Column:
        """Indices of all instructions of one kind."""
        return np.flatnonzero(self.opcodes == cls.opcode)

    def columns(self, cls: type[Instruction], indices: Column | None = None) -> dict[str, Column]:
        """Fields of all instructions of one kind, or of those at `indices`, by name."""
        words = self.words[self.select(cls) if indices is None else indices]
        return {f.name: f.extract(words) for f in fields_of(cls)}

    def decode(self, core: int = 0) -> list[Instruction]:
        """Errors: StreamError for an unknown opcode or a field that is out of its bounds."""
        found: list[Instruction | None] = [None] * len(self)
        unknown = np.flatnonzero(self.opcodes >= len(INSTRUCTIONS))
        if unknown.size:
            i = int(unknown[0])
            raise StreamError(core, i, self.hex(i), f"opcode {self.opcodes[i]} is unknown")
        tokens = [[t for t in row if t != TOKEN_NONE] for row in self.tokens.tolist()]
        waits = self.tokens[:, :2] != TOKEN_NONE
        counts = waits.sum(axis=1).tolist()
        for cls in INSTRUCTIONS:
            indices = self.select(cls)
            kinds = {f.name: f.kind for f in fields_of(cls)}
            columns = {n: [kinds[n](v) for v in c.tolist()] for n, c in self._checked(cls, core).items()}
            for row, i in enumerate(indices.tolist()):
                of = tokens[i]
                fields: dict[str, Any] = {n: c[row] for n, c in columns.items()}
                try:
                    found[i] = cls(waits=tuple(of[: counts[i]]), posts=tuple(of[counts[i] :]), **fields)
                except InstructionError as error:
                    raise StreamError(core, i, self.hex(i), str(error)) from None
        return [i for i in found if i is not None]

    def _checked(self, cls: type[Instruction], core: int) -> dict[str, Column]:
        """Columns whose enumerations have members only."""
        columns, indices = self.columns(cls), self.select(cls)
        for field in fields_of(cls):
            for i, value in zip(indices.tolist(), columns[field.name].tolist(), strict=True):
                if field.kind is not int and (problem := field.problem(value)):
                    raise StreamError(core, i, self.hex(i), f"{cls.mnemonic}: {problem}")
        return columns

    def hex(self, index: int) -> str:
        low, high = (int(w) for w in self.words[index])
        return f"0x{high << 64 | low:032x}"


@dataclass(frozen=True, slots=True)
class Program:
    """One stream for each core; each ends with its only `Halt`."""

    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        if not self.streams:
            raise ValueError("a program needs a stream for each core")
        for core, stream in enumerate(self.streams):
            halts = stream.select(Halt)
            if halts.tolist() != [len(stream) - 1]:
                raise ValueError(f"core {core}: the stream must end with its only halt, halts at {halts[:4]}")

    @classmethod
    def of(cls, *streams: Sequence[Instruction]) -> Program:
        """From the instructions of each core, without their `Halt`."""
        return cls(tuple(Stream.encode([*s, Halt()]) for s in streams))

    def __len__(self) -> int:
        """Instructions of all cores."""
        return sum(len(s) for s in self.streams)


def encode(instruction: Instruction) -> bytes:
    """The 16 bytes of an instruction."""
    waits, posts = ((*t, TOKEN_NONE, TOKEN_NONE)[:2] for t in (instruction.waits, instruction.posts))
    word = instruction.opcode
    for field, token in zip(_TOKENS, (*waits, *posts), strict=True):
        word |= token << field.low_bit
    for field in fields_of(type(instruction)):
        word |= field.stored(int(getattr(instruction, field.name))) << field.low_bit
    return word.to_bytes(INSTRUCTION_BYTES, "little")
