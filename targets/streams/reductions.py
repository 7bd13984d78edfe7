"""Reductions over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from compiler.lowering.program import KernelCall
from compiler.ops.accumulation import spread
from compiler.ops.reduction import Mean, ReduceMax
from schedules.npu_emit import Emitter
from schedules.npu_finish import Finish
from schedules.npu_reduce import Reduction, emit_reduction, reduction_tile
from sim.config import NpuConfig
from sim.isa import Reduce
from targets.streams.layer import NOWHERE, Memory, source, strides_at
from targets.streams.rules import Rule, has_codes


def sums_narrow(call: KernelCall, config: NpuConfig) -> bool:
    """the sum can pass 32 bits"""
    op, x = call.node.op, call.node.inputs[0].type
    return not isinstance(op, Mean) or prod(x.shape[a] for a in op.axes) * spread(x.element) < 1 << 31


def has_reduction_tile(call: KernelCall, config: NpuConfig) -> bool:
    """the activation memory does not hold what one result is made of, part by part"""
    return reduction_tile(_reduction(call, NOWHERE), config) is not None


@dataclass(frozen=True, slots=True)
class ReduceLayer:
    """Mean, sum and maximum."""

    rules: ClassVar[tuple[Rule, ...]] = (has_codes, sums_narrow, has_reduction_tile)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        r = _reduction(call, memory)
        tile = reduction_tile(r, e.config)
        assert tile is not None
        emit_reduction(e, r, tile)


def _reduction(call: KernelCall, memory: Memory) -> Reduction:
    op, x, y = call.node.op, call.node.inputs[0], call.node.output
    assert isinstance(op, (Mean, ReduceMax))
    at, strides = source(x, memory)
    (place,) = call.places
    written = strides_at(y, place)
    reduced = [d for d in op.axes if x.type.shape[d] > 1]
    kept = [d for d in range(x.type.rank) if d not in op.axes and x.type.shape[d] > 1]
    finish, zero = Finish(y.type.element), 0
    if isinstance(op, Mean):
        zero, factor, shift, zero_out, low, high = (int(n) for n in call.lowered.constants["parameters"])
        finish = Finish(y.type.element, factor, 0, shift, zero_out, low, high)
    return Reduction(
        function=Reduce.SUM if isinstance(op, Mean) else Reduce.MAX,
        kept=tuple(x.type.shape[d] for d in kept),
        reduced=tuple(x.type.shape[d] for d in reduced),
        source=at,
        element=x.type.element,
        kept_strides=tuple(strides[d] for d in kept),
        reduced_strides=tuple(strides[d] for d in reduced),
        zero=zero,
        target=memory.address(place, y.type.element.dtype.itemsize),
        target_strides=tuple(written[d] for d in kept),
        finish=finish,
    )
