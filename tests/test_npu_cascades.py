"""Layers as one, whose image in between never leaves the cores: exact in any tiles, chosen where faster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Value
from compiler.ir.types import TensorType
from compiler.ir.types import quantized as codes
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import bias_type
from compiler.ops.convolution import Conv2D
from schedules import npu_cascade_search
from schedules.npu_cascade import Cascade
from schedules.npu_mechanisms import ALL, Mechanism
from schedules.npu_tiling import Shape
from sim.config import NpuConfig, load_config, preset_names
from targets.streams import cascades
from targets.streams.lowering import lower_to_streams
from targets.streams.model import NpuModel, model_of
from targets.streams.running import time_model
from tests.npu_networks import check_exact, check_roofline, configurations
from tests.random_graphs import random_arrays

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
I8, I16 = ElementType.I8, ElementType.I16
Pair = tuple[int, int]


class Layers:
    """Convolutions one behind the other, with random weights."""

    def __init__(self, shape: tuple[int, ...], seed: int, element: ElementType = I8) -> None:
        self.graph, self.rng = Graph("layers"), np.random.default_rng(seed)
        self.last = self.graph.add_input("x", codes(shape, self.code(element)))

    def code(self, element: ElementType) -> QuantizedType:
        return QuantizedType(element, Quantization((0.05,), int(self.rng.integers(-100, 100))))

    def add(self, op: Conv2D, outputs: int, kernel: Pair, weights: ElementType = I8) -> Value:
        inputs = self.last.type.shape[3] // op.groups
        shape, where = (outputs, *kernel, inputs), Location((f"conv{len(self.graph.nodes)}",))
        scales = tuple(float(np.float32(s)) for s in self.rng.uniform(0.002, 0.01, outputs))
        type_ = TensorType(shape, weights, Quantization(scales, 0, 0))
        weight = self.rng.integers(-weights.weight_limit, weights.weight_limit + 1, shape).astype(np.int8)
        of = bias_type(self.last.type, type_)
        bias = self.rng.integers(-(1 << 12), 1 << 12, outputs).astype(np.int32)
        constants = [
            self.graph.constant(weight, type_, where, "w"),
            self.graph.constant(bias, of, where, "b"),
        ]
        (self.last,) = self.graph.append(op, [self.last, *constants], where)
        return self.last

    def done(self) -> Graph:
        self.graph.outputs.append(self.last)
        return self.graph


@st.composite
def pairs(draw: st.DrawFn) -> Graph:
    """A product and a depthwise convolution: all kernels, strides, dilations, pads and widths."""

    def window(extent: Pair) -> tuple[Conv2D, Pair]:
        kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, n)] * 2)) for n in (3, 2, 2))
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        pads = tuple(draw(st.integers(0, reach[i % 2])) for i in range(4))
        assume(all(extent[i] + pads[i] + pads[i + 2] > reach[i] for i in (0, 1)))
        return Conv2D(stride, pads, dilation, 1, None, None), kernel

    size = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    element, middle, last = (draw(st.sampled_from([I8, I8, I16])) for _ in range(3))
    shape = (draw(st.sampled_from([1, 2])), *size, draw(st.integers(1, 40)))
    layers = Layers(shape, draw(st.integers(0, 1 << 16)), element)
    weights = st.sampled_from([I8, ElementType.I4])
    op, kernel = window(size)
    channels = draw(st.integers(2, 60))
    between = layers.add(_to(op, layers.code(middle), 1), channels, kernel, draw(weights))
    op, kernel = window((between.type.shape[1], between.type.shape[2]))
    layers.add(_to(op, layers.code(last), channels), channels, kernel, draw(weights))
    return layers.done()


def _to(op: Conv2D, to: QuantizedType, groups: int) -> Conv2D:
    return Conv2D(op.stride, op.pads, op.dilation, groups, None, to)


def between(graph: Graph) -> Value:
    """The first convolution's result."""
    return next(n for n in graph.nodes if isinstance(n.op, Conv2D)).output


def kept(model: NpuModel) -> set[str]:
    """Results that lie in no memory outside of the cores."""
    return {v.name for v in model.graph.values() if v.constant is None} - model.locations.keys()


def check_cascade(graph: Graph, config: NpuConfig, number: int, seed: int) -> None:
    """By any tiles that fit, whether faster or not."""

    def drawn(producer: Shape, consumer: Shape, of: NpuConfig) -> Cascade | None:
        found = list(npu_cascade_search.candidates(producer, consumer, of))
        return found[number % len(found)].cascade if found else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascades, "choose_cascade", drawn)
        patch.setattr(cascades, "is_faster", lambda *_: True)
        model = check_exact(graph, config, random_arrays(graph, seed))
    assert kept(model) <= {between(graph).name}
    if config.name in preset_names():
        assert kept(model)
    check_roofline(graph, model)


@settings(ANY, max_examples=20)
@given(pairs(), configurations(), st.integers(0, 1 << 30), st.integers(0, 2**16))
def test_any_cascade_is_exact(graph: Graph, config: NpuConfig, number: int, seed: int) -> None:
    check_cascade(graph, config, number, seed)


@pytest.mark.slow
@settings(ANY, max_examples=1000)
@given(pairs(), configurations(), st.integers(0, 1 << 30), st.integers(0, 2**16))
def test_any_of_many_cascades_is_exact(graph: Graph, config: NpuConfig, number: int, seed: int) -> None:
    check_cascade(graph, config, number, seed)


def bottleneck(size: int, uses: int = 1) -> Graph:
    """As in MobileNetV2: six times the channels, then depthwise. The image in between is the largest."""
    layers = Layers((1, size, size, 16), 0)
    wide = layers.add(Conv2D(to=layers.code(I8)), 96, (1, 1))
    for _ in range(uses):
        layers.last = wide
        layers.add(Conv2D((2, 2), (1, 1, 1, 1), groups=96, to=wide.type.codes), 96, (3, 3))
        layers.done()
    return layers.graph


@pytest.mark.parametrize("preset", preset_names())
def test_a_large_image_stays_in_the_cores(preset: str) -> None:
    """Where ports are what limits; then both layers together take less time than apart."""
    graph, config = bottleneck(56), load_config(preset)
    model = check_exact(graph, config, random_arrays(graph, 0))
    assert kept(model) == {between(graph).name}
    apart = lower_to_streams(graph, config, mechanisms=ALL - {Mechanism.CASCADE})
    assert time_model(model).cycles < 0.95 * time_model(model_of(apart, "apart")).cycles


def test_what_others_need_leaves_the_cores() -> None:
    twice, given_out = bottleneck(56, uses=2), bottleneck(56)
    given_out.outputs.append(between(given_out))
    for graph in (twice, given_out):
        assert not kept(model_of(lower_to_streams(graph, load_config("npu-512")), "net"))


def test_where_the_array_limits_layers_stay_apart() -> None:
    """A large kernel of many channels, and little to move."""
    layers = Layers((1, 8, 8, 256), 0)
    layers.add(Conv2D((1, 1), (1, 1, 1, 1), to=layers.code(I8)), 64, (3, 3))
    layers.add(Conv2D((1, 1), (1, 1, 1, 1), groups=64, to=layers.code(I8)), 64, (3, 3))
    assert not kept(model_of(lower_to_streams(layers.done(), load_config("npu-256")), "net"))
