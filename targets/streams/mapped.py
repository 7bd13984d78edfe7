"""Layers that compute each element of a result from elements at its place, and softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Value
from compiler.lowering.program import KernelCall
from compiler.numerics.element import Array, ElementType
from compiler.ops.activation import Clip, PRelu
from compiler.ops.edge import Dequantize, Quantize, Requantize
from compiler.ops.elementwise import Add, Div, Mul, Sub
from compiler.ops.extremes import Maximum, Minimum
from compiler.ops.softmax import Softmax
from compiler.ops.unary import Unary
from schedules.npu_emit import Blob, Emitter
from schedules.npu_finish import SIGN_ZERO, Finish
from schedules.npu_functions import Arithmetic, Probabilities, Slopes, Table
from schedules.npu_map import Function, Mapped, Operand, emit_mapped, fits
from sim.config import NpuConfig
from sim.isa import Binary
from targets.streams.layer import NOWHERE, Memory, source, strides_at
from targets.streams.rules import Rule, has_codes, has_no_floats, requantizes_codes

B1, I8, I16 = ElementType.B1, ElementType.I8, ElementType.I16


def maps(call: KernelCall) -> bool:
    """Whether the operator computes elements from elements at their place, or is a softmax."""
    kinds = (
        Add,
        Sub,
        Mul,
        Minimum,
        Maximum,
        Clip,
        PRelu,
        Unary,
        Softmax,
        Requantize,
        Quantize,
        Dequantize,
        Div,
    )
    return isinstance(call.node.op, kinds)


def has_row(call: KernelCall, config: NpuConfig) -> bool:
    """not even one row, with its result, fits the activation memory twice"""
    return fits(_mapped(call, NOWHERE), config)


def has_room_for_tables(call: KernelCall, config: NpuConfig) -> bool:
    """the table memory does not hold the function's table"""
    function = _function(call, NOWHERE)[0]
    table = function.contents.raw if isinstance(function, (Table, Probabilities)) else 0
    return table <= config.scratchpad.table_bytes


@dataclass(frozen=True, slots=True)
class MapLayer:
    """Sums, products, extremes, clips, functions by table, softmax, and changes of scale."""

    rules: ClassVar[tuple[Rule, ...]] = (has_no_floats, has_codes, has_row, has_room_for_tables)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        emit_mapped(e, _mapped(call, memory))


@dataclass(frozen=True, slots=True)
class RequantizeLayer(MapLayer):
    """Codes, or accumulators of one scale, to codes of another scale, or to their signs."""

    rules: ClassVar[tuple[Rule, ...]] = (requantizes_codes, has_row)


def _mapped(call: KernelCall, memory: Memory) -> Mapped:
    y = call.node.output
    (place,) = call.places
    function, zeros = _function(call, memory)
    operands = [
        _operand(x, y.type.shape, memory, zero) for x, zero in zip(call.node.inputs, zeros, strict=False)
    ]
    at = memory.address(place, y.type.element.dtype.itemsize)
    result = Operand(at, y.type.element, strides_at(y, place))
    return Mapped(function, y.type.shape, tuple(operands), result)


def _operand(x: Value, shape: tuple[int, ...], memory: Memory, zero: int) -> Operand:
    """Broadcast to `shape`."""
    at, strides = source(x, memory)
    own = tuple(s if n > 1 else 0 for n, s in zip(x.type.shape, strides, strict=True))
    return Operand(at, x.type.element, (0,) * (len(shape) - len(own)) + own, zero)


def _function(call: KernelCall, memory: Memory) -> tuple[Function, tuple[int, ...]]:
    """And the zero points of the operands that it reads."""
    op, constants, element = call.node.op, call.lowered.constants, call.node.output.type.element
    numbers = [int(n) for n in constants.get("parameters", np.zeros(0, np.int32))]
    match op:
        case Add() | Sub():
            zero_a, zero_b, a, b, shift, zero, low, high = numbers
            return Arithmetic(Binary.ADD, Finish(element, a, b, shift, zero, low, high)), (zero_a, zero_b)
        case Mul():
            zero_a, zero_b, factor, shift, zero, low, high = numbers
            finish = Finish(element, factor, 0, shift, zero, low, high)
            return Arithmetic(Binary.MUL, finish), (zero_a, zero_b)
        case Requantize():
            zero_in, factor, shift, zero, low, high = numbers
            finish = Finish(element, factor, 0, shift, zero, low, high)
            if element is B1:
                finish = Finish(B1, zero_out=SIGN_ZERO, low=low, high=high)
            bits = B1 in (element, call.node.inputs[0].type.element)
            return Arithmetic(Binary.RESCALE, finish, by_rows=bits), (zero_in,)
        case Minimum() | Maximum():
            function = Binary.MIN if isinstance(op, Minimum) else Binary.MAX
            return Arithmetic(function, Finish(element)), (0, 0)
        case Clip():
            low, high = (int(n) for n in constants["bounds"])
            return Arithmetic(Binary.MOVE, Finish(element, low=low, high=high)), (0,)
        case Softmax():
            names = ("table",) if "table" in constants else ("coarse", "fine")
            joined = np.concatenate([constants[n] for n in names])
            return Probabilities(_blob(joined.astype(np.int32), memory), element), (0,)
        case PRelu():
            return _slopes(call, op, numbers, memory)
        case _:
            wide = call.node.inputs[0].type.element is I16 or element is I16
            entries = constants["table"].astype(np.int16 if wide else np.int8)
            return Table(_blob(entries, memory), element), (0,)


def _slopes(
    call: KernelCall, op: PRelu, numbers: list[int], memory: Memory
) -> tuple[Function, tuple[int, ...]]:
    """One slope for all codes of 8 bits makes a table."""
    x, slope = call.node.inputs
    element = call.node.output.type.element
    if x.type.element is I8 and slope.constant is not None and slope.constant.size == 1:
        codes = np.arange(I8.low, I8.high + 1).astype(I8.dtype)
        types = (x.type.with_shape(codes.shape), slope.type.with_shape((1,)))
        (entries,) = op.reference(types, (codes, slope.constant.reshape(1)))
        return Table(_blob(entries, memory), element), (0,)
    zero_in, one, factor, shift, zero, low, high = numbers
    return Slopes(Finish(element, factor, 0, shift, zero, low, high), one), (zero_in, 0)


def _blob(entries: Array, memory: Memory) -> Blob:
    data = np.ascontiguousarray(entries).view(np.uint8)
    return Blob(memory.constant(data), data.size)
