"""What a kernel does, counted in its OpenCL C: the very text that drivers compile.

The code is read as schedules write it (`mali_code`, `mali_prelude`): typed declarations, assignments, loops
with constant bounds. Of an `if` with an `else` the first branch counts; the other is the ragged end of a row
or the outside of an image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from schedules.mali_lifetimes import Lifetimes, Variable
from schedules.mali_prelude import PRELUDE
from schedules.mali_typed import Scalars, Typed, combined, literal_of, spread, type_named

_TOKEN = re.compile(r"\s+|/\*.*?\*/|(\d+L?|\w+|<<|>>|<=|>=|==|&&|\+\+|\+=|.)", re.DOTALL)
_QUALIFIERS = {"const", "__global", "__local", "restrict", "inline"}
# Loosest first.
_BINARY = (
    ("&&",),
    ("&",),
    ("==",),
    ("<", ">", "<=", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
# 32-bit operations of what has no instruction of its own: division by a constant, high half of a product.
_COSTS = {"/": 4, "%": 4, "mul_hi": 2}
_DOTS = {"DOT4": 1, "DOT16": 4}
_FALLBACKS = {"DOT4": "bl_dot4", "DOT16": "bl_dot16"}


@dataclass(frozen=True, slots=True)
class Access:
    """A load or a store, `times` for each work-item. bytes: of one. steps: between the addresses of
    neighbours along x and along y; None where that is not known."""

    times: int
    bytes: int
    store: bool
    steps: tuple[int, int] | None


@dataclass(slots=True)
class Tally:
    """Of one work-item. operations: of 32 bits on one lane, dots aside. rounds: how often it waits for loads
    that do not depend on each other. registers: of 32 bits that hold values at once."""

    dots: int = 0
    operations: int = 0
    rounds: int = 0
    registers: int = 0
    accesses: list[Access] = field(default_factory=list[Access])

    @property
    def loads(self) -> int:
        return sum(a.times for a in self.accesses if not a.store)

    @property
    def stores(self) -> int:
        return sum(a.times for a in self.accesses if a.store)


def tally(source: str, dot_product: bool) -> Tally:
    """Of a `__kernel` function; not to be changed. dot_product: whether the device has instructions for it.

    Errors: ValueError for what schedules do not write.
    """
    return _body(source[source.index("{\n") :], dot_product)


@lru_cache(512)
def _body(text: str, dot_product: bool) -> Tally:
    """Kernels that differ in their names and groups are counted once."""
    reader = _Reader(text, dot_product)
    reader.block()
    return reader.finished()


@lru_cache
def _called(name: str) -> Tally:
    """Of a function of the prelude."""
    found = re.search(rf"inline (\w+) {name}\((.*?)\)\n(\{{.*?\n\}})", PRELUDE, re.DOTALL)
    if found is None:
        raise ValueError(f"the prelude has no function {name}")
    reader = _Reader(found[3], False)
    for parameter in found[2].split(", "):
        of, called = parameter.split()
        reader.declare(called, _known_type(of))
    reader.block()
    return reader.finished()


def _known_type(name: str) -> Typed:
    found = type_named(name)
    if found is None:
        raise ValueError(f"no type is called {name}")
    return found


class _Reader:
    """Reads statements one after the other, each once; loops multiply what is inside."""

    def __init__(self, text: str, dot_product: bool) -> None:
        self._tokens = [m[1] for m in _TOKEN.finditer(text) if m[1]]
        self._at = 0
        self._dot_product = dot_product
        self._tally, self._counts = Tally(), True
        self._names: dict[str, Variable] = {}
        self._lifetimes = Lifetimes()
        self._times = [1]  # of the loops around
        self._waits = [False]

    def finished(self) -> Tally:
        self._tally.registers = self._lifetimes.registers
        self._wait()
        return self._tally

    # Statements.

    def block(self) -> None:
        self._take("{")
        hidden = dict(self._names)
        while self._tokens[self._at] != "}":
            self._read_statement()
        self._at += 1
        self._names = hidden

    def declare(self, name: str, of: Typed) -> None:
        self._names[name] = self._lifetimes.declared(of)

    def _read_statement(self) -> None:
        self._lifetimes.next_statement()
        match self._tokens[self._at]:
            case "{":
                self.block()
            case "if":
                self._if()
            case "for":
                self._for()
            case "return":
                self._at += 1
                if self._tokens[self._at] != ";":
                    self._expression()
                self._take(";")
            case _ if (of := self._type()) is not None:
                self._declaration(of)
            case _:
                self._assignment()

    def _if(self) -> None:
        self._at += 1
        self._parenthesized()
        if self._tokens[self._at] == "{":
            self.block()
        else:
            self._read_statement()
        if self._tokens[self._at] == "else":
            self._at += 1
            counted, self._counts = self._counts, False
            self.block()
            self._counts = counted

    def _for(self) -> None:
        self._at += 1
        self._take("(")
        of = self._type()
        assert of is not None
        name = self._declaration(of)
        first = self._names[name].type
        self._at += 2  # the index, and <
        end = self._expression()
        self._take(";")
        step = self._step()
        if end.at is None:
            raise ValueError(f"the bound of the loop over {name} is not constant")
        trips = max(0, -(-(end.at[0] - (first.at[0] if first.at else 0)) // step))
        self._times.append(self._times[-1] * trips)
        self._lifetimes.begin_loop()
        self._waits.append(False)
        self._count(1)
        self.block()
        self._wait()
        self._times.pop()
        self._lifetimes.end_loop()

    def _step(self) -> int:
        """Of `i++)` or `i += 4)`."""
        self._at += 1
        step = 1
        if self._tokens[self._at] == "++":
            self._at += 1
        else:
            self._take("+=")
            step = int(self._tokens[self._at])
            self._at += 1
        self._take(")")
        return step

    def _wait(self) -> None:
        if self._waits.pop():
            self._tally.rounds += self._times[-1]

    def _declaration(self, of: Typed) -> str:
        name = self._tokens[self._at]
        self._at += 1
        if self._tokens[self._at] == "[":  # private memory
            self._at += 1
            self._expression()
            self._take("]")
            of = Typed(of.bytes, 1, True, Scalars(0, of.bytes, 0), uniform=True)
        elif self._tokens[self._at] == "=":
            self._at += 1
            value = self._expression()
            uniform = of.pointer and value.uniform
            of = Typed(of.bytes, of.lanes, of.pointer, value.at if of.words <= 2 else None, uniform)
        self._take(";")
        self.declare(name, of)
        return name

    def _assignment(self) -> None:
        if re.fullmatch(r"vstore\d+", self._tokens[self._at]):
            lanes = int(self._tokens[self._at][6:])
            self._at += 1
            self._take("(")
            self._expression()
            self._take(",")
            self._expression()
            self._take(",")
            self._access(self._expression(), lanes, store=True)
            self._take(")")
        else:
            self._assigned()
        self._take(";")

    def _assigned(self) -> None:
        name = self._tokens[self._at]
        self._at += 1
        target = self._use(name)
        if self._tokens[self._at] == "[":
            self._access(self._moved(target), 1, store=True)
        else:
            target = self._component(target)
            if not target.pointer:  # what it was when it was declared says no more what it is
                self._names[name].type = replace(self._names[name].type, at=None)
        operator = self._tokens[self._at]
        self._at += 1
        value = self._expression()
        if operator == "+=":
            self._count(max(target.words, value.words) if not target.pointer else 1)
        elif operator != "=":
            raise ValueError(f"no assignment is written {operator}")

    # Expressions.

    def _expression(self) -> Typed:
        condition = self._binary(0)
        if self._tokens[self._at] != "?":
            return condition
        self._at += 1
        first = self._expression()
        self._take(":")
        second = self._expression()
        found = combined("?", [first, second])
        self._count(found.words)
        return found

    def _binary(self, level: int) -> Typed:
        if level == len(_BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while self._tokens[self._at] in _BINARY[level]:
            operator = self._tokens[self._at]
            self._at += 1
            left = self._applied(operator, [left, self._binary(level + 1)])
        return left

    def _applied(self, operator: str, operands: Sequence[Typed]) -> Typed:
        found = combined(operator, operands)
        if not all(o.literal for o in operands):
            wide = 1 if found.pointer else max(o.words for o in (*operands, found))
            self._count(_COSTS.get(operator, 1) * wide)
        return self._noted(found)

    def _unary(self) -> Typed:
        token = self._tokens[self._at]
        if token in ("-", "~"):
            self._at += 1
            return self._applied(token, [self._unary()])
        if token == "*":
            self._at += 1
            return self._access(self._unary(), 1, store=False)
        if token == "(":
            return self._component(self._cast() or self._parenthesized())
        self._at += 1
        if token[0].isdigit() or token in ("INT_MAX", "INT_MIN", "LONG_MIN"):
            return literal_of(token)
        if self._tokens[self._at] == "(":
            return self._component(self._call(token))
        value = self._use(token)
        while self._tokens[self._at] == "[":
            value = self._access(self._moved(value), 1, store=False)
        return self._component(value)

    def _cast(self) -> Typed | None:
        """None, and nothing read, for parentheses around an expression."""
        start = self._at
        self._at += 1
        of = self._type()
        if of is None:
            self._at = start
            return None
        self._take(")")
        if self._tokens[self._at] != "(":
            return spread(of, [self._unary()])
        parts = self._arguments()
        if of.pointer:
            return Typed(of.bytes, 1, True, Scalars(0, 0, 0), uniform=True)
        if len(parts) > 1 and not all(p.literal for p in parts):
            self._count(of.words)
        return self._noted(spread(of, parts))

    def _call(self, name: str) -> Typed:
        if name == "get_global_id":
            [dimension] = self._arguments()
            assert dimension.at is not None
            return Typed(4, 1, at=Scalars(0, int(dimension.at[0] == 0), int(dimension.at[0] == 1)))
        loaded = re.fullmatch(r"vload(\d+)", name)
        arguments = self._arguments()
        if loaded:
            return self._access(arguments[1], int(loaded[1]), store=False)
        if (of := type_named(name.partition("_")[2])) is not None and name.startswith(("convert_", "as_")):
            if name.startswith("convert_"):
                self._count(max(of.words, arguments[0].words))
            return self._noted(spread(of, arguments))
        if name in _DOTS and self._dot_product:
            self._tally.dots += _DOTS[name] * self._times[-1] * self._counts
            return Typed(4, 1)
        if name in _DOTS or name.startswith("bl_"):
            called = _called(_FALLBACKS.get(name, name))
            self._count(called.operations)
            self._lifetimes.hold(called.registers)
            return Typed(1, 16) if name.startswith("bl_unpack") else Typed(4, 1)
        return self._applied(name, arguments)

    def _arguments(self) -> list[Typed]:
        self._take("(")
        found = [self._expression()]
        while self._tokens[self._at] == ",":
            self._at += 1
            found.append(self._expression())
        self._take(")")
        return found

    def _parenthesized(self) -> Typed:
        [value] = self._arguments()
        return value

    def _component(self, value: Typed) -> Typed:
        """`.lo`, `.s3`, `.s0123`, as often as they follow."""
        while self._tokens[self._at] == ".":
            part = self._tokens[self._at + 1]
            lanes = value.lanes // 2 if part in ("lo", "hi") else len(part) - 1
            value = Typed(value.bytes, lanes)
            self._at += 2
        return value

    def _moved(self, pointer: Typed) -> Typed:
        """A pointer at [index]."""
        self._take("[")
        index = self._expression()
        self._take("]")
        return combined("+", [pointer, index])

    def _type(self) -> Typed | None:
        """A type with its qualifiers; None, and nothing read, where there is none."""
        start = self._at
        while self._tokens[self._at] in _QUALIFIERS:
            self._at += 1
        of = type_named(self._tokens[self._at])
        if of is None:
            self._at = start
            return None
        self._at += 1
        while self._tokens[self._at] in ("*", "restrict"):
            of = Typed(of.bytes, of.lanes, pointer=True)
            self._at += 1
        return of

    # What is found.

    def _take(self, token: str) -> None:
        if self._tokens[self._at] != token:
            near = " ".join(self._tokens[max(0, self._at - 6) : self._at + 3])
            raise ValueError(f"{token} is missing in: {near}")
        self._at += 1

    def _use(self, name: str) -> Typed:
        variable = self._names.get(name)
        if variable is None:  # an argument of the kernel
            return Typed(4, 1)
        self._lifetimes.use(variable)
        return variable.type

    def _noted(self, value: Typed) -> Typed:
        self._lifetimes.hold(value.words)
        return value

    def _count(self, operations: int) -> None:
        self._tally.operations += operations * self._times[-1] * self._counts

    def _access(self, pointer: Typed, lanes: int, store: bool) -> Typed:
        if self._counts and self._times[-1]:
            steps = None if pointer.at is None else pointer.at.steps
            access = Access(self._times[-1], lanes * pointer.bytes, store, steps)
            self._tally.accesses.append(access)
            self._waits[-1] |= not store
        return self._noted(Typed(pointer.bytes, lanes))
