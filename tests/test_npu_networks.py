"""Laws of the compiler for the NPU: exact, whatever the graph and the configuration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Value
from compiler.ir.types import TensorType, quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import bias_type
from compiler.ops.convolution import Conv2D
from compiler.ops.edge import Requantize
from compiler.quantize.quantize_graph import widened
from sim.config import NpuConfig
from tests.npu_networks import check_exact, check_roofline, configurations
from tests.random_graphs import quantized_graphs, random_arrays

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
B1, I8, I16 = ElementType.B1, ElementType.I8, ElementType.I16


def _channel_type(element: ElementType, scales: list[float]) -> QuantizedType:
    return QuantizedType(element, Quantization(tuple(scales), 0, 0))


@st.composite
def convolutions(draw: st.DrawFn, most_inputs: int = 80) -> Graph:
    """One convolution: all widths, strides, dilations, pads and groups."""
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pads = tuple(draw(st.integers(0, kernel[d % 2] * dilation[d % 2])) for d in range(4))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 40]))
    inputs = draw(st.integers(1, most_inputs if groups == 1 else 4)) if groups < 40 else 1
    outputs = draw(st.integers(1, 70 if groups == 1 else 5)) if groups < 40 else draw(st.integers(1, 2))
    element = draw(st.sampled_from([I8, I8, I16, B1] if groups == 1 else [I8, I8, I16]))
    widths = [I8, ElementType.I4, ElementType.I2, B1]
    weight_element = B1 if element is B1 else draw(st.sampled_from(widths))
    graph = Graph("convolution")
    size = [draw(st.integers(1, 20)) for _ in (0, 1)]
    assume(all(size[d] + pads[d] + pads[d + 2] > (kernel[d] - 1) * dilation[d] for d in (0, 1)))
    shape = (draw(st.sampled_from([1, 1, 2])), *size, inputs * groups)
    zero = 0 if element is B1 else draw(st.integers(element.low, element.high))
    x = _codes(graph, shape, QuantizedType(element, Quantization((0.02,), zero)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    channels = outputs * groups
    scales = [float(np.float32(s)) for s in rng.uniform(0.001, 0.1, channels)]
    low = -1 if weight_element is B1 else weight_element.low + 1
    codes = rng.integers(low, weight_element.high + 1, (channels, *kernel, inputs))
    if weight_element is B1:
        codes = np.where(codes > 0, 1, -1)
    weight_type = quantized(codes.shape, _channel_type(weight_element, scales))
    weight = _constant(graph, codes.astype(weight_element.dtype), weight_type, "w")
    of = bias_type(x.type, weight_type)
    bias = _constant(graph, rng.integers(-(1 << 16), 1 << 16, channels).astype(np.int32), of, "b")
    to = draw(st.sampled_from([None, I8, I8, I16, B1] if groups == 1 else [None, I8, I8, I16]))
    zero = 0 if to is B1 else draw(st.integers(-128, 127))
    result = None if to is None else QuantizedType(to, Quantization((0.05,), zero))
    op = Conv2D(stride, pads, dilation, groups, None, result)
    (y,) = graph.append(op, [x, weight, bias], Location(("conv",)), ["y"])
    if to is B1:
        (y,) = graph.append(Requantize(widened(y.type).codes), [y], Location(("codes",)), ["z"])
    graph.outputs.append(y)
    return graph


def _codes(graph: Graph, shape: tuple[int, ...], of: QuantizedType) -> Value:
    """An input; no port has packed bits, so they are signs of one of 8 bits."""
    if of.element is not B1:
        return graph.add_input("x", quantized(shape, of))
    x = graph.add_input("x", quantized(shape, QuantizedType(I8, Quantization((0.02,), 3))))
    return graph.append(Requantize(of), [x], Location(("signs",)), ["signs"])[0]


def _constant(graph: Graph, array: np.ndarray, of: TensorType, name: str) -> Value:
    return graph.constant(array, of, Location(()), name)


@settings(ANY, max_examples=25)
@given(convolutions(), configurations(), st.integers(0, 2**16))
def test_convolutions_are_exact_and_no_faster_than_possible(
    graph: Graph, config: NpuConfig, seed: int
) -> None:
    check_roofline(graph, check_exact(graph, config, random_arrays(graph, seed)))


@settings(ANY, max_examples=25)
@given(quantized_graphs(), configurations(), st.integers(0, 2**16))
def test_graphs_of_all_operators_are_exact(graph: Graph, config: NpuConfig, seed: int) -> None:
    """What the NPU does not take runs on the host between its programs."""
    check_exact(graph, config, random_arrays(graph, seed))


@pytest.mark.slow
@settings(ANY, max_examples=1000)
@given(convolutions(), configurations(), st.integers(0, 2**16))
def test_many_convolutions_are_exact(graph: Graph, config: NpuConfig, seed: int) -> None:
    check_roofline(graph, check_exact(graph, config, random_arrays(graph, seed)))


@pytest.mark.slow
@settings(ANY, max_examples=1000)
@given(quantized_graphs(), configurations(), st.integers(0, 2**16))
def test_many_graphs_of_all_operators_are_exact(graph: Graph, config: NpuConfig, seed: int) -> None:
    check_exact(graph, config, random_arrays(graph, seed))
