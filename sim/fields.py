"""Bit fields of instruction words: declared once at a dataclass's fields, packed and unpacked in columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # [n, 2]: low and high half of each instruction
Column = NDArray[np.int64]
_HALF = 64


@dataclass(frozen=True, slots=True)
class Field:
    """An integer of `width` bits. log2: the stored number is the logarithm of a power of two.

    kind: int, bool or the IntEnum that the value belongs to. positive: not 0. among: the only values that are
    allowed of those that the bits can hold; why: what is said of others.
    """

    name: str
    width: int
    signed: bool = False
    log2: bool = False
    kind: type[int] = int
    positive: bool = False
    among: frozenset[int] | None = None
    why: str = ""
    low_bit: int = 0

    @property
    def low(self) -> int:
        return 1 if self.log2 else -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        if self.log2:
            return 1 << ((1 << self.width) - 1)
        return (1 << (self.width - self.signed)) - 1

    def problem(self, value: int) -> str | None:
        """Why the field cannot hold `value`, or None."""
        if issubclass(self.kind, IntEnum):
            members = [m.value for m in self.kind]
            known = ", ".join(m.name.lower() for m in self.kind)
            return None if value in members else f"{self.name} is {value}, it must be one of {known}"
        if not self.low <= value <= self.high:
            return f"{self.name} is {value}, outside of {self.low}..{self.high}"
        if self.log2 and value & (value - 1):
            return f"{self.name} is {value}, not a power of two"
        return None

    def refusal(self, value: int) -> str | None:
        """Why the instruction cannot take `value`, or None."""
        if problem := self.problem(value):
            return problem
        if self.positive and value == 0:
            return f"{self.name} is 0"
        if self.among is not None and value not in self.among:
            shown = self.kind(value).name if issubclass(self.kind, IntEnum) else value
            return f"{self.name} is {shown}, {self.why}"
        return None

    @property
    def allowed(self) -> frozenset[int] | None:
        """All values that the instruction takes; None: all of a range."""
        if self.among is not None:
            return self.among
        if issubclass(self.kind, IntEnum):
            return frozenset(m.value for m in self.kind)
        return frozenset(1 << i for i in range(1 << self.width)) if self.log2 else None

    def refused(self, column: Column) -> NDArray[np.bool_]:
        """Which values of a column that was extracted have a `refusal`."""
        allowed = self.allowed
        if allowed is not None:
            return ~np.isin(column, np.array(sorted(allowed)))
        return column == 0 if self.positive else np.zeros(column.shape, bool)

    def stored(self, value: int) -> int:
        """The field's bits for a value without a `problem`."""
        return value.bit_length() - 1 if self.log2 else value & ((1 << self.width) - 1)

    def insert(self, words: Words, column: Column) -> None:
        """Sets the field in instruction words [n, 2] where its bits are 0: the inverse of `extract`."""
        raw = np.frexp(column)[1] - 1 if self.log2 else column
        raw = raw.astype(np.int64).view(np.uint64) & np.uint64((1 << self.width) - 1)
        index, shift = divmod(self.low_bit, _HALF)
        words[:, index] |= raw << np.uint64(shift)
        if _HALF - shift < self.width:  # the rest lies in the high half
            words[:, index + 1] |= raw >> np.uint64(_HALF - shift)

    def extract(self, words: Words) -> Column:
        """The values that instruction words [n, 2] hold, int64 [n]."""
        index, shift = divmod(self.low_bit, _HALF)
        raw = words[:, index] >> np.uint64(shift)
        taken = _HALF - shift
        if taken < self.width:  # the rest lies in the high half
            raw = raw | (words[:, index + 1] << np.uint64(taken))
        raw = (raw & np.uint64((1 << self.width) - 1)).astype(np.int64)
        if self.log2:
            return np.int64(1) << raw
        if self.signed:
            sign = np.int64(1 << (self.width - 1))
            return (raw ^ sign) - sign
        return raw


def bits(
    width: int,
    *,
    signed: bool = False,
    log2: bool = False,
    positive: bool = False,
    among: Iterable[int] | None = None,
    why: str = "",
) -> Any:
    """A dataclass field that is stored in `width` bits (see `Field`)."""
    allowed = None if among is None else frozenset(int(n) for n in among)
    return dataclasses.field(
        metadata={
            "width": width,
            "signed": signed,
            "log2": log2,
            "positive": positive,
            "among": allowed,
            "why": why,
        }
    )


def flag() -> Any:
    """A dataclass field of one bit in the header; False by default."""
    return dataclasses.field(default=False, metadata={"width": 1})


def layout(cls: type[Any], first_bit: int, first_flag: int) -> tuple[Field, ...]:
    """Where the declared fields of an instruction lie: numbers one after another from `first_bit` on,
    flags from `first_flag` on. Fields without a width are none of ours."""
    hints = get_type_hints(cls)
    found: list[Field] = []
    for field in dataclasses.fields(cls):
        if "width" not in field.metadata:
            continue
        kind = hints[field.name]
        width = int(field.metadata["width"])
        rest = {k: v for k, v in field.metadata.items() if k != "width"}
        at = first_flag if kind is bool else first_bit
        if kind is bool:
            first_flag += 1
        else:
            first_bit += width
        found.append(Field(field.name, width, kind=kind, low_bit=at, **rest))
    return tuple(found)
