"""What all instructions have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from operator import attrgetter
from typing import ClassVar

from sim.fields import Field, layout

TOKEN_NONE = 31
TOKEN_BITS = 5
OPCODE_BITS = 5
ENGINE_BITS = 3
LOCAL_TOKENS = 20  # 0..19 belong to a core, 20..30 are shared by all
MAX_TOKENS = 255  # what a counter holds
FLAGS_AT, TOKENS_AT, BODY_AT = 5, 8, 28


class Engine(IntEnum):
    """In the order in which they are served where they want one bank in one cycle.

    LOAD and FETCH are alike: what one waits for (weights from a slow memory) does not hold up the other.
    """

    LOAD = 0
    MAC = 1
    VEC = 2
    STORE = 3
    FETCH = 4


class Memory(IntEnum):
    """Memories that instructions name; SRAM and DRAM are outside of the cores."""

    ACTIVATION = 0
    WEIGHT = 1
    PARAMETER = 2
    TABLE = 3
    ACCUMULATOR = 4
    SRAM = 5
    DRAM = 6


class InstructionError(ValueError):
    """A field that does not fit; the message names the instruction and the field's bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """waits: semaphores that must be above 0 and are taken one from, before it starts; posts: those that
    are added one to when it has ended. Two of each at most."""

    opcode: ClassVar[int]
    engine_of_opcode: ClassVar[Engine | None] = None
    mnemonic: ClassVar[str]
    ascending: ClassVar[tuple[str, str] | None] = None  # a field that must not pass another one
    waits: tuple[int, ...] = ()
    posts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.waits or self.posts:
            self._check_tokens()
        values, bounds = _bounds_of(type(self))
        for value, (low, high, allowed) in zip(values(self), bounds, strict=False):
            if not low <= value <= high or (allowed is not None and value not in allowed):
                break
        else:
            if self.ascending is None or self._ascends():
                return
        raise InstructionError(f"{self.mnemonic}: {self._refusal()}")

    def _check_tokens(self) -> None:
        for name in ("waits", "posts"):
            tokens = getattr(self, name)
            if len(tokens) > 2 or not all(0 <= t < TOKEN_NONE for t in tokens):
                raise InstructionError(
                    f"{self.mnemonic}: {name} are {list(tokens)}: at most two semaphores of 0..30"
                )
            if len(set(tokens)) != len(tokens):
                raise InstructionError(f"{self.mnemonic}: {name} name semaphore {tokens[0]} twice")

    def _ascends(self) -> bool:
        low, high = self.ascending or ("", "")
        return getattr(self, low) <= getattr(self, high)

    def _refusal(self) -> str:
        """Of the first field that is wrong."""
        for field in fields_of(type(self)):
            if refusal := field.refusal(getattr(self, field.name)):
                return refusal
        low, high = self.ascending or ("", "")
        return f"{low} is {getattr(self, low)}, above {high} = {getattr(self, high)}"

    @property
    def runs_on(self) -> Engine | None:
        """None: the dispatcher itself."""
        return getattr(self, "engine", self.engine_of_opcode)


@cache
def fields_of(cls: type[Instruction]) -> tuple[Field, ...]:
    """Fields of an instruction beside waits and posts, in the order of their bits."""
    return layout(cls, BODY_AT, FLAGS_AT)


@cache
def _bounds_of(
    cls: type[Instruction],
) -> tuple[Callable[[Instruction], tuple[int, ...]], tuple[tuple[int, int, frozenset[int] | None], ...]]:
    """Values of all fields, and of each the lowest, the highest, and all where those of a range are too
    many."""
    fields = fields_of(cls)
    # Two names more, which no bound belongs to: of one name or none, attrgetter gives no tuple.
    values = attrgetter(*(f.name for f in fields), "waits", "posts")
    return values, tuple((1 if f.positive else f.low, f.high, f.allowed) for f in fields)
