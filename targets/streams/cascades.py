"""Which layers keep their result in the cores, for the next layer alone (schedules/npu_cascade.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from compiler.ir.graph import Graph
from compiler.lowering.program import KernelCall
from schedules.npu_cascade import emit_cascade
from schedules.npu_cascade_search import choose_cascade, is_faster, may_cascade
from schedules.npu_emit import Address, Emitter
from sim.config import NpuConfig
from targets.streams.layer import Layer, Memory
from targets.streams.layers import (
    ProductLayer,
    convolution_of,
    image_of,
    product_of,
    result_of,
    shape_of,
)
from targets.streams.rules import Rule

_IN_CORE = Address(False, 0)  # of what lies in no memory outside of the cores


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """A product that the layer behind it computes."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        pass


@dataclass(frozen=True, slots=True)
class CascadeLayer:
    """A product and the depthwise convolution behind it."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    producer: KernelCall

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None:
        """call: of the consumer."""
        image, result = image_of(self.producer, memory), result_of(call, memory)
        shapes = shape_of(e, self.producer, image.dram, False), shape_of(e, call, False, result.dram)
        cascade = choose_cascade(*shapes, e.config)
        assert cascade is not None
        producer = product_of(e, self.producer, memory, cascade.producer, image, _IN_CORE)
        emit_cascade(e, producer, product_of(e, call, memory, cascade.consumer, _IN_CORE, result))


def cascades(
    graph: Graph,
    calls: Sequence[tuple[KernelCall, Layer | None]],
    memory: Memory,
    configs: Sequence[NpuConfig],
) -> frozenset[int]:
    """Numbers of the calls whose results stay in the cores. memory: if none did; configs: what layers may
    have of the NPU, the first one all of it."""
    found: set[int] = set()
    for number, ((call, layer), (after, behind)) in enumerate(pairwise(calls)):
        products = isinstance(layer, ProductLayer) and isinstance(behind, ProductLayer)
        free = products and number - 1 not in found and _alone(graph, call, after)
        if free and _pays(call, after, memory, configs):
            found.add(number)
    return frozenset(found)


def _alone(graph: Graph, call: KernelCall, after: KernelCall) -> bool:
    """Whether nobody but the call behind it sees a call's result."""
    value = call.node.output
    buffer = call.places[0].buffer
    used = [user for user, _ in value.uses] == [after.node] and after.reads[0] is value
    return used and not graph.is_output(value) and buffer.values == [value] and not buffer.is_external


def _pays(call: KernelCall, after: KernelCall, memory: Memory, configs: Sequence[NpuConfig]) -> bool:
    if not may_cascade(convolution_of(call), convolution_of(after)):
        return False
    for config in configs:
        e = Emitter(config, config)
        producer, consumer = (
            shape_of(e, c, image_of(c, memory).dram, result_of(c, memory).dram) for c in (call, after)
        )
        if config == configs[0] and not is_faster(producer, consumer, config):
            return False
        if choose_cascade(producer, consumer, config) is None:
            return False
    return True
