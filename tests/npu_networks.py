"""Graphs on the NPU in tests: lowered, run on the simulator, held against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from compiler.interpreter import run
from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Node, Value
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.ops.edge import Requantize
from compiler.quantize.quantize_graph import widened
from sim.config import NpuConfig, load_config, preset_names
from targets.streams.lowering import lower_to_streams
from targets.streams.model import HostCall, NpuModel, model_of
from targets.streams.running import ModelTiming, run_model, time_model
from tests.op_cases import OpCase


@st.composite
def configurations(draw: st.DrawFn) -> NpuConfig:
    """A preset, or one of its likes with other memories, cores and ports."""
    config = load_config(draw(st.sampled_from(preset_names())))
    if draw(st.booleans()):
        return config
    banks, weight_banks = draw(st.sampled_from([2, 3, 4, 8])), draw(st.sampled_from([2, 4, 8]))
    pads = replace(
        config.scratchpad,
        activation_banks=banks,
        activation_bytes=banks * draw(st.sampled_from([256, 1000, 4096])),
        weight_banks=weight_banks,
        weight_bytes=weight_banks * draw(st.sampled_from([256, 600, 2048])),
        accumulator_words=draw(st.sampled_from([256, 1000, 4096])),
        parameter_banks=draw(st.sampled_from([1, 2])),
    )
    sram = replace(config.sram, size_bytes=draw(st.sampled_from([1024, 1 << 20])))
    cores = draw(st.sampled_from([1, 2, 3, 5]))
    return replace(config, name="drawn", scratchpad=pads, sram=sram, cores=cores)


def graph_of(case: OpCase) -> tuple[Graph, dict[str, Array]]:
    """The operator alone, and its inputs. No port has packed bits: they are made of codes and become such."""
    graph, inputs, values = Graph("one"), dict[str, Array](), list[Value]()

    def changed(x: Value, to: QuantizedType, name: str) -> Value:
        return graph.append(Requantize(to), [x], Location((name,)), [name])[0]

    for i, (type_, array) in enumerate(zip(case.types, case.arrays, strict=True)):
        if i in case.constants:
            values.append(graph.constant(array, type_, Location(()), f"c{i}"))
            continue
        inputs[f"x{i}"] = array
        bits = type_.element is ElementType.B1
        x = graph.add_input(f"x{i}", widened(type_) if bits else type_)
        values.append(changed(x, type_.codes, f"b{i}") if bits else x)
    for y in graph.append(case.op, values, Location(("op",)), ["y"]):
        bits = y.type.element is ElementType.B1
        graph.outputs.append(changed(y, widened(y.type).codes, "z") if bits else y)
    return graph, inputs


def check_exact(graph: Graph, config: NpuConfig, inputs: Mapping[str, Array]) -> NpuModel:
    """Every value that the NPU (or the host beside it) makes is the interpreter's, bit for bit. Lowering
    has the checker look at each stream."""
    model = model_of(lower_to_streams(graph, config), "net")
    expected: dict[str, Array] = {}
    results = run(graph, inputs, lambda value, array: expected.update({value.name: array}))

    def compare(name: str, array: Array) -> None:
        # Bits, not values: -0.0 and NaN count as what they are.
        np.testing.assert_array_equal(_bits(array), _bits(expected[name]), name)

    for name, array in run_model(model, inputs, compare).items():
        np.testing.assert_array_equal(_bits(array), _bits(results[name]), name)
    return model


def check_roofline(graph: Graph, model: NpuModel) -> ModelTiming:
    """No engine is faster than what it is made of: the array at the widths of each layer, the ports."""
    timing, config = time_model(model), model.config
    on_host = {s.value for s in model.steps if isinstance(s, HostCall)}
    assert timing.cycles >= sum(_array_cycles(n, config) for n in graph.nodes if _made(n) not in on_host)
    for statistics in timing.totals:
        assert statistics.cycles >= statistics.sram_bytes / config.sram.bytes_per_cycle
        assert statistics.cycles >= statistics.dram_bytes / config.dram.bytes_per_cycle
    return timing


def _made(node: Node) -> str:
    return node.outputs[0].name


def _array_cycles(node: Node, config: NpuConfig) -> float:
    """Of a contraction's products, if they filled the arrays of all cores."""
    if not isinstance(node.op, Conv2D | Dense):
        return 0.0
    types, mac = [v.type for v in node.inputs], config.mac
    act, wgt = types[0].element.bits, types[1].element.bits
    each = mac.reduction_lanes(act) * mac.output_lanes(act, wgt)
    if types[1].shape[-1] == 1:  # may be computed channel by channel
        each = max(each, mac.depthwise_lanes(act, wgt) * mac.depthwise_taps)
    return node.op.macs(types) / (each * config.cores)


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
