"""Scalar expressions of the loop language: what one element of a stage computes.

Integer arithmetic is two's complement and must not overflow: the operator that writes an expression
answers for it. Expressions are immutable values, so equal computations compare and hash equal.
Operators (+ - * >> & and comparisons by method) build expressions; Python ints are constants of the
other operand's type. There is no implicit conversion: `cast` says each one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from compiler.numerics.element import ElementType


class BinaryOp(Enum):
    ADD = "+"
    SUB = "-"
    MUL = "*"
    DIV = "/"  # floor division of integers by a positive divisor; IEEE division of F32
    MIN = "min"
    MAX = "max"
    SHIFT_RIGHT = ">>"  # arithmetic: floor(a / 2**b)
    SHIFT_LEFT = "<<"
    AND = "&"
    LESS = "<"
    EQUAL = "=="
    BOTH = "and"


_COMPARISONS = frozenset({BinaryOp.LESS, BinaryOp.EQUAL, BinaryOp.BOTH})


class Expression:
    """Base of all expressions; `element` is the type of the value."""

    __slots__ = ()

    @property
    def element(self) -> ElementType:
        raise NotImplementedError

    def __add__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.ADD, self, other)

    def __radd__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.ADD, literal(other, self.element), self)

    def __sub__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.SUB, self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.SUB, literal(other, self.element), self)

    def __mul__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.MUL, self, other)

    def __rmul__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.MUL, literal(other, self.element), self)

    def __floordiv__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.DIV, self, other)

    def __truediv__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.DIV, self, other)

    def __rshift__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.SHIFT_RIGHT, self, other)

    def __lshift__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.SHIFT_LEFT, self, other)

    def __and__(self, other: Operand) -> Expression:
        return _binary(BinaryOp.AND, self, other)

    def less(self, other: Operand) -> Expression:
        return _binary(BinaryOp.LESS, self, other)

    def equals(self, other: Operand) -> Expression:
        return _binary(BinaryOp.EQUAL, self, other)

    def both(self, other: Expression) -> Expression:
        return _binary(BinaryOp.BOTH, self, other)

    def within(self, low: int, high: int) -> Expression:
        """low <= self < high."""
        return Binary(BinaryOp.LESS, Constant(low - 1, self.element), self).both(self.less(high))

    def cast(self, element: ElementType) -> Expression:
        return self if element is self.element else Cast(self, element)


Operand: TypeAlias = Expression | int | float


@dataclass(frozen=True, slots=True)
class Constant(Expression):
    value: int | float
    type: ElementType = ElementType.I32

    @property
    def element(self) -> ElementType:
        return self.type


@dataclass(frozen=True, slots=True)
class Axis(Expression):
    """A loop variable: as an expression, its index (I32) in [0, extent)."""

    name: str
    extent: int

    @property
    def element(self) -> ElementType:
        return ElementType.I32


@dataclass(frozen=True, slots=True)
class Load(Expression):
    """buffer[indices]; every index must be in bounds whenever the load is evaluated."""

    buffer: str
    indices: tuple[Expression, ...]
    type: ElementType

    @property
    def element(self) -> ElementType:
        return self.type


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    op: BinaryOp
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        if self.left.element is not self.right.element:
            raise TypeError(f"{self.left.element} {self.op.value} {self.right.element}: cast one operand")

    @property
    def element(self) -> ElementType:
        return ElementType.BOOL if self.op in _COMPARISONS else self.left.element


@dataclass(frozen=True, slots=True)
class Select(Expression):
    """when_true if condition else when_false. Only the chosen branch is evaluated, so a condition may
    guard a load."""

    condition: Expression
    when_true: Expression
    when_false: Expression

    def __post_init__(self) -> None:
        if self.when_true.element is not self.when_false.element:
            raise TypeError(f"select of {self.when_true.element} and {self.when_false.element}")

    @property
    def element(self) -> ElementType:
        return self.when_true.element


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    """Conversion. Integer to integer must be in range; integer to F32 rounds to nearest even; F32 to
    integer takes an integral value in range."""

    value: Expression
    type: ElementType

    @property
    def element(self) -> ElementType:
        return self.type


@dataclass(frozen=True, slots=True)
class Rescale(Expression):
    """floor(value * multiplier / 2**shift + 1/2) as I32; value, multiplier and shift are I32 and as in
    `compiler.numerics.fixed_point`. A node of its own, because every target has its own sequence for it.

    A magnitude of 2**29 or more may come out as another such on the same side: operators clamp results to
    codes, of at most 16 bits, whose zero point may be added before.
    """

    value: Expression
    multiplier: Expression
    shift: Expression

    @property
    def element(self) -> ElementType:
        return ElementType.I32


@dataclass(frozen=True, slots=True)
class Floor(Expression):
    """Largest integral F32 not above an F32 value."""

    value: Expression

    @property
    def element(self) -> ElementType:
        return ElementType.F32


def literal(value: Operand, element: ElementType) -> Expression:
    """`value` itself, or the constant of `element`."""
    return value if isinstance(value, Expression) else Constant(value, element)


def minimum(a: Expression, b: Operand) -> Expression:
    return _binary(BinaryOp.MIN, a, b)


def maximum(a: Expression, b: Operand) -> Expression:
    return _binary(BinaryOp.MAX, a, b)


def clamp(value: Expression, low: Operand, high: Operand) -> Expression:
    """max(min(value, high), low)."""
    return maximum(minimum(value, high), low)


def _binary(op: BinaryOp, left: Expression, right: Operand) -> Expression:
    return Binary(op, left, literal(right, left.element))
