"""Layers that move codes and change none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Value
from compiler.loops.form import LoopForm
from compiler.lowering.program import KernelCall
from compiler.lowering.storage import dense_strides
from compiler.ops.resize import ResizeNearest
from compiler.ops.shape import Transpose
from compiler.ops.slicing import Broadcast, Concat, Gather, Pad, PadMode, Slice
from schedules.npu_emit import Address, Emitter
from schedules.npu_move import Assembly, Piece, emit_assembly
from schedules.npu_transfer import dense
from sim.config import NpuConfig
from targets.streams.layer import Memory, item_bytes, source, strides_at
from targets.streams.rules import Rule, has_integers

Indices = Sequence[int]
_MOST_PIECES = 4096


def moves(call: KernelCall) -> bool:
    """Whether the operator moves elements of one scale."""
    kinds = (Transpose, Broadcast, Slice, Gather, ResizeNearest, Pad, Concat)
    return call.copies or isinstance(call.node.op, kinds)


def has_few_pieces(call: KernelCall, config: NpuConfig) -> bool:
    """the elements come from more than 4096 places that no stride leads along"""
    if call.copies or (indices := _indices(call)) is None:
        return True
    count = 1
    for along in indices:
        count *= len(_split(along)[1])
    return count <= _MOST_PIECES


@dataclass(frozen=True, slots=True)
class MoveLayer:
    """What could not be joined, cut or reshaped in place, and what changes places."""

    rules: ClassVar[tuple[Rule, ...]] = (has_integers, has_few_pieces)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        emit_assembly(e, _assembly(call, memory))


def _assembly(call: KernelCall, memory: Memory) -> Assembly:
    node, y = call.node, call.node.output
    if call.copies:
        return _copied(call, memory)
    match node.op:
        case Concat(axis):
            begin, pieces = 0, list[Piece]()
            for x in node.inputs:
                pieces.append(_piece(x, tuple(begin * (d == axis) for d in range(y.type.rank)), memory))
                begin += x.type.shape[axis]
            return _whole(call, y, pieces, memory)
        case Transpose(permutation):
            at, strides = source(node.inputs[0], memory)
            moved = tuple(strides[p] for p in permutation)
            return _whole(call, y, [Piece((0,) * y.type.rank, y.type.shape, at, moved)], memory)
        case Broadcast(shape):
            at, strides = source(node.inputs[0], memory)
            own = node.inputs[0].type.shape
            repeated = (0,) * (len(shape) - len(own)) + tuple(
                s * (n > 1) for s, n in zip(strides, own, strict=True)
            )
            return _whole(call, y, [Piece((0,) * len(shape), shape, at, repeated)], memory)
        case Pad(before, _, PadMode.CONSTANT):
            fill = int(call.lowered.constants["fill"].reshape(-1)[0])
            return _whole(call, y, [_piece(node.inputs[0], before, memory)], memory, fill)
        case _:
            return _gathered(call, memory)


def _copied(call: KernelCall, memory: Memory) -> Assembly:
    """One value, or one constant part of a concatenation."""
    (place,), form = call.places, call.lowered.form
    assert isinstance(form, LoopForm)
    x = form.operands[0]
    size = x.element.dtype.itemsize
    if call.reads:
        at, strides = source(call.reads[0], memory)
    else:
        data = np.ascontiguousarray(call.lowered.constants[x.name], x.element.dtype)
        at, strides = memory.constant(data.reshape(-1).view(np.uint8)), dense(x.shape, size)
    target = tuple(s * size for s in place.strides or dense_strides(x.shape))
    piece = Piece((0,) * len(x.shape), x.shape, at, strides)
    return Assembly(x.shape, (piece,), memory.address(place, size), target, size)


def _piece(x: Value, begin: tuple[int, ...], memory: Memory) -> Piece:
    at, strides = source(x, memory)
    return Piece(begin, x.type.shape, at, strides)


def _whole(call: KernelCall, of: Value, pieces: list[Piece], memory: Memory, fill: int = 0) -> Assembly:
    (place,) = call.places
    target = memory.address(place, item_bytes(of))
    return Assembly(of.type.shape, tuple(pieces), target, strides_at(of, place), item_bytes(of), fill)


def _indices(call: KernelCall) -> list[Indices] | None:
    """Along each axis, where the result's elements come from; None where strides say it."""
    shape = call.node.inputs[0].type.shape
    whole: list[Indices] = [range(n) for n in shape]
    match call.node.op:
        case Slice(begin, counts, steps):
            return [range(b, b + n * s, s) for b, n, s in zip(begin, counts, steps, strict=True)]
        case Gather(axis, indices):
            return [*whole[:axis], indices, *whole[axis + 1 :]]
        case ResizeNearest(rows, columns):
            return [whole[0], rows, columns, whole[3]]
        case Pad(before, after, PadMode.EDGE | PadMode.REFLECT as mode):
            numpy_mode = "edge" if mode is PadMode.EDGE else "reflect"
            pads = zip(shape, before, after, strict=True)
            return [np.pad(np.arange(n), (b, a), numpy_mode).tolist() for n, b, a in pads]
        case _:
            return None


def _split(indices: Indices) -> tuple[int, list[tuple[int, range]]]:
    """How often each index comes in a row, and runs of even steps forward of those that are left: where each
    run begins, and its indices (a step of 0 is written as a range of one)."""
    count = len(indices)
    often = next(
        n
        for n in range(count, 0, -1)
        if count % n == 0 and all(indices[i] == indices[i - i % n] for i in range(count))
    )
    return often, list(_runs(indices[::often]))


def _runs(indices: Indices) -> Iterator[tuple[int, range]]:
    begin = 0
    while begin < len(indices):
        end, step = begin + 1, 1
        if end < len(indices) and (step := indices[end] - indices[begin]) > 0:
            while end < len(indices) and indices[end] - indices[end - 1] == step:
                end += 1
        yield begin, range(indices[begin], indices[begin] + (end - begin) * max(step, 1), max(step, 1))
        begin = end


def _gathered(call: KernelCall, memory: Memory) -> Assembly:
    """Axes whose indices come several times in a row are two: the indices, and how often they come."""
    x, y = call.node.inputs[0], call.node.output
    at, strides = source(x, memory)
    indices = _indices(call)
    assert indices is not None
    parts = [_split(along) for along in indices]
    shape = tuple(n for often, runs in parts for n in (sum(len(r) for _, r in runs), often))
    pieces: list[Piece] = []
    for runs in product(*(runs for _, runs in parts)):
        begin = tuple(n for first, _ in runs for n in (first, 0))
        extents = tuple(n for (_, r), (often, _) in zip(runs, parts, strict=True) for n in (len(r), often))
        skipped = sum(r.start * s for (_, r), s in zip(runs, strides, strict=True))
        steps = tuple(n for (_, r), s in zip(runs, strides, strict=True) for n in (r.step * s, 0))
        pieces.append(Piece(begin, extents, at + skipped, steps))
    (place,) = call.places
    target = strides_at(y, place)
    doubled = tuple(n for s, (often, _) in zip(target, parts, strict=True) for n in (often * s, s))
    address: Address = memory.address(place, item_bytes(y))
    return Assembly(shape, tuple(pieces), address, doubled, item_bytes(y))
