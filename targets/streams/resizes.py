"""Bilinear resizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.lowering.program import KernelCall
from compiler.numerics.element import Array, ElementType
from compiler.ops.resize import WEIGHT_BITS, ResizeBilinear
from schedules.npu_emit import Emitter
from schedules.npu_resize import Resize, Taps, emit_resize, resize_tile
from sim.config import NpuConfig
from targets.streams.layer import NOWHERE, Memory, source, strides_at
from targets.streams.rules import Rule, has_no_floats


def weighs_bytes(call: KernelCall, config: NpuConfig) -> bool:
    """sums of weighted codes of 16 bits pass 32 bits"""
    return call.node.output.type.element is ElementType.I8


def has_resize_tile(call: KernelCall, config: NpuConfig) -> bool:
    """not even one output, with its neighbours, fits the activation memory twice"""
    return resize_tile(_resize(call, NOWHERE), config) is not None


@dataclass(frozen=True, slots=True)
class ResizeLayer:
    """Linear between two rows and two columns."""

    rules: ClassVar[tuple[Rule, ...]] = (has_no_floats, weighs_bytes, has_resize_tile)

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        r = _resize(call, memory)
        tile = resize_tile(r, e.config)
        assert tile is not None
        emit_resize(e, r, tile)


def _resize(call: KernelCall, memory: Memory) -> Resize:
    x, y = call.node.inputs[0], call.node.output
    assert isinstance(call.node.op, ResizeBilinear)
    at, strides = source(x, memory)
    (place,) = call.places
    element, constants = x.type.element, call.lowered.constants
    bits = WEIGHT_BITS[element]
    return Resize(
        batch=x.type.shape[0],
        channels=x.type.shape[3],
        rows=_taps(constants["rows"], bits),
        columns=_taps(constants["columns"], bits),
        source=at,
        source_strides=strides,
        target=memory.address(place, y.type.element.dtype.itemsize),
        target_strides=strides_at(y, place),
        element=element,
    )


def _taps(table: Array, bits: int) -> Taps:
    """Places on an input look at that one alone."""
    first, second, weight = (line.astype(np.int64) for line in table)
    first, weight = np.where(weight >> bits, second, first), weight & ((1 << bits) - 1)
    second = np.where(weight, second, first)
    return Taps(tuple(first.tolist()), tuple(second.tolist()), tuple(weight.tolist()), bits)
