"""A compiled network on the simulator: results bit for bit, and cycles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compiler.numerics.element import Array, ElementType
from schedules.bits import pack_bits, unpack_bits
from sim.checker import check
from sim.functional.core import Core, External
from sim.functional.execute import execute
from sim.grouped import grouped_order
from sim.statistics import Statistics, statistics
from sim.timing import Timing, time_program
from targets.streams.model import DRAM, HOST, SRAM, HostCall, Location, NpuModel, StreamCall, node_of

if TYPE_CHECKING:
    from compiler.ir.graph import Value
    from compiler.ir.types import TensorType

Observe = Callable[[str, Array], None]


def ignore_values(_name: str, _array: Array) -> None:
    """An `Observe` that looks at nothing."""


def check_streams(model: NpuModel) -> None:
    """Errors: StreamError for a hazard, a deadlock, or an address out of bounds, naming the instruction."""
    for step in model.steps:
        if isinstance(step, StreamCall):
            check(step.program, model.config)


def run_model(
    model: NpuModel, inputs: Mapping[str, Array], observe: Observe = ignore_values
) -> dict[str, Array]:
    """Outputs by name. inputs: arrays by input name; observe: called with each value when it is whole.

    Instructions run in an order that tokens allow, in which layers come one after the other as far as that
    can be; `check_streams` proves that all such orders give the same.
    """
    machine = _Machine(model)
    for value in model.graph.inputs:
        machine.write(value.name, np.asarray(inputs[value.name], value.type.element.dtype))
    for step in model.steps:
        if isinstance(step, HostCall):
            machine.host(step, observe)
        else:
            machine.stream(step, observe)
    return {v.name: machine.read(v.name) for v in model.graph.outputs}


class _Machine:
    def __init__(self, model: NpuModel) -> None:
        self.model = model
        self.external = External.of(model.config, dram=model.constants)
        self.memories: dict[str, Array] = {
            HOST: np.zeros(model.host_bytes, np.uint8),
            SRAM: self.external.sram.data,
            DRAM: self.external.dram.data,
        }
        self.values: dict[str, Value] = {v.name: v for v in model.graph.values()}

    def read(self, name: str) -> Array:
        value = self.values[name]
        if value.constant is not None:
            return value.constant
        view = self._view(value.type, self.model.locations[name])
        return unpack_bits(view, value.type.shape[-1]) if _is_packed(value.type) else view.copy()

    def write(self, name: str, array: Array) -> None:
        type_ = self.values[name].type
        codes = array.reshape(type_.shape)
        stored = pack_bits(codes) if _is_packed(type_) else codes
        self._view(type_, self.model.locations[name])[...] = stored

    def _view(self, type_: TensorType, at: Location) -> Array:
        """As it is stored."""
        dtype = np.dtype(np.uint8) if _is_packed(type_) else type_.element.dtype
        strides = None if at.strides is None else tuple(s * dtype.itemsize for s in at.strides)
        shape = type_.element.stored_shape(type_.shape)
        return np.ndarray(shape, dtype, self.memories[at.memory].data, at.byte, strides)

    def host(self, step: HostCall, observe: Observe) -> None:
        if step.source is not None and step.target is not None:
            value = self.values[step.source]
            self._view(value.type, step.target)[...] = self.read(step.source)
            return
        from compiler.interpreter import run_node

        node = node_of(self.model.graph, step.value)
        results = run_node(node, [self.read(v.name) for v in node.inputs])
        for value, array in zip(node.outputs, results, strict=True):
            self.write(value.name, array)
            observe(value.name, array)

    def stream(self, step: StreamCall, observe: Observe) -> None:
        streams = step.program.streams
        decoded = [s.decode(core) for core, s in enumerate(streams)]
        cores = [Core.of(self.model.config) for _ in streams]
        order = grouped_order(step.program, step.numbers)
        last = [0] * len(step.layers)
        for at, (core, index) in enumerate(order, 1):
            number = int(step.numbers[core][index])
            if number < len(last):
                last[number] = at
        done, ends = 0, np.maximum.accumulate(last).tolist()
        for number, layer in enumerate(step.layers):
            end = ends[number]
            execute(cores, self.external, decoded, order[done:end])
            done = end
            if layer.whole:
                observe(layer.value, self.read(layer.value))
        execute(cores, self.external, decoded, order[done:])


def _is_packed(type_: TensorType) -> bool:
    return type_.element is ElementType.B1


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """value: the layer's result. cycles: from the end of all layers before it to its own end.
    statistics: from its first instruction to its last one; layers overlap."""

    value: str
    cycles: int
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class ModelTiming:
    """cycles: of all programs, one behind the other; the host's work takes none. timings: of each program."""

    cycles: int
    milliseconds: float
    layers: tuple[LayerTiming, ...]
    totals: tuple[Statistics, ...]
    timings: tuple[Timing, ...]


def time_model(model: NpuModel) -> ModelTiming:
    """No memory is read or written."""
    layers: list[LayerTiming] = []
    totals: list[Statistics] = []
    timings: list[Timing] = []
    for step in model.steps:
        if not isinstance(step, StreamCall):
            continue
        timing = time_program(step.program, model.config)
        ended = 0
        for number, layer in enumerate(step.layers):
            parts = [numbers == number for numbers in step.numbers]
            ends = [int(s.end[p].max()) for s, p in zip(timing.spans, parts, strict=True) if p.any()]
            last = max(ended, *ends) if ends else ended
            if layer is step.layers[-1]:
                last = timing.cycles  # with what comes behind the last layer
            found = statistics(timing, model.config, parts)
            layers.append(LayerTiming(layer.value, last - ended, found))
            ended = last
        totals.append(statistics(timing, model.config))
        timings.append(timing)
    cycles = sum(t.cycles for t in totals)
    return ModelTiming(
        cycles, cycles / model.config.clock_hz * 1000, tuple(layers), tuple(totals), tuple(timings)
    )
