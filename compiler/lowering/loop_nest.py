"""Tiled loop forms -> TIR functions: one parallel loop over all tiles, everything else inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.stmt import AllocBuffer, Bind, BufferStore, DeclBuffer, For, ForKind, IfThenElse, SeqStmt

from compiler.loops.expression import Axis, BinaryOp
from compiler.loops.form import LoopForm, Reduction, Role
from compiler.loops.nest import Nest, span_of
from compiler.lowering.loop_bits import packed_rest
from compiler.lowering.loop_transpose import Place, transposed_block
from compiler.lowering.loop_value import Lanes, Memory, combine, dtype_of, spread
from compiler.lowering.machine import CpuMachine
from compiler.lowering.tiling import BLOCK, TiledPart, Vectors, pieces
from compiler.numerics.element import ElementType

Stmt = Any  # TVM's statement and expression classes carry no types
Value = Any

# Reductions over at most this many elements are written out, without a loop.
_UNROLLED_TAPS = 16


def prim_func(
    form: LoopForm, parts: Sequence[TiledPart], machine: CpuMachine, scratch: Mapping[str, int]
) -> Any:
    """TIR function of a tiled form: pointers to the form's operands, then `scratch` where there is any.

    scratch: byte offset, behind the operand `scratch`, of each SCRATCH buffer that does not live on the
    stack.
    """
    memory: dict[str, Memory] = {}
    for b in form.operands:
        biased = _is_biased(b.element, b.role, machine)
        packed = b.element is ElementType.B1
        dtype = "uint8" if biased or packed else dtype_of(b.element)
        count = -(-span_of(b) // 8) if packed else span_of(b)
        buffer = tirx.decl_buffer((count,), dtype, b.name)
        memory[b.name] = Memory(buffer, b.element, biased, packed=packed)
    parameters = [m.buffer for m in memory.values()]
    workspace = tirx.decl_buffer((1 << 30,), "uint8", "scratch")
    private = _Private({b.name: b.element for b in form.buffers}, scratch, workspace)
    tile = tirx.Var("tile", "int32")
    total = first = sum(p.tiles for p in parts)
    body: Stmt = None
    for part in reversed(parts):
        first -= part.tiles
        code = _Part(machine, part, memory, private).code(tile - first)
        body = code if body is None else IfThenElse(tile < first + part.tiles, code, body)
    function = tirx.PrimFunc(
        [*parameters, *([workspace] if scratch else [])],
        For(tile, tirx.const(0, "int32"), tirx.const(total, "int32"), ForKind.PARALLEL, body),
    )
    if form.in_place:
        activations = [b.name for b in form.operands if b.role is not Role.CONSTANT]
        return function.with_attr("bitloom.may_alias", activations)
    return function.with_attr("tirx.noalias", True)


def _is_biased(element: ElementType, role: Role, machine: CpuMachine) -> bool:
    return element is ElementType.I8 and role in (Role.INPUT, Role.OUTPUT) and machine.activation_offset != 0


@dataclass(frozen=True, slots=True)
class _Private:
    """Buffers between the stages of a part."""

    elements: Mapping[str, ElementType]
    offsets: Mapping[str, int]
    scratch: Any  # the uint8 operand

    def declare(self, name: str, count: int, lanewise: bool) -> tuple[Stmt, Memory]:
        if name not in self.offsets:
            return _local(name, count, self.elements[name], lanewise)
        view = tirx.decl_buffer((count,), dtype_of(self.elements[name]), name)
        place = tirx.address_of(tirx.BufferLoad(self.scratch, [_int(self.offsets[name])]))
        return DeclBuffer(view, data=place), Memory(view, self.elements[name])


def _local(name: str, count: int, element: ElementType, lanewise: bool = False) -> tuple[Stmt, Memory]:
    buffer = tirx.decl_buffer((count,), dtype_of(element), name, scope="local")
    return AllocBuffer(buffer), Memory(buffer, element, lanewise=lanewise)


@dataclass(frozen=True, slots=True)
class _Part:
    machine: CpuMachine
    tiled: TiledPart
    memory: Mapping[str, Memory]
    private: _Private

    def code(self, tile: Value) -> Stmt:
        """All rows of one tile."""
        t = self.tiled
        row_tile, chunk = (tile, _int(0)) if t.chunks == 1 else _divided(tile, t.chunks)
        axes, rows, row_count = t.row_axes, t.rows, t.row_count
        last = axes[-1] if axes and rows % axes[-1].extent == 0 else None
        if last is not None:  # a loop of its own, so that its addresses advance without divisions
            axes, rows, row_count = axes[:-1], rows // last.extent, row_count // last.extent
        first = row_tile * rows
        count = tirx.min(_int(rows), row_count - first) if row_count % rows else _int(rows)
        row = tirx.Var("row", "int32")
        statements, indices = _decoded(first + row, axes)
        here = Lanes(self.machine, self.memory, indices)
        statements.append(_for_all([last] if last else [], here, lambda at: self._row(at, chunk)))
        return _loop(row, count, _sequence(statements))

    def _row(self, here: Lanes, chunk: Value) -> Stmt:
        if self.tiled.across is not None:
            return self._transposed(here, self.tiled.across, chunk)
        return self._own_walks(here) if self.tiled.inner is None else self._vectors(here, chunk)

    def _vectors(self, here: Lanes, chunk: Value) -> Stmt:
        """One row of a tile, `inner` walked in vectors."""
        t = self.tiled
        inner = t.inner
        assert inner is not None
        vectors = t.vectors[0] or Vectors(inner, 1)
        full = inner.extent - inner.extent % vectors.lanes
        start = chunk * t.chunk
        steps = tirx.min(_int(t.chunk), full - start) if inner.extent % t.chunk else _int(t.chunk)
        if t.chunks == 1:
            start, steps = _int(0), _int(full)
        statements: list[Stmt] = []
        if full:
            step = tirx.Var("step", "int32")
            body = self._together(here, start + step * vectors.lanes, vectors.lanes)
            statements.append(_loop(step, tirx.truncdiv(steps, _int(vectors.lanes)), body))
        tail = self._tail(here, full, vectors.lanes)
        if tail and t.chunks > 1:
            statements.append(IfThenElse(tirx.EQ(chunk, _int(t.chunks - 1)), _sequence(tail), None))
        else:
            statements += tail
        return _sequence(statements)

    def _tail(self, here: Lanes, start: int, lanes: int) -> list[Stmt]:
        inner = self.tiled.inner
        assert inner is not None
        result: list[Stmt] = []
        packed = any(nest.packed for nest in self.tiled.part.nests)
        for piece in pieces(inner.extent, lanes):
            if packed and piece < 8:
                return [*result, self._packed_tail(here, start)]
            result.append(self._together(here, _int(start), piece))
            start += piece
        return result

    def _packed_tail(self, here: Lanes, start: int) -> Stmt:
        """The codes of a row that do not fill a byte."""
        inner, [nest] = self.tiled.inner, self.tiled.part.nests
        assert inner is not None
        places = [replace(here, axes={**here.axes, inner.name: _int(i)}) for i in range(start, inner.extent)]
        codes = [place.value(nest.value) for place in places]
        memory = self.memory[nest.output]
        return packed_rest(memory.buffer, places[0].index(nest.output, nest.address), codes)

    def _together(self, here: Lanes, first: Value, lanes: int) -> Stmt:
        """All nests for `lanes` indices of the inner axis."""
        inner = self.tiled.inner
        assert inner is not None
        base = tirx.Var("base", "int32")
        declared = [self.private.declare(name, lanes, True) for name, _ in self.tiled.part.scratch]
        names = [name for name, _ in self.tiled.part.scratch]
        memory = {**here.memory, **dict(zip(names, (m for _, m in declared), strict=True))}
        at = Lanes(here.machine, memory, {**here.axes, inner.name: base}, inner, lanes)
        nests = [_element(nest, at) for nest in self.tiled.part.nests]
        return _sequence([Bind(base, first), *(d for d, _ in declared), *nests])

    def _transposed(self, here: Lanes, across: Axis, chunk: Value) -> Stmt:
        """One block of `across`, against a chunk of `inner`."""
        t = self.tiled
        inner, [nest] = t.inner, t.part.nests
        assert inner is not None
        block, first = here.axes["block"], tirx.Var(across.name, "int32")
        start = chunk * t.chunk
        count = tirx.min(_int(t.chunk), inner.extent - start) if t.chunks > 1 else _int(inner.extent)
        place = Place(nest, inner, start, count)
        whole = transposed_block(place, replace(here, axes={**here.axes, across.name: first}), across)
        blocks, rest = divmod(across.extent, BLOCK)
        if rest:

            def element(base: Value, v: Value) -> Stmt:
                axes = {**here.axes, across.name: first + base, inner.name: start + v}
                return _element(nest, replace(here, axes=axes))

            v, w = tirx.Var(inner.name, "int32"), tirx.Var("rest", "int32")
            ragged = _loop(w, _int(rest), _loop(v, count, element(w, v)))
            whole = IfThenElse(block < blocks, whole, ragged) if blocks else ragged
        return _sequence([Bind(first, block * BLOCK), whole])

    def _own_walks(self, here: Lanes) -> Stmt:
        """All nests for one index of the shared axes, each over axes of its own."""
        part = self.tiled.part
        declared = {name: self.private.declare(name, count, False) for name, count in part.scratch}
        here = replace(here, memory={**here.memory, **{n: m for n, (_, m) in declared.items()}})
        nests = [_walk(n, v, here) for n, v in zip(part.nests, self.tiled.vectors, strict=True)]
        return _sequence([*(d for d, _ in declared.values()), *nests])


def _walk(nest: Nest, vectors: Vectors | None, here: Lanes) -> Stmt:
    """A nest over its private axes."""
    if vectors is None or vectors.axis not in nest.axes:
        return _for_all(nest.axes, here, lambda at: _element(nest, at, vectors))
    others = tuple(a for a in nest.axes if a != vectors.axis)
    return _for_all(others, here, lambda at: _in_vectors(vectors, at, lambda v: _element(nest, v)))


def _element(nest: Nest, at: Lanes, vectors: Vectors | None = None) -> Stmt:
    """The store of one output element (of each lane). vectors: a reduction axis taken in vectors."""
    if not nest.over:
        return at.store(nest.output, nest.address, at.value(nest.value))
    assert nest.initial is not None
    element = nest.value.element
    width = vectors.lanes if vectors else at.lanes
    declared, memory = _local("total", width, element)
    slots = _vector_index(0, width)
    initial = at.value(nest.initial)
    start = [BufferStore(memory.buffer, spread(initial, width), [slots])]
    if vectors and nest.reduction is Reduction.SUM:
        zero = spread(tirx.const(0, dtype_of(element)), width)
        start = [BufferStore(memory.buffer, zero, [slots]), BufferStore(memory.buffer, initial, [_int(0)])]

    def accumulate(here: Lanes) -> Stmt:
        index = _vector_index(0, here.lanes)
        total = tirx.BufferLoad(memory.buffer, [index])
        value = spread(here.value(nest.value), here.lanes)
        return BufferStore(memory.buffer, _reduced(nest, total, value), [index])

    if vectors is None:
        taps = _for_all(nest.over, at, accumulate, unroll=prod(a.extent for a in nest.over) <= _UNROLLED_TAPS)
    else:
        others = tuple(a for a in nest.over if a != vectors.axis)
        taps = _for_all(others, at, lambda here: _in_vectors(vectors, here, accumulate))
    folds: list[Stmt] = []
    half = width // 2 if vectors else 0
    while half:
        low, high = (tirx.BufferLoad(memory.buffer, [_vector_index(o, half)]) for o in (0, half))
        folds.append(BufferStore(memory.buffer, _reduced(nest, low, high), [_vector_index(0, half)]))
        half //= 2
    result = tirx.BufferLoad(memory.buffer, [_vector_index(0, 1 if vectors else width)])
    return _sequence([declared, *start, taps, *folds, at.store(nest.output, nest.address, result)])


def _reduced(nest: Nest, a: Value, b: Value) -> Value:
    return combine(
        BinaryOp.ADD if nest.reduction is Reduction.SUM else BinaryOp.MAX, a, b, nest.value.element
    )


def _in_vectors(vectors: Vectors, here: Lanes, body: Callable[[Lanes], Stmt]) -> Stmt:
    """`body` along a whole axis: full vectors, then ever smaller ones."""
    axis = vectors.axis

    def at(first: Value, lanes: int) -> Stmt:
        base = tirx.Var("base", "int32")
        inside = Lanes(here.machine, here.memory, {**here.axes, axis.name: base}, axis, lanes)
        return _sequence([Bind(base, first), body(inside)])

    start = axis.extent - axis.extent % vectors.lanes
    statements: list[Stmt] = []
    if start:
        step = tirx.Var(axis.name, "int32")
        statements.append(_loop(step, _int(start // vectors.lanes), at(step * vectors.lanes, vectors.lanes)))
    for piece in pieces(axis.extent, vectors.lanes):
        statements.append(at(_int(start), piece))
        start += piece
    return _sequence(statements)


def _for_all(
    axes: Sequence[Axis], here: Lanes, body: Callable[[Lanes], Stmt], *, unroll: bool = False
) -> Stmt:
    variables = {a.name: tirx.Var(a.name, "int32") for a in axes}
    code = body(replace(here, axes={**here.axes, **variables}))
    for axis in reversed(axes):
        kind = ForKind.UNROLLED if unroll else ForKind.SERIAL
        code = For(variables[axis.name], _int(0), _int(axis.extent), kind, code)
    return code


def _decoded(row: Value, axes: Sequence[Axis]) -> tuple[list[Stmt], dict[str, Value]]:
    """Statements that bind the indices of `axes` of a row number, and the variables by axis name."""
    statements: list[Stmt] = []
    variables: dict[str, Value] = {}
    for axis in reversed(axes):
        variable = variables[axis.name] = tirx.Var(axis.name, "int32")
        rest, index = (None, row) if axis is axes[0] else _divided(row, axis.extent)
        statements.append(Bind(variable, index))
        row = rest
    return statements, variables


def _divided(value: Value, by: int) -> tuple[Value, Value]:
    """Quotient and remainder of a value that is not negative."""
    return tirx.truncdiv(value, _int(by)), tirx.truncmod(value, _int(by))


def _sequence(statements: list[Stmt]) -> Stmt:
    return statements[0] if len(statements) == 1 else SeqStmt(statements)


def _loop(variable: Any, count: Value, body: Stmt) -> Stmt:
    return For(variable, _int(0), count, ForKind.SERIAL, body)


def _int(value: int) -> Value:
    return tirx.const(value, "int32")


def _vector_index(first: int, lanes: int) -> Value:
    return _int(first) if lanes == 1 else tirx.Ramp(_int(first), _int(1), _int(lanes))
