"""Runs loop forms in numpy: the check that an operator's form computes its reference, without a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
from compiler.loops.form import LoopForm, Reduction, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import rescale

_NUMPY: dict[BinaryOp, Any] = {
    BinaryOp.ADD: np.add,
    BinaryOp.SUB: np.subtract,
    BinaryOp.MUL: np.multiply,
    BinaryOp.SHIFT_RIGHT: np.right_shift,
    BinaryOp.SHIFT_LEFT: np.left_shift,
    BinaryOp.AND: np.bitwise_and,
    BinaryOp.LESS: np.less,
    BinaryOp.EQUAL: np.equal,
    BinaryOp.BOTH: np.logical_and,
}


def evaluate(form: LoopForm, operands: Mapping[str, Array]) -> dict[str, Array]:
    """Contents of the OUTPUT buffers, given those of the INPUT and CONSTANT buffers by name.

    Buffers are handled by logical shape; strides do not matter here. Elements that no stage writes are 0.
    Errors: KeyError for a missing operand, ValueError for one of the wrong shape, IndexError for a load
    out of bounds where it is not guarded by a Select.
    """
    memory: dict[str, Array] = {}
    for buffer in form.buffers:
        if buffer.role in (Role.INPUT, Role.CONSTANT):
            value = np.asarray(operands[buffer.name])
            if value.shape != buffer.shape:
                raise ValueError(f"operand {buffer.name} is {value.shape}, the form says {buffer.shape}")
            memory[buffer.name] = value
        else:
            memory[buffer.name] = np.zeros(buffer.shape, buffer.element.dtype)
    for stage in form.stages:
        _run(stage, memory)
    return {b.name: memory[b.name] for b in form.buffers if b.role is Role.OUTPUT}


def _run(stage: Stage, memory: dict[str, Array]) -> None:
    axes = stage.axes + stage.over
    grid = {
        a.name: np.arange(a.extent, dtype=np.int64).reshape([-1 if d == i else 1 for d in range(len(axes))])
        for i, a in enumerate(axes)
    }
    everywhere = np.ones((1,) * len(axes), np.bool_)
    value = _value(stage.value, grid, memory, everywhere)
    value = np.broadcast_to(value, tuple(a.extent for a in axes))
    if stage.over:
        assert stage.initial is not None
        reduced = tuple(range(len(stage.axes), len(axes)))
        start = _value(stage.initial, grid, memory, everywhere)
        start = start.reshape(start.shape[: len(stage.axes)]) if np.ndim(start) else start
        if stage.reduction is Reduction.SUM:
            value = value.sum(axis=reduced, dtype=value.dtype) + start
        else:
            value = np.maximum(value.max(axis=reduced), start)
    output = memory[stage.output]
    origin = stage.origin or (0,) * len(stage.axes)
    region = tuple(slice(o, o + a.extent) for o, a in zip(origin, stage.axes, strict=True))
    output[region] = value.astype(output.dtype)


def _value(e: Expression, grid: Mapping[str, Array], memory: Mapping[str, Array], live: Array) -> Array:
    """Value of `e` on the grid; `live` marks where it is needed, so that dead loads stay in bounds."""
    match e:
        case Constant(value, element):
            return np.asarray(value, element.dtype)
        case Axis(name, _):
            return grid[name]
        case Load(buffer, indices, _):
            return _load(memory[buffer], buffer, [_value(i, grid, memory, live) for i in indices], live)
        case Select(condition, when_true, when_false):
            c = _value(condition, grid, memory, live)
            a = _value(when_true, grid, memory, live & c)
            b = _value(when_false, grid, memory, live & ~c)
            return np.where(c, a, b)
        case Cast(value, element):
            return _value(value, grid, memory, live).astype(element.dtype)
        case Rescale(value, multiplier, shift):
            parts = [_value(x, grid, memory, live) for x in (value, multiplier, shift)]
            return rescale(*parts).astype(np.int32)
        case Floor(value):
            return np.floor(_value(value, grid, memory, live))
        case Binary(op, left, right):
            a, b = _value(left, grid, memory, live), _value(right, grid, memory, live)
            return _combine(op, a, b, left.element)
        case _:
            raise TypeError(f"unknown expression {e!r}")


def _combine(op: BinaryOp, a: Array, b: Array, element: ElementType) -> Array:
    if op is BinaryOp.MIN:
        return np.where(a < b, a, b)
    if op is BinaryOp.MAX:
        return np.where(a > b, a, b)
    if op is BinaryOp.DIV:
        return a // b if element.is_integer else a / b
    return _NUMPY[op](a, b)


def _load(data: Array, name: str, indices: list[Array], live: Array) -> Array:
    shape = np.broadcast_shapes(live.shape, *(np.shape(i) for i in indices))
    checked: list[Array] = []
    for d, index in enumerate(indices):
        outside = (index < 0) | (index >= data.shape[d])
        if np.any(outside & live):
            raise IndexError(f"load of {name} leaves axis {d} of extent {data.shape[d]}")
        checked.append(np.broadcast_to(np.where(outside, 0, index), shape))
    return data[tuple(checked)] if checked else data
