"""Pools: maximum and mean of windows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import ClassVar

from compiler.lowering.program import KernelCall
from compiler.numerics.element import Array
from compiler.ops.accumulation import spread
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from schedules.npu_emit import Emitter
from schedules.npu_finish import Finish
from schedules.npu_pool import Pooling, Region, emit_pool, pool_tile
from sim.config import NpuConfig
from sim.isa import Reduce
from targets.streams.layer import NOWHERE, Memory, source, strides_at
from targets.streams.rules import Rule, has_codes


def has_small_pool_window(call: KernelCall, config: NpuConfig) -> bool:
    """kernel and pads must be below 256, strides and dilation below 32"""
    op = call.node.op
    assert isinstance(op, (MaxPool2D, AveragePool2D))
    return max(*op.kernel, *op.pads[:2]) < 256 and max(*op.stride, *op.dilation) < 32


def sums_narrow(call: KernelCall, config: NpuConfig) -> bool:
    """a window's sum can pass 32 bits"""
    op, x = call.node.op, call.node.inputs[0].type
    return not isinstance(op, AveragePool2D) or op.kernel[0] * op.kernel[1] * spread(x.element) < 1 << 31


def has_pool_tile(call: KernelCall, config: NpuConfig) -> bool:
    """not even one output, with what its window sees, fits the activation memory twice"""
    return pool_tile(_pooling(call, NOWHERE), config) is not None


@dataclass(frozen=True, slots=True)
class PoolLayer:
    """Maximum and mean of windows; where pads are not counted, a region for each divisor."""

    rules: ClassVar[tuple[Rule, ...]] = (has_codes, has_small_pool_window, sums_narrow, has_pool_tile)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        p = _pooling(call, memory)
        tile = pool_tile(p, e.config, e.manner.grain)
        assert tile is not None
        emit_pool(e, p, tile)


def _pooling(call: KernelCall, memory: Memory) -> Pooling:
    op, x, y = call.node.op, call.node.inputs[0], call.node.output
    assert isinstance(op, (MaxPool2D, AveragePool2D))
    image, image_strides = source(x, memory)
    (place,) = call.places
    batch, height, width, channels = x.type.shape
    mean = isinstance(op, AveragePool2D)
    return Pooling(
        function=Reduce.SUM if mean else Reduce.MAX,
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        out_height=y.type.shape[1],
        out_width=y.type.shape[2],
        kernel=op.kernel,
        stride=op.stride,
        dilation=op.dilation,
        pad=op.pads[:2],
        image=image,
        image_element=x.type.element,
        image_strides=image_strides,
        zero_in=x.type.codes.zero_point if mean else 0,
        result=memory.address(place, y.type.element.dtype.itemsize),
        result_element=y.type.element,
        result_strides=strides_at(y, place),
        regions=_regions(call),
    )


def _regions(call: KernelCall) -> tuple[Region, ...]:
    """Where windows see one number of elements, they have one factor."""
    y, constants = call.node.output.type, call.lowered.constants
    _, height, width, _ = y.shape
    if isinstance(call.node.op, MaxPool2D):
        return (Region((0, 0), (height, width), Finish(y.element)),)
    _, zero, low, high = (int(n) for n in constants["parameters"])
    multiplier, shift = constants["multiplier"], constants["shift"]
    # The number is a product of one of the row and one of the column.
    rows, columns = _equal(multiplier, shift), _equal(multiplier.T, shift.T)
    if multiplier.size == 1:
        rows, columns = [(0, height)], [(0, width)]
    found: list[Region] = []
    for (top, bottom), (left, right) in ((r, c) for r in rows for c in columns):
        factor, drop = int(multiplier[top, left]), int(shift[top, left])
        finish = Finish(y.element, factor, 0, drop, zero, low, high)
        found.append(Region((top, left), (bottom - top, right - left), finish))
    return tuple(found)


def _equal(multiplier: Array, shift: Array) -> list[tuple[int, int]]:
    """Runs of equal rows."""
    lines = [(tuple(m), tuple(s)) for m, s in zip(multiplier.tolist(), shift.tolist(), strict=True)]
    ends = [0]
    for _, run in groupby(lines):
        ends.append(ends[-1] + len(list(run)))
    return list(pairwise(ends))
