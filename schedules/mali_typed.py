"""Types of OpenCL C's expressions, and the values of indices at neighbouring work-items."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_TYPE = re.compile(r"u?(char|short|int|long)(2|4|8|16)?")
_BYTES = {"char": 1, "short": 2, "int": 4, "long": 8}


class Scalars(NamedTuple):
    """A value at the work-item (0, 0), and at its neighbours along x and along y; of a pointer, its distance
    from the operand's start in bytes."""

    here: int
    along_x: int
    along_y: int

    @property
    def steps(self) -> tuple[int, int]:
        return self.along_x - self.here, self.along_y - self.here


@dataclass(frozen=True, slots=True)
class Typed:
    """bytes: of an element, of a pointer those that it points to. at: None where the value depends on
    memory, or is a vector. uniform: a pointer that is the same for all work-items."""

    bytes: int
    lanes: int
    pointer: bool = False
    at: Scalars | None = None
    uniform: bool = False
    literal: bool = False

    @property
    def words(self) -> int:
        """Registers that hold it; narrow elements share them, and what is the same for all has its own."""
        if self.pointer:
            return 0 if self.uniform else 2
        return 0 if self.literal else -(-self.bytes * self.lanes // 4)


def type_named(name: str) -> Typed | None:
    """None where no type is called so."""
    found = _TYPE.fullmatch(name)
    return None if found is None else Typed(_BYTES[found[1]], int(found[2] or 1))


def literal_of(text: str) -> Typed:
    """Of `12`, `12L`, `INT_MAX`."""
    number = int(text.rstrip("L")) if text[0].isdigit() else 0
    return Typed(8 if "L" in text else 4, 1, at=Scalars(number, number, number), literal=True)


def _divided(a: int, b: int) -> int:
    return int(a / b) if b else 0


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": lambda a, b=None: -a if b is None else a - b,
    "*": operator.mul,
    "/": _divided,
    "%": lambda a, b: a - b * _divided(a, b),
    "<<": lambda a, b: a << min(b, 63),
    ">>": lambda a, b: a >> min(b, 63),
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "&": operator.and_,
    "~": operator.invert,
    "min": min,
    "max": max,
}


def combined(name: str, operands: Sequence[Typed]) -> Typed:
    """The result of an operator or of a function of all lanes. A pointer plus a number is a pointer."""
    pointer = next((o for o in operands if o.pointer), None)
    if pointer is not None:
        number = next((o for o in operands if not o.pointer), None)
        return pointer if number is None else _moved(pointer, number)
    lanes = max(o.lanes for o in operands)
    widths = [o.bytes for o in operands if not o.literal] or [o.bytes for o in operands]
    literal = all(o.literal for o in operands)
    function = _FUNCTIONS.get(name)
    values = [o.at for o in operands if o.at is not None]
    at = None
    if function is not None and lanes == 1 and len(values) == len(operands):
        at = Scalars(*(int(function(*each)) for each in zip(*values, strict=True)))
    return Typed(max(widths), lanes, at=at, literal=literal)


def _moved(pointer: Typed, number: Typed) -> Typed:
    at = None
    if pointer.at is not None and number.at is not None:
        at = Scalars(*(p + n * pointer.bytes for p, n in zip(pointer.at, number.at, strict=True)))
    fixed = pointer.uniform and (number.literal or (at is not None and at.steps == (0, 0)))
    return Typed(pointer.bytes, 1, True, at, uniform=fixed)


def spread(of: Typed, parts: Sequence[Typed]) -> Typed:
    """A cast to a type, or a vector of some values."""
    one = parts[0] if len(parts) == 1 and of.lanes == 1 else None
    at = None if one is None else one.at
    return Typed(of.bytes, of.lanes, at=at, literal=all(p.literal for p in parts))
