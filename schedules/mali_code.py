"""OpenCL C as it is written: typed values, statements in nested blocks, equal expressions computed once.

TVM writes OpenCL C too, but gathers bytes into vectors wrongly (it shifts an int by up to 56 bits), and
repeats common subexpressions: see docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from compiler.numerics.element import ElementType

# A condition is 0 or 1 for one lane, and 0 or -1 for each of several.
_TYPES = {
    ElementType.I8: "char",
    ElementType.I16: "short",
    ElementType.I32: "int",
    ElementType.I64: "long",
    ElementType.BOOL: "int",
}
COMPONENTS = tuple("s" + digit for digit in "0123456789abcdef")


def type_of(element: ElementType, lanes: int = 1) -> str:
    """OpenCL C's name of a type. Errors: ValueError for an element that GPUs do not compute here."""
    if element not in _TYPES:
        raise ValueError(f"no OpenCL kernel computes {element.value}")
    return _TYPES[element] if lanes == 1 else f"{_TYPES[element]}{lanes}"


@dataclass(frozen=True, slots=True)
class Value:
    """Text of an expression without side effects, cheap to repeat: a name or a literal."""

    text: str
    element: ElementType
    lanes: int = 1

    @property
    def type(self) -> str:
        return type_of(self.element, self.lanes)

    def lane(self, index: int) -> str:
        return self.text if self.lanes == 1 else f"{self.text}.{COMPONENTS[index]}"


def literal(value: int, element: ElementType = ElementType.I32, lanes: int = 1) -> Value:
    if element is ElementType.I64:
        text = "LONG_MIN" if value == -(1 << 63) else f"{value}L"
    else:
        text = "INT_MIN" if value == -(1 << 31) else str(value)
    if element is not ElementType.I32 or lanes > 1 or value < 0:
        text = f"(({type_of(element, lanes)})({text}))"
    return Value(text, element, lanes)


@dataclass(slots=True)
class Code:
    """Statements of a function's body."""

    lines: list[str] = field(default_factory=list[str])
    _known: list[dict[str, Value]] = field(default_factory=lambda: [{}])
    _names: int = 0

    def let(self, expression: str, element: ElementType, lanes: int = 1) -> Value:
        """A constant of that value; the one that is known already where there is one.

        expression: pure, and over what does not change: constants, indices of loops, read-only memory.
        """
        key = f"{type_of(element, lanes)} {element.value} {expression}"
        for scope in self._known:
            if key in scope:
                return scope[key]
        value = self.fresh(expression, element, lanes)
        self._known[-1][key] = value
        return value

    def fresh(self, expression: str, element: ElementType, lanes: int = 1) -> Value:
        """A new constant: `expression` may read what changes."""
        self._names += 1
        value = Value(f"v{self._names}", element, lanes)
        self.add(f"const {value.type} {value.text} = {expression};")
        return value

    def variable(self, name: str, initial: Value | None, element: ElementType, lanes: int = 1) -> Value:
        """A variable with a name of its own that begins with `name`."""
        self._names += 1
        value = Value(f"{name}{self._names}", element, lanes)
        self.add(f"{value.type} {value.text}{'' if initial is None else f' = {initial.text}'};")
        return value

    def name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}{self._names}"

    def add(self, statement: str) -> None:
        self.lines.append("    " * len(self._known) + statement)

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """Statements inside braces behind `head`: `if (…)`, `for (…)`."""
        self.add(f"{head} {{")
        self._known.append({})
        yield
        self._known.pop()
        self.add("}")

    def text(self) -> str:
        return "".join(line + "\n" for line in self.lines)
