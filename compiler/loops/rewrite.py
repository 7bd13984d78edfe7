"""Walks over expressions: children, loads, free axes, substitution, and sums of products of an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from compiler.loops.expression import (
    Axis,
    Binary,
    BinaryOp,
    Cast,
    Constant,
    Expression,
    Floor,
    Load,
    Rescale,
    Select,
)
from compiler.numerics.element import ElementType


def children(e: Expression) -> tuple[Expression, ...]:
    match e:
        case Load():
            return e.indices
        case Binary():
            return (e.left, e.right)
        case Select():
            return (e.condition, e.when_true, e.when_false)
        case Rescale():
            return (e.value, e.multiplier, e.shift)
        case Cast() | Floor():
            return (e.value,)
        case _:
            return ()


def map_children(e: Expression, visit: Callable[[Expression], Expression]) -> Expression:
    """`e` with every child replaced by `visit(child)`."""
    match e:
        case Load():
            return Load(e.buffer, tuple(visit(i) for i in e.indices), e.type)
        case Binary():
            return Binary(e.op, visit(e.left), visit(e.right))
        case Select():
            return Select(visit(e.condition), visit(e.when_true), visit(e.when_false))
        case Rescale():
            return Rescale(visit(e.value), visit(e.multiplier), visit(e.shift))
        case Cast():
            return Cast(visit(e.value), e.type)
        case Floor():
            return Floor(visit(e.value))
        case _:
            return e


def walk(e: Expression) -> Iterator[Expression]:
    """`e` and all its parts, parents first."""
    yield e
    for child in children(e):
        yield from walk(child)


def loads(e: Expression) -> Iterator[Load]:
    return (x for x in walk(e) if isinstance(x, Load))


def depends_on(e: Expression, axis: Axis) -> bool:
    return any(x == axis for x in walk(e))


def substitute(e: Expression, axes: Mapping[Axis, Expression]) -> Expression:
    if isinstance(e, Axis):
        return axes.get(e, e)
    return map_children(e, lambda x: substitute(x, axes))


@dataclass(frozen=True, slots=True)
class Linear:
    """constant + sum of coefficient * atom. An atom is an axis, or an expression that is no sum of axes."""

    constant: int = 0
    terms: tuple[tuple[Expression, int], ...] = ()

    @classmethod
    def of(cls, e: Expression) -> Linear:
        """The address `e` (I32) as a sum; equal atoms are collected, zero terms dropped."""
        match e:
            case Constant(int(value), _):
                return cls(value)
            case Axis(_, extent):
                return cls() if extent == 1 else cls(0, ((e, 1),))
            case Binary(BinaryOp.ADD, left, right):
                return cls.of(left) + cls.of(right)
            case Binary(BinaryOp.SUB, left, right):
                return cls.of(left) + cls.of(right).scaled(-1)
            case Binary(BinaryOp.MUL, left, Constant(int(factor), _)):
                return cls.of(left).scaled(factor)
            case Binary(BinaryOp.MUL, Constant(int(factor), _), right):
                return cls.of(right).scaled(factor)
            case _:
                return cls(0, ((e, 1),))

    def __add__(self, other: Linear) -> Linear:
        total: dict[Expression, int] = {}
        for atom, coefficient in self.terms + other.terms:
            total[atom] = total.get(atom, 0) + coefficient
        return Linear(self.constant + other.constant, tuple((a, c) for a, c in total.items() if c))

    def scaled(self, factor: int) -> Linear:
        if factor == 0:
            return Linear()
        return Linear(self.constant * factor, tuple((a, c * factor) for a, c in self.terms))

    def step(self, axis: Axis) -> int | None:
        """How far the address moves with `axis`; None where it does not move by equal steps."""
        if any(depends_on(a, axis) for a, _ in self.terms if a != axis):
            return None
        return next((c for a, c in self.terms if a == axis), 0)

    def expression(self) -> Expression:
        result: Expression = Constant(self.constant)
        for atom, coefficient in self.terms:
            result = result + (atom if coefficient == 1 else atom * coefficient)
        return result


def code_of_lookup(load: Load) -> Expression | None:
    """`code` where `load` is table[code + 128] with an I8 code: a lookup in 256 bytes. Else None."""
    address = Linear.of(load.indices[0]) if len(load.indices) == 1 else Linear()
    match address.terms:
        case ((Cast(code, ElementType.I32), 1),) if address.constant == 128:
            return code if load.element is ElementType.I8 and code.element is ElementType.I8 else None
        case _:
            return None
