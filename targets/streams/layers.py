"""What each operator becomes on the NPU. A new one is a class here, and a line in `layer_of`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Protocol

import numpy as np

from compiler.ir.graph import Value
from compiler.loops.form import Convolution
from compiler.lowering.program import KernelCall
from compiler.lowering.storage import Place, dense_strides, part_places, slice_place
from compiler.numerics.element import Array, ElementType
from compiler.ops.edge import Requantize
from compiler.ops.elementwise import Add, Mul, Sub
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean
from compiler.ops.slicing import Concat, Slice
from schedules.npu_blocks import pack_channel_parameters, pack_weights, weight_ratio
from schedules.npu_emit import Address, Blob, Emitter, Run, merged
from schedules.npu_product import Product, emit_product
from schedules.npu_search import choose_tiling
from schedules.npu_tiling import Shape
from schedules.npu_vector import (
    Copy,
    Finish,
    Mapped,
    Operand,
    emit_copy,
    emit_mapped,
    emit_pool,
    pool_tile,
)
from sim.compression import deflate
from sim.isa import Binary
from targets.streams import rules
from targets.streams.pooling import pooling
from targets.streams.rules import Rule


class Memory(Protocol):
    """Where values and constants lie."""

    def place(self, value: Value) -> Place: ...

    def address(self, place: Place, item_bytes: int) -> Address: ...

    def constant(self, data: Array) -> Address:
        """Address of constant bytes."""
        ...


class Layer(Protocol):
    """One kind of layer. rules: when the NPU takes it."""

    rules: ClassVar[tuple[Rule, ...]]

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None: ...


def layer_of(call: KernelCall) -> Layer | None:
    """None: the NPU has no such layer."""
    if isinstance(call.lowered.form, Convolution):
        return ProductLayer()
    match call.node.op:
        case _ if call.copies:
            return CopyLayer()
        case Concat() | Slice():
            return CopyLayer()
        case MaxPool2D() | AveragePool2D() | Mean():
            return PoolLayer()
        case Add() | Sub() | Mul():
            return BinaryLayer()
        case Requantize():
            return RequantizeLayer()
        case _:
            return None


@dataclass(frozen=True, slots=True)
class ProductLayer:
    """Convolution, depthwise and dense: all that has the form `Convolution`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        rules.has_product_types,
        rules.has_small_window,
        rules.fits_scratchpads,
    )

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        form, constants = call.lowered.form, call.lowered.constants
        assert isinstance(form, Convolution)
        image = memory.address(memory.place(call.reads[0]), form.input.dtype.itemsize)
        result = memory.address(call.places[0], form.output.dtype.itemsize)
        ratio = weight_ratio(constants["weight"], form.weight.bits)
        tiling = choose_tiling(Shape(form, image.dram, result.dram, ratio), e.config)
        assert tiling is not None  # where operands lie changes the cost, not what fits
        weights = {
            key: _blob(memory, packed)
            for key, packed in pack_weights(form, tiling, constants["weight"], e.config)
        }
        zero_in, zero_out, low, high = (int(n) for n in constants["parameters"])
        if not form.requantizes:
            zero_out, low, high = 0, 0, 0  # unused: results are the accumulators
        parameters = memory.constant(pack_channel_parameters(form, constants))
        emit_product(
            e, Product(form, tiling, image, result, weights, parameters, zero_in, zero_out, low, high)
        )


def _blob(memory: Memory, raw: Array) -> Blob:
    """Compressed where that makes it shorter."""
    data = np.ascontiguousarray(raw).view(np.uint8)
    packed = deflate(data)
    if packed.size < data.size:
        return Blob(memory.constant(packed), data.size, packed.size)
    return Blob(memory.constant(data), data.size)


def _pixel_bytes(value: Value, place: Place) -> int:
    """Between neighbouring pixels of an NHWC value."""
    strides = place.strides or dense_strides(value.type.shape)
    return strides[2] * value.type.element.dtype.itemsize


@dataclass(frozen=True, slots=True)
class PoolLayer:
    """Maximum and mean of windows, and of whole images."""

    rules: ClassVar[tuple[Rule, ...]] = (
        rules.has_codes,
        rules.pools_images,
        rules.pools_evenly,
        rules.pools_small_windows,
        rules.has_pool_tile,
    )

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        x, y = call.reads[0], call.node.output
        sides: list[tuple[Address, int]] = []
        for value, place in ((x, memory.place(x)), (y, call.places[0])):
            at = memory.address(place, value.type.element.dtype.itemsize)
            sides.append((at, _pixel_bytes(value, place)))
        p = pooling(call, *sides[0], *sides[1])
        tile = pool_tile(p, e.config)
        assert tile is not None
        emit_pool(e, p, tile)


@dataclass(frozen=True, slots=True)
class _View:
    """An operand of a mapped function: where it begins, and its strides in elements."""

    address: Address
    element: ElementType
    strides: tuple[int, ...]
    zero: int


def _mapped(
    call: KernelCall, memory: Memory, function: Binary, finish: Finish, zeros: Sequence[int]
) -> Iterator[Mapped]:
    """One for all elements where these lie in evenly spaced rows; else one for each index of outer axes."""
    values = [*call.reads, call.node.output]
    places = [*(memory.place(v) for v in call.reads), call.places[0]]
    shape = call.node.output.type.shape
    views: list[_View] = []
    for value, place, zero in zip(values, places, (*zeros, 0), strict=True):
        element = value.type.element
        at = memory.address(place, element.dtype.itemsize)
        views.append(_View(at, element, place.strides or dense_strides(shape), zero))
    for part, of in _even_parts(shape, views):
        rows, count, pitches = part
        operands = tuple(
            Operand(v.address, v.element, pitch * v.element.dtype.itemsize, v.zero)
            for v, pitch in zip(of, pitches, strict=True)
        )
        yield Mapped(function, rows, count, operands[:-1], operands[-1], finish)


def _even_parts(
    shape: tuple[int, ...], views: list[_View]
) -> Iterator[tuple[tuple[int, int, list[int]], list[_View]]]:
    """(rows, elements of a row, elements between rows of each view), views."""
    found = [merged([Run(n, s, s) for n, s in zip(shape, v.strides, strict=True)], 1) for v in views]
    gaps = [(runs, row) for runs, row in found if runs]
    total = prod(shape)
    if not gaps:
        yield (1, total, [total] * len(views)), views
    elif all(len(runs) == 1 and row == gaps[0][1] for runs, row in gaps):
        count = gaps[0][1]
        yield (total // count, count, [r[0].external if r else count for r, _ in found]), views
    else:
        for i in range(shape[0]):
            inner: list[_View] = []
            for v in views:
                at = v.address + i * v.strides[0] * v.element.dtype.itemsize
                inner.append(_View(at, v.element, v.strides[1:], v.zero))
            yield from _even_parts(shape[1:], inner)


@dataclass(frozen=True, slots=True)
class BinaryLayer:
    """Sum, difference and product of two tensors of one shape."""

    rules: ClassVar[tuple[Rule, ...]] = (rules.has_codes, rules.has_two_equal_operands)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        element, numbers = (
            call.node.output.type.element,
            [int(n) for n in call.lowered.constants["parameters"]],
        )
        if isinstance(call.node.op, Mul):
            zero_a, zero_b, multiplier, shift, zero, low, high = numbers
            finish = Finish(element, multiplier, 0, shift, zero, low, high)
            function = Binary.MUL
        else:
            zero_a, zero_b, a, b, shift, zero, low, high = numbers
            finish = Finish(element, a, b, shift, zero, low, high)
            function = Binary.ADD
        for part in _mapped(call, memory, function, finish, (zero_a, zero_b)):
            emit_mapped(e, part)


@dataclass(frozen=True, slots=True)
class RequantizeLayer:
    """Codes of one scale to those of another."""

    rules: ClassVar[tuple[Rule, ...]] = (rules.has_codes,)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        numbers = [int(n) for n in call.lowered.constants["parameters"]]
        zero_in, multiplier, shift, zero, low, high = numbers
        finish = Finish(call.node.output.type.element, multiplier, 0, shift, zero, low, high)
        for part in _mapped(call, memory, Binary.RESCALE, finish, (zero_in,)):
            emit_mapped(e, part)


@dataclass(frozen=True, slots=True)
class CopyLayer:
    """Codes that are moved: what could not be joined, cut or reshaped in place."""

    rules: ClassVar[tuple[Rule, ...]] = (rules.has_codes, rules.joins_computed, rules.steps_forward)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        for value, source, target in self._moves(call, memory):
            size = value.type.element.dtype.itemsize
            shape = value.type.shape
            strides = [
                tuple(s * size for s in place.strides or dense_strides(shape)) for place in (source, target)
            ]
            ends = [memory.address(place, size) for place in (source, target)]
            emit_copy(e, Copy(shape, ends[0], strides[0], ends[1], strides[1], size))

    def _moves(self, call: KernelCall, memory: Memory) -> list[tuple[Value, Place, Place]]:
        node = call.node
        if call.copies:
            (x,) = call.reads
            return [(x, memory.place(x), call.places[0])]
        if isinstance(node.op, Slice):
            x = node.inputs[0]
            return [(node.output, slice_place(node.op, x, memory.place(x)), call.places[0])]
        parts = zip(node.inputs, part_places(node, call.places[0]), strict=True)
        return [(v, memory.place(v), part) for v, part in parts]
