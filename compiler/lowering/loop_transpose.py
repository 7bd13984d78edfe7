"""Nests that load along one axis and store along another: blocks of 16 x 16 transposed in registers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx.stmt import Bind, BufferStore, For, ForKind, SeqStmt

from compiler.loops.expression import Axis
from compiler.loops.nest import Nest
from compiler.lowering.loop_value import Lanes, Value, spread
from compiler.lowering.tiling import BLOCK

Stmt = Any


@dataclass(frozen=True, slots=True)
class Place:
    """What is stored: indices [start, start + count) of the axis `inner`, contiguous in memory."""

    nest: Nest
    inner: Axis
    start: Value
    count: Value


def transposed_block(place: Place, here: Lanes, across: Axis) -> Stmt:
    """The nest for BLOCK indices of `across`, from the one that `here` gives on."""
    if place.inner.extent < BLOCK:
        return _interleaved(place, here, across)
    step, rest = tirx.Var("step", "int32"), tirx.Var("rest", "int32")
    size = _int(BLOCK)
    first = place.start + step * BLOCK
    square = For(
        step, _int(0), tirx.truncdiv(place.count, size), ForKind.SERIAL, _square(place, here, across, first)
    )
    if place.inner.extent % BLOCK == 0:
        return square
    # The last chunk alone has a rest: chunks are whole blocks.
    last = place.start + place.count - tirx.truncmod(place.count, size) + rest
    lane = tirx.Var("lane", "int32")
    axes = {**here.axes, place.inner.name: last, across.name: here.axes[across.name] + lane}
    at = replace(here, axes=axes)
    store = at.store(place.nest.output, place.nest.address, at.value(place.nest.value))
    lanes = For(lane, _int(0), size, ForKind.SERIAL, store)
    return SeqStmt([square, For(rest, _int(0), tirx.truncmod(place.count, size), ForKind.SERIAL, lanes)])


def _rows(
    place: Place, here: Lanes, across: Axis, first: Value, count: int
) -> tuple[list[Stmt], list[Value]]:
    """Vectors along `across`, one for each of `count` indices of the inner axis; bound to variables."""
    statements: list[Stmt] = []
    rows: list[Value] = []
    for i in range(count):
        at = replace(here, axes={**here.axes, place.inner.name: first + i}, vector=across, lanes=BLOCK)
        value = at.stored_value(place.nest.output, spread(at.value(place.nest.value), BLOCK))
        rows.append(_bound(statements, value))
    return statements, rows


def _square(place: Place, here: Lanes, across: Axis, first: Value) -> Stmt:
    statements, rows = _rows(place, here, across, first, BLOCK)
    half = BLOCK // 2
    # Four perfect shuffles of the rows, each with the lanes of two rows interleaved, transpose 16 x 16.
    low = [x for i in range(half) for x in (i, BLOCK + i)]
    high = [x + half for x in low]
    for _ in range(BLOCK.bit_length() - 1):
        rows = [
            _bound(statements, tirx.Shuffle([rows[i], rows[i + half]], [_int(x) for x in lanes]))
            for i in range(half)
            for lanes in (low, high)
        ]
    for lane, row in enumerate(rows):
        axes = {**here.axes, across.name: here.axes[across.name] + lane, place.inner.name: first}
        at = replace(here, axes=axes, vector=place.inner, lanes=BLOCK)
        index = at.index(place.nest.output, place.nest.address)
        statements.append(BufferStore(here.memory[place.nest.output].buffer, row, [index]))
    return SeqStmt(statements)


def _interleaved(place: Place, here: Lanes, across: Axis) -> Stmt:
    """All of the few inner indices: BLOCK times as many elements, contiguous."""
    count = place.inner.extent
    statements, rows = _rows(place, here, across, place.start, count)
    order = [_int(row * BLOCK + lane) for lane in range(BLOCK) for row in range(count)]
    at = replace(here, axes={**here.axes, place.inner.name: _int(0)})
    first = at.index(place.nest.output, place.nest.address)
    index = tirx.Ramp(first, _int(1), _int(count * BLOCK))
    store = BufferStore(here.memory[place.nest.output].buffer, tirx.Shuffle(rows, order), [index])
    return SeqStmt([*statements, store])


def _bound(statements: list[Stmt], value: Value) -> Value:
    variable = tirx.Var("row", value.ty)
    statements.append(Bind(variable, value))
    return variable


def _int(value: int) -> Value:
    return tirx.const(value, "int32")
