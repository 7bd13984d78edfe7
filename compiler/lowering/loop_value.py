"""Expressions of the loop language as TIR values, one lane or a whole vector of lanes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from compiler.loops.rewrite import Linear, code_of_lookup, loads
from compiler.lowering.loop_bits import packed_load, packed_store
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import ElementType

Value = Any  # TVM's expression classes carry no types

_PERMUTED_BYTES = 64
_DTYPES = {
    ElementType.B1: "int8",
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
    lanewise: element e of lane l lies at e * lanes + l. packed: its B1 codes are bits, eight to a uint8, and
    addresses count bits."""

    buffer: Any
    element: ElementType
    biased: bool = False
    lanewise: bool = False
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where an expression is evaluated: the value of each axis by name, of which `vector` stands for
    `lanes` consecutive values from the given one on."""

    machine: CpuMachine
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
                v, m, s = (self.value(x) for x in (value, multiplier, shift))
                lanes = max(map(lanes_of, (v, m, s)))
                if self.machine.is_aarch64 and lanes > 1:
                    return _rescale_neon(v, m, s, lanes)
                # Before AVX-512 x86 has no arithmetic shift of 64-bit lanes, and the detour gains nothing.
                in_pairs = self.machine.is_x86 and self.machine.vector_bits == 512 and lanes > 1
                return (_rescale_pairs if in_pairs else _rescale)(v, m, s, lanes)
            case Floor(value):
                return tirx.floor(self.value(value))
            case Binary(op, left, right):
                return combine(op, self.value(left), self.value(right), left.element)
            case _:
                raise TypeError(f"unknown expression {e!r}")

    def store(self, name: str, address: Linear, value: Value) -> Value:
        """Statement memory[address] = value, for all lanes."""
        if self.memory[name].packed:
            return packed_store(self.memory[name].buffer, self.first_index(name, address), value)
        index = self.index(name, address)
        stored = self.stored_value(name, spread(value, lanes_of(index)))
        return tirx.BufferStore(self.memory[name].buffer, stored, [index])

    def stored_value(self, name: str, value: Value) -> Value:
        """`value` as it lies in the buffer."""
        if not self.memory[name].biased:
            return value
        return tirx.reinterpret(_like("uint8", value), value ^ tirx.const(-128, "int8"))

    def index(self, name: str, address: Linear) -> Value:
        """TIR index of an element address of a buffer, of all lanes."""
        return self._index(self.memory[name], address)

    def _axis(self, axis: Axis) -> Value:
        if axis.extent == 1:
            return _int(0)
        first = self.axes[axis.name]
        return tirx.Ramp(first, _int(1), _int(self.lanes)) if self._is_vector(axis) else first

    def _is_vector(self, axis: Expression) -> bool:
        return axis == self.vector and self.lanes > 1

    def first_index(self, name: str, address: Linear) -> Value:
        """TIR index of an element address of a buffer, of the first lane."""
        return replace(self, vector=None, lanes=1).index(name, address)

    def _load(self, load: Load) -> Value:
        memory = self.memory[load.buffer]
        if memory.packed:
            address = Linear.of(load.indices[0])
            moves = self.vector is not None and address.step(self.vector) == 1
            lanes = self.lanes if moves else 1
            return packed_load(memory.buffer, self.first_index(load.buffer, address), lanes)
        stored = self._stored(load)
        if not self.memory[load.buffer].biased:
            return stored
        return (stored ^ tirx.const(128, "uint8")).astype(_like("int8", stored))

    def _stored(self, load: Load) -> Value:
        """The elements as they lie in memory."""
        memory = self.memory[load.buffer]
        code = code_of_lookup(load) if self.machine.permutes_bytes else None
        neon = self.machine.is_aarch64
        if code is not None and (self.lanes >= 8 if neon else self.lanes == _PERMUTED_BYTES):
            value = self.value(code)
            if lanes_of(value) == self.lanes:
                return (_permuted_neon if neon else _permuted)(memory.buffer, value)
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


def _rescale(value: Value, multiplier: Value, shift: Value, lanes: int) -> Value:
    """floor(value * multiplier / 2**shift + 1/2): a widening multiply, an add and an arithmetic shift."""
    one = tirx.const(1, "int64")
    half = one << (_wide(shift) - one)
    product = spread(_wide(value), lanes) * spread(_wide(multiplier), lanes)
    return ((product + spread(half, lanes)) >> spread(_wide(shift), lanes)).astype(_lanes("int32", lanes))


def _rescale_neon(value: Value, multiplier: Value, shift: Value, lanes: int) -> Value:
    """SQDMULH (floor of value * multiplier / 2**31), then SRSHL by what is left of the shift, which rounds.

    Exact for shifts from 32 on, because floors nest. A smaller one first moves the value left by 32 - shift,
    which saturates from |value| = 2**(shift - 1) on: there the result is at least 2**29, as the multiplier
    is at least 2**30.
    """
    width = min(lanes, 4)
    raised = combine(BinaryOp.MAX, shift, _int(32), ElementType.I32)
    left, right = raised - shift, 31 - raised

    def part(x: Value, first: int) -> Value:
        return spread(x, width) if lanes_of(x) == 1 else _elements([x], first, width)

    def call(name: str, a: Value, b: Value) -> Value:
        return tirx.call_llvm_pure_intrin(f"int32x{width}", f"llvm.aarch64.neon.{name}.v{width}i32", a, b)

    parts: list[Value] = []
    for first in range(0, lanes, width):
        v, m, to_left, to_right = (part(x, first) for x in (value, multiplier, left, right))
        parts.append(call("srshl", call("sqdmulh", call("sqshl", v, to_left), m), to_right))
    return parts[0] if len(parts) == 1 else _elements(parts, 0, lanes)


def _elements(vectors: list[Value], first: int, count: int) -> Value:
    """A run of elements of the concatenated vectors."""
    return tirx.Shuffle(vectors, [_int(i) for i in range(first, first + count)])


def _rounded(product: Value) -> Value:
    """A product that LLVM may not contract with an addition into a fused operation, which rounds once."""
    return tirx.call_llvm_pure_intrin(_like("float32", product), "llvm.arithmetic.fence", product)


def _permuted(table: Any, codes: Value) -> Value:
    """table[codes + 128] for 64 codes: vpermi2b looks up 7 bits in two registers, twice, bit 7 selects."""
    dtype = table.ty.dtype
    lanes = _PERMUTED_BYTES
    index = codes ^ tirx.const(-128, "int8")

    def quarter(i: int) -> Value:
        at = tirx.Ramp(_int(i * lanes), _int(1), _int(lanes))
        return tirx.reinterpret(f"int8x{lanes}", tirx.BufferLoad(table, [at]))

    low, high = (
        tirx.call_llvm_pure_intrin(
            f"int8x{lanes}", "llvm.x86.avx512.vpermi2var.qi.512", quarter(i), index, quarter(i + 1)
        )
        for i in (0, 2)
    )
    chosen = tirx.Select(codes < spread(tirx.const(0, "int8"), lanes), low, high)
    return chosen.astype(_lanes(str(dtype), lanes))


def _permuted_neon(table: Any, codes: Value) -> Value:
    """table[codes + 128] for 8 codes or a multiple of 16, by four lookups in 64 bytes each: for an index
    beyond them TBL gives 0, TBX what was there. In a loop the table stays in 16 registers."""
    lanes = lanes_of(codes)
    width = min(lanes, 16)

    def quarter(i: int) -> list[Value]:
        starts = range(64 * i, 64 * (i + 1), 16)
        return [tirx.BufferLoad(table, [tirx.Ramp(_int(s), _int(1), _int(16))]) for s in starts]

    def looked_up(code: Value) -> Value:
        found: list[Value] = []
        # Flipping these bits makes index 0 of the code of entry 64 * i.
        for i, flipped in enumerate((-128, -64, 0, 64)):
            name = f"llvm.aarch64.neon.{'tbx' if found else 'tbl'}4.v{width}i8"
            index = code ^ tirx.const(flipped, "int8")
            found = [tirx.call_llvm_pure_intrin(f"int8x{width}", name, *found, *quarter(i), index)]
        return found[0]

    firsts = range(0, lanes, width)
    parts = [looked_up(_elements([codes], first, width)) for first in firsts]
    return parts[0] if len(parts) == 1 else _elements(parts, 0, lanes)


def _rescale_pairs(value: Value, multiplier: Value, shift: Value, lanes: int) -> Value:
    """`_rescale` for AVX-512, whose widening multiply takes the even lanes: those and the odd ones apart."""
    one, word = tirx.const(1, "int64"), tirx.const(32, "int64")
    pairs = [tirx.reinterpret(f"int64x{lanes // 2}", spread(x, lanes)) for x in (value, multiplier, shift)]

    def rescaled(v: Value, m: Value, s: Value) -> Value:
        return (v * m + (one << (s - one))) >> s

    even = rescaled(*((p << word) >> word for p in pairs))
    odd = rescaled(*(p >> word for p in pairs))
    mixed = (even & tirx.const(0xFFFFFFFF, "int64")) | (odd << word)
    return tirx.reinterpret(f"int32x{lanes}", mixed)


def _wide(value: Value) -> Value:
    return value.astype(_like("int64", value))


def _like(dtype: str, value: Value) -> str:
    return _lanes(dtype, lanes_of(value))


def _lanes(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _int(value: int) -> Value:
    return tirx.const(value, "int32")
