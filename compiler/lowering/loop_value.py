"""Expressions of the loop language as TIR values, one lane or a whole vector of lanes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx

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
from compiler.loops.rewrite import Linear, loads
from compiler.numerics.element import ElementType

Value = Any  # TVM's expression classes carry no types

_DTYPES = {
    ElementType.I8: "int8",
    ElementType.I16: "int16",
    ElementType.I32: "int32",
    ElementType.I64: "int64",
    ElementType.F32: "float32",
    ElementType.BOOL: "bool",
}


def dtype_of(element: ElementType) -> str:
    """TIR's name of an unpacked element. Errors: ValueError for an element that loops cannot compute."""
    if element not in _DTYPES:
        raise ValueError(f"loop forms do not compute {element.value}: unpack it to i8 first")
    return _DTYPES[element]


@dataclass(frozen=True, slots=True)
class Memory:
    """A flat TIR buffer. biased: its I8 codes are stored as uint8 code + 128.
    lanewise: element e of lane l lies at e * lanes + l."""

    buffer: Any
    element: ElementType
    biased: bool = False
    lanewise: bool = False


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where an expression is evaluated: the value of each axis by name, of which `vector` stands for
    `lanes` consecutive values from the given one on."""

    memory: Mapping[str, Memory]
    axes: Mapping[str, Value]
    vector: Axis | None = None
    lanes: int = 1

    def value(self, e: Expression) -> Value:
        """TIR value of `e`: of `lanes` lanes where it depends on the vector axis, else of one."""
        match e:
            case Constant(value, element):
                return tirx.const(value, dtype_of(element))
            case Axis():
                return self._axis(e)
            case Load():
                return self._load(e)
            case Cast(Load(_, _, ElementType.I8) as load, ElementType.I32) if self.memory[load.buffer].biased:
                stored = self._stored(load)
                return stored.astype(_like("int32", stored)) - 128
            case Cast(value, element):
                inner = self.value(value)
                return inner.astype(_like(dtype_of(element), inner))
            case Select(condition, when_true, when_false):
                return self._select(condition, when_true, when_false)
            case Rescale(value, multiplier, shift):
                return _rescale(*(self.value(x) for x in (value, multiplier, shift)))
            case Floor(value):
                return tirx.floor(self.value(value))
            case Binary(op, left, right):
                return combine(op, self.value(left), self.value(right), left.element)
            case _:
                raise TypeError(f"unknown expression {e!r}")

    def store(self, name: str, address: Linear, value: Value) -> Value:
        """Statement memory[address] = value, for all lanes."""
        memory = self.memory[name]
        index = self._index(memory, address)
        value = spread(value, lanes_of(index))
        if memory.biased:
            value = value.astype(_like("uint8", value)) ^ tirx.const(128, "uint8")
        return tirx.BufferStore(memory.buffer, value, [index])

    def _axis(self, axis: Axis) -> Value:
        if axis.extent == 1:
            return _int(0)
        first = self.axes[axis.name]
        return tirx.Ramp(first, _int(1), _int(self.lanes)) if self._is_vector(axis) else first

    def _is_vector(self, axis: Expression) -> bool:
        return axis == self.vector and self.lanes > 1

    def _load(self, load: Load) -> Value:
        stored = self._stored(load)
        if not self.memory[load.buffer].biased:
            return stored
        return (stored ^ tirx.const(128, "uint8")).astype(_like("int8", stored))

    def _stored(self, load: Load) -> Value:
        memory = self.memory[load.buffer]
        return tirx.BufferLoad(memory.buffer, [self._index(memory, Linear.of(load.indices[0]))])

    def _index(self, memory: Memory, address: Linear) -> Value:
        scale = self.lanes if memory.lanewise else 1
        index: Value = _int(address.constant * scale)
        ramp = 1 if memory.lanewise else 0
        for atom, coefficient in address.terms:
            if self._is_vector(atom):
                assert isinstance(atom, Axis)
                index, ramp = index + self.axes[atom.name] * coefficient, coefficient
            else:
                index = index + self.value(atom) * (coefficient * scale)
        if not ramp or self.lanes == 1:
            return index
        if lanes_of(index) > 1:  # an atom of the address differs by lane
            return index + tirx.Ramp(_int(0), _int(ramp), _int(self.lanes))
        return tirx.Ramp(index, _int(ramp), _int(self.lanes))

    def _select(self, condition: Expression, when_true: Expression, when_false: Expression) -> Value:
        """A select whose branches load must branch, because the condition may guard the loads."""
        c, a, b = (self.value(x) for x in (condition, when_true, when_false))
        lanes = max(map(lanes_of, (c, a, b)))
        a, b = spread(a, lanes), spread(b, lanes)
        if any(True for branch in (when_true, when_false) for _ in loads(branch)):
            if lanes_of(c) > 1:
                raise ValueError("a condition that differs by lane cannot guard loads")
            return tirx.if_then_else(c, a, b)
        return tirx.Select(spread(c, lanes), a, b)


def combine(op: BinaryOp, a: Value, b: Value, element: ElementType) -> Value:
    """TIR value of a binary operation on operands of `element`; one lane is spread over many."""
    lanes = max(lanes_of(a), lanes_of(b))
    a, b = spread(a, lanes), spread(b, lanes)
    is_float = element is ElementType.F32
    match op:
        case BinaryOp.ADD:
            return a + b
        case BinaryOp.SUB:
            return a - b
        case BinaryOp.MUL:
            return _rounded(a * b) if is_float else a * b
        case BinaryOp.DIV:
            return a / b if is_float else tirx.floordiv(a, b)
        case BinaryOp.MIN:
            return tirx.Select(a < b, a, b) if is_float else tirx.min(a, b)
        case BinaryOp.MAX:
            return tirx.Select(a > b, a, b) if is_float else tirx.max(a, b)
        case BinaryOp.SHIFT_RIGHT:
            return a >> b
        case BinaryOp.SHIFT_LEFT:
            return a << b
        case BinaryOp.AND:
            return a & b
        case BinaryOp.LESS:
            return a < b
        case BinaryOp.EQUAL:
            return tirx.EQ(a, b)
        case BinaryOp.BOTH:
            return tirx.And(a, b)


def lanes_of(value: Value) -> int:
    return value.ty.dtype.lanes


def spread(value: Value, lanes: int) -> Value:
    return value if lanes_of(value) == lanes else tirx.Broadcast(value, _int(lanes))


def _rescale(value: Value, multiplier: Value, shift: Value) -> Value:
    """floor(value * multiplier / 2**shift + 1/2): a widening multiply, an add and an arithmetic shift."""
    lanes = max(map(lanes_of, (value, multiplier, shift)))
    one = tirx.const(1, "int64")
    half = one << (_wide(shift) - one)
    product = spread(_wide(value), lanes) * spread(_wide(multiplier), lanes)
    return ((product + spread(half, lanes)) >> spread(_wide(shift), lanes)).astype(_lanes("int32", lanes))


def _rounded(product: Value) -> Value:
    """A product that LLVM may not contract with an addition into a fused operation, which rounds once."""
    return tirx.call_llvm_pure_intrin(_like("float32", product), "llvm.arithmetic.fence", product)


def _wide(value: Value) -> Value:
    return value.astype(_like("int64", value))


def _like(dtype: str, value: Value) -> str:
    return _lanes(dtype, lanes_of(value))


def _lanes(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _int(value: int) -> Value:
    return tirx.const(value, "int32")
