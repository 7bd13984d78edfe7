"""Command streams: the binary that a driver hands to a core, and views of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
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
        given = list(instructions)
        kinds = np.fromiter((i.opcode for i in given), np.int64, len(given))
        words = np.zeros((len(given), 2), np.uint64)
        _OPCODE.insert(words, kinds)
        for field, column in zip(_TOKENS, _token_columns(given), strict=True):
            field.insert(words, column)
        for opcode in np.unique(kinds).tolist():
            index = np.flatnonzero(kinds == opcode)
            mine, own = [given[i] for i in index.tolist()], words[index]
            for field in fields_of(INSTRUCTIONS[opcode]):
                field.insert(own, np.fromiter(map(attrgetter(field.name), mine), np.int64, len(mine)))
            words[index] = own
        return cls(words)

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

    def with_tokens(self, tokens: NDArray[np.int64]) -> Stream:
        """The same instructions with these tokens [n, 4]."""
        words = self.words.copy()
        words[:, 0] &= ~np.uint64(((1 << TOKEN_BITS * len(_TOKENS)) - 1) << TOKENS_AT)
        for field, column in zip(_TOKENS, tokens.T, strict=True):
            field.insert(words, column)
        return Stream(words)

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

    def check(self, core: int = 0) -> None:
        """Errors: StreamError for an unknown opcode, or a field or token that no instruction takes."""
        wrong = np.flatnonzero(self.opcodes >= len(INSTRUCTIONS))
        if wrong.size:
            i = int(wrong[0])
            raise StreamError(core, i, self.hex(i), f"opcode {self.opcodes[i]} is unknown")
        for cls in INSTRUCTIONS:
            indices, columns = self.select(cls), self.columns(cls)
            refused = np.zeros(indices.shape, bool)
            for field in fields_of(cls):
                refused |= field.refused(columns[field.name])
            if cls.ascending is not None:
                low, high = cls.ascending
                refused |= columns[low] > columns[high]
            for side in (self.tokens[indices, :2], self.tokens[indices, 2:]):
                refused |= (side[:, 0] == side[:, 1]) & (side[:, 0] != TOKEN_NONE)
            if refused.any():
                self._refuse(cls, core, int(indices[np.argmax(refused)]))

    def _refuse(self, cls: type[Instruction], core: int, i: int) -> None:
        fields: dict[str, Any] = {n: int(c[0]) for n, c in self.columns(cls, np.array([i])).items()}
        for field in fields_of(cls):
            if problem := field.problem(fields[field.name]):
                raise StreamError(core, i, self.hex(i), f"{cls.mnemonic}: {problem}")
            fields[field.name] = field.kind(fields[field.name])
        row = self.tokens[i].tolist()
        waits, posts = (tuple(t for t in half if t != TOKEN_NONE) for half in (row[:2], row[2:]))
        try:
            cls(waits=waits, posts=posts, **fields)
        except InstructionError as error:
            raise StreamError(core, i, self.hex(i), str(error)) from None
        raise AssertionError("columns and instructions disagree about what is legal")

    def decode(self, core: int = 0) -> list[Instruction]:
        """Errors: see `check`."""
        self.check(core)
        found = np.empty(len(self), object)
        for cls in INSTRUCTIONS:
            indices = self.select(cls)
            made = [object.__new__(cls) for _ in range(len(indices))]
            for name, column in self._values(cls, indices):
                # What `check` has seen needs no constructor.
                deque(map(getattr(cls, name).__set__, made, column), maxlen=0)
            found[indices] = made
        return found.tolist()

    def _values(self, cls: type[Instruction], indices: Column) -> Iterator[tuple[str, list[Any]]]:
        """Of all of an instruction's fields, those of the instructions at `indices`."""
        tokens = self.tokens[indices]
        for name, pairs in (("waits", tokens[:, :2]), ("posts", tokens[:, 2:])):
            yield name, [tuple(t for t in pair if t != TOKEN_NONE) for pair in pairs.tolist()]
        columns = self.columns(cls, indices)
        for field in fields_of(cls):
            values = columns[field.name].tolist()
            members = {} if field.kind is int else {v: field.kind(v) for v in set(values)}
            yield field.name, [members[v] for v in values] if members else values

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
    return Stream.encode([instruction]).to_bytes()


def _token_columns(given: Sequence[Instruction]) -> NDArray[np.int64]:
    """[4, n]: see `Stream.tokens`."""
    none = (TOKEN_NONE, TOKEN_NONE)
    rows = [
        (*(*i.waits, *none)[:2], *(*i.posts, *none)[:2]) if i.waits or i.posts else none * 2 for i in given
    ]
    return np.array(rows, np.int64).reshape(-1, 4).T
