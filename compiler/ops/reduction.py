"""Reductions over whole axes: mean (and sum), maximum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.ir.op import (
    Arrays,
    Lowered,
    Op,
    Operand,
    Quantized,
    QuantizedOperand,
    Refusal,
    Types,
    expect,
)
from compiler.ir.types import Shape, TensorType
from compiler.loops.expression import Axis, Constant, Expression, Rescale, clamp
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import FixedPoint, requantize
from compiler.numerics.quantization import QuantizedType
from compiler.ops.accumulation import Accumulator, spread
from compiler.ops.contraction import Clamp
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.layout import channels_first, channels_last
from compiler.ops.pooling import averaged_type
from compiler.ops.shape import Reshape, activation_buffers

I32 = ElementType.I32


@dataclass(frozen=True, slots=True)
class Mean(Op):
    """factor * mean over `axes`, which stay with extent 1. A factor of the element count makes it a sum.

    clamp, to: as in Conv2D; codes need `to`. Sums are held as `Accumulator` says.
    """

    mnemonic: ClassVar[str] = "mean"
    axes: tuple[int, ...]
    factor: float = 1.0
    clamp: Clamp = None
    to: QuantizedType | None = None

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(self.factor > 0, f"the factor of a mean must be positive, not {self.factor}")
        return (averaged_type(x, _reduced(x, self.axes), self.to),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return replace(self, axes=tuple(sorted(permutation[a] for a in self.axes)))

    def of_channels(self, x: TensorType, count: int) -> Op | None:
        return None if x.rank - 1 in self.axes else self

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        result = arrays[0].mean(axis=self.axes, keepdims=True) * arrays[0].dtype.type(self.factor)
        return (result if self.clamp is None else np.clip(result, *self.clamp),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        assert self.to is not None
        centred = arrays[0].astype(np.int64) - inputs[0].codes.zero_point
        total = self._accumulator(inputs[0]).narrow(centred.sum(axis=self.axes, keepdims=True))
        factor, (low, high) = self._rescaling(inputs[0]), self.to.clamp_codes(self.clamp)
        result = requantize(total, factor.multiplier, factor.shift, self.to.zero_point, low, high)
        return (result.astype(self.to.element.dtype),)

    def _count(self, x: TensorType) -> int:
        return math.prod(x.shape[a] for a in self.axes)

    def _accumulator(self, x: TensorType) -> Accumulator:
        return Accumulator.holding(self._count(x) * spread(x.element))

    def _rescaling(self, x: TensorType) -> FixedPoint:
        assert self.to is not None
        unit = x.codes.scale * (1 << self._accumulator(x).drop)
        return FixedPoint.nearest(unit * self.factor / (self._count(x) * self.to.scale))

    def quantize(
        self, inputs: Sequence[QuantizedOperand], to: Sequence[QuantizedType], weights: ElementType
    ) -> Quantized | Refusal:
        return Quantized(replace(self, to=to[0]))

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """parameters = (zero point in, multiplier, shift, zero point out, low, high)."""
        assert self.to is not None
        of = inputs[0].type
        x, y = activation_buffers(inputs, outputs)
        p = Buffer("parameters", (6,), I32, Role.CONSTANT)
        held = self._accumulator(of)
        total = Buffer("total", y.shape, held.element, Role.SCRATCH)
        axes = y.axes()
        load, over = _reduced_load(x, axes, self.axes)
        centred = (load.cast(I32) - p.load(0)).cast(held.element)
        rescaled = Rescale(held.narrowed(total.load(*axes)), p.load(1), p.load(2))
        value = clamp(rescaled + p.load(3), p.load(4), p.load(5)).cast(y.element)
        stages = (
            Stage("total", axes, centred, over, initial=Constant(0, held.element)),
            Stage("output", axes, value),
        )
        factor, (low, high) = self._rescaling(of), self.to.clamp_codes(self.clamp)
        numbers = [of.codes.zero_point, factor.multiplier, factor.shift, self.to.zero_point, low, high]
        form = LoopForm("mean", (x, p, y, total), stages)
        return Lowered(form, (0,), {"parameters": np.array(numbers, np.int32)})


@dataclass(frozen=True, slots=True)
class ReduceMax(Op):
    """Maximum over `axes`, which stay with extent 1."""

    mnemonic: ClassVar[str] = "reduce_max"
    keeps_quantization: ClassVar[bool] = True
    axes: tuple[int, ...]

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        (x,) = inputs
        expect(x.quantization is None or x.quantization.axis is None, f"maximum of per-channel {x}")
        return (x.with_shape(_reduced(x, self.axes)),)

    def permuted(self, permutation: tuple[int, ...]) -> Op | None:
        return ReduceMax(tuple(sorted(permutation[a] for a in self.axes)))

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (arrays[0].max(axis=self.axes, keepdims=True),)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        axes = y.axes()
        load, over = _reduced_load(x, axes, self.axes)
        stage = Stage("output", axes, load, over, Reduction.MAX, Constant(x.element.low, x.element))
        return Lowered(LoopForm("reduce_max", (x, y), (stage,)), (0,))


def _reduced(x: TensorType, axes: tuple[int, ...]) -> Shape:
    known = sorted(set(axes)) == list(axes) and axes and axes[0] >= 0 and axes[-1] < x.rank
    expect(bool(known), f"axes {list(axes)} are no ascending axes of {x}")
    expect(x.count > 0, f"{x} has no elements to reduce")
    return tuple(1 if d in axes else extent for d, extent in enumerate(x.shape))


def _reduced_load(
    x: Buffer, axes: Sequence[Axis], reduced: Sequence[int]
) -> tuple[Expression, tuple[Axis, ...]]:
    """The element to reduce, and the axes to reduce over."""
    over = {d: Axis(f"r{d}", x.shape[d]) for d in reduced}
    return x.load(*(over.get(d, axis) for d, axis in enumerate(axes))), tuple(over.values())


@imports("ReduceMean")
def import_reduce_mean(node: OnnxNode) -> Results:
    return _import_reduction(node, 18, lambda axes, x: Mean(axes))


@imports("ReduceSum")
def import_reduce_sum(node: OnnxNode) -> Results:
    """A sum is the mean times the number of elements."""
    return _import_reduction(node, 13, lambda axes, x: Mean(axes, float(math.prod(x.shape[a] for a in axes))))


@imports("ReduceMax")
def import_reduce_max(node: OnnxNode) -> Results:
    return _import_reduction(node, 18, lambda axes, x: ReduceMax(axes))


@imports("GlobalAveragePool")
def import_global_average_pool(node: OnnxNode) -> Results:
    y = node.emit(Mean((1, 2)), channels_last(node, node.value(0)))
    return (channels_first(node, y, node.value(0).type.rank),)


@imports("GlobalMaxPool")
def import_global_max_pool(node: OnnxNode) -> Results:
    y = node.emit(ReduceMax((1, 2)), channels_last(node, node.value(0)))
    return (channels_first(node, y, node.value(0).type.rank),)


def _import_reduction(
    node: OnnxNode, axes_are_input_from: int, op: Callable[[tuple[int, ...], TensorType], Op]
) -> Results:
    """Axes are an attribute before that opset. Images reduced over both spatial axes run channels-last."""
    x = node.value(0)
    if node.opset < axes_are_input_from:
        given = node.tuple_of("axes", ())
    else:
        given = node.integers(1) if node.has(1) else ()
    if not given and node.integer("noop_with_empty_axes", 0):
        return (x,)
    rank = x.type.rank
    if not all(-rank <= a < rank for a in given):
        raise node.error(f"axes {list(given)} are not all axes of {x.type}")
    axes = tuple(sorted({a % rank for a in given})) or tuple(range(rank))
    kept = bool(node.integer("keepdims", 1))
    shape = tuple(1 if d in axes else e for d, e in enumerate(x.type.shape) if kept or d not in axes)
    if rank == 4 and axes == (2, 3):
        pixels = channels_last(node, x)
        y = node.emit(op((1, 2), pixels.type), pixels)
        return (channels_first(node, y) if kept else node.emit(Reshape(shape), y),)
    y = node.emit(op(axes, x.type), x)
    return (y if kept else node.emit(Reshape(shape), y),)
