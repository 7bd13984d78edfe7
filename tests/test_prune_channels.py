"""Exact pruning: no result changes, and what is dead is gone."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.interpreter import run
from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Value
from compiler.ir.op import Op
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.ir.types import TensorType, quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops import OPS
from compiler.ops.contraction import bias_type
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean
from compiler.ops.shape import Reshape
from compiler.passes.base import Notes, run_pass
from compiler.passes.dead_code import RemoveDeadCode
from compiler.passes.prune_channels import PruneChannels
from tests.ir_text import graph
from tests.random_graphs import quantized_graphs, random_arrays

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
A, B, W = "<scale=1.0, zero_point=-128>", "<scale=1.0, zero_point=5>", "<scale=[1.0, 1.0, 1.0], axis=0>"
ONE, TWO = "<scale=[1.0], axis=0>", "<scale=[1.0, 1.0], axis=0>"


def pruned(net: Graph, multiple: int) -> tuple[Graph, int]:
    """A copy that has been pruned, and the number of rewrites."""
    copy = parse_graph(graph_text(net), OPS)
    rewrites = run_pass(PruneChannels(multiple), copy, Notes()).rewrites
    run_pass(RemoveDeadCode(), copy, Notes())
    return copy, rewrites


def check_equal(net: Graph, copy: Graph, seed: int) -> None:
    for inputs in (random_arrays(net, seed), random_arrays(net, seed + 1)):
        expected, found = run(net, inputs), run(copy, inputs)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, name)


def test_constants_and_unused_channels_go() -> None:
    """Channel 0 lives; 1 is 7 for every input, which goes into a bias; 2 is not used."""
    before = f"""
        input %x: i8[1,2]{A}
        %w = [[1, 1], [0, 0], [1, -1]] : i8[3,2]{W}
        %b = [0, 7, 0] : i32[3]{W}
        %v = [[1, 3, 0]] : i8[1,3]{ONE}
        %c = [100] : i32[1]{ONE}
        %h = dense(%x, %w, %b) {{to = i8{A}}} : i8[1,3]{A} @("first")
        %y = dense(%h, %v, %c) {{to = i8{B}}} : i8[1,1]{B} @("second")
        output %y
        """
    after = f"""
        input %x: i8[1,2]{A}
        %w.1 = [[1, 1]] : i8[1,2]{ONE} @("first")
        %b.1 = [0] : i32[1]{ONE} @("first")
        %v.1 = [[1]] : i8[1,1]{ONE} @("second")
        %c.1 = [121] : i32[1]{ONE} @("second")
        %h = dense(%x, %w.1, %b.1) {{to = i8{A}}} : i8[1,1]{A} @("first")
        %y = dense(%h, %v.1, %c.1) {{to = i8{B}}} : i8[1,1]{B} @("second")
        output %y
        """
    made = graph(before)
    notes = Notes()
    assert run_pass(PruneChannels(1), made, notes).rewrites == 2
    run_pass(RemoveDeadCode(), made, notes)
    assert sorted(graph_text(made).splitlines()) == sorted(graph_text(graph(after)).splitlines())
    assert [n.text for n in notes.entries] == ["2 of 3 channels never change or are never used: left out"]


def test_a_constant_beside_padding_stays() -> None:
    """Outside of the image its products are 0, inside they are not: no bias stands for both."""
    made = graph(f"""
        input %x: i8[1,3,3,1]{A}
        %w = [1, 0] : i8[2,1,1,1]{TWO}
        %b = [0, 7] : i32[2]{TWO}
        %v = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] : i8[1,3,3,2]{ONE}
        %c = [0] : i32[1]{ONE}
        %h = conv2d(%x, %w, %b) {{to = i8{A}}} : i8[1,3,3,2]{A}
        %y = conv2d(%h, %v, %c) {{pads = (1, 1, 1, 1), to = i8{B}}} : i8[1,3,3,1]{B}
        output %y
        """)
    copy, rewrites = pruned(made, 1)
    assert rewrites == 0
    check_equal(made, copy, 0)


@given(quantized_graphs(), st.sampled_from([1, 4, 16]), st.integers(0, 99))
@settings(ANY, max_examples=40)
def test_no_result_of_any_graph_changes(net: Graph, multiple: int, seed: int) -> None:
    check_equal(net, pruned(net, multiple)[0], seed)


@st.composite
def half_dead_networks(draw: st.DrawFn) -> Graph:
    """Convolutions, depthwise layers, pools and a dense layer, of whose channels many do nothing."""
    grown = _Network(draw)
    value = grown.graph.add_input("x", quantized((1, 5, 5, draw(st.integers(1, 5))), grown.codes()))
    for _ in range(draw(st.integers(1, 5))):
        value = grown.layer(value)
    value = grown.add(Mean((1, 2), to=grown.codes()), value)
    value = grown.add(Reshape((1, value.type.shape[-1])), value)
    grown.graph.outputs.append(grown.contraction(value, Dense(to=grown.codes()), (draw(st.integers(1, 9)),)))
    return grown.graph


class _Network:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.graph = draw, Graph("net")
        self.rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))

    def codes(self) -> QuantizedType:
        zero_point = self.draw(st.sampled_from([-128, -128, 0, 3]))
        return QuantizedType(ElementType.I8, Quantization((0.5,), zero_point))

    def add(self, op: Op, *inputs: Value) -> Value:
        return self.graph.append(op, inputs, Location((f"n{len(self.graph.nodes)}",)))[0]

    def layer(self, x: Value) -> Value:
        channels = x.type.shape[-1]
        kernel, pads = self.draw(st.sampled_from([(1, 0), (3, 0), (3, 1)]))
        if min(x.type.shape[1:3]) < kernel:
            kernel, pads = 1, 0
        window, around = (kernel, kernel), (pads, pads, pads, pads)
        match self.draw(st.sampled_from(["conv", "conv", "depthwise", "max", "mean"])):
            case "conv":
                outputs = self.draw(st.integers(1, 24))
                op = Conv2D(pads=around, clamp=(0.0, 6.0), to=self.codes())
                return self.contraction(x, op, (outputs, kernel, kernel))
            case "depthwise":
                op = Conv2D(pads=around, groups=channels, clamp=(0.0, 6.0), to=self.codes())
                return self.contraction(x, op, (channels, kernel, kernel))
            case "max":
                return self.add(MaxPool2D(window, pads=around), x)
            case _:
                return self.add(AveragePool2D(window, pads=around, to=self.codes()), x)

    def contraction(self, x: Value, op: Conv2D | Dense, shape: tuple[int, ...]) -> Value:
        inputs = x.type.shape[-1] // (op.groups if isinstance(op, Conv2D) else 1)
        weight = self.rng.integers(-127, 128, (*shape, inputs)).astype(np.int8)
        bias = self.rng.integers(-3000, 3000, shape[0]).astype(np.int32)
        quiet = self.rng.random(shape[0]) < 0.5  # small weights, large biases
        weight[quiet] //= 64
        bias[quiet] *= 50
        weight[..., self.rng.random(inputs) < 0.3] = 0
        scales = tuple(float(np.float32(s)) for s in self.rng.uniform(0.001, 0.02, shape[0]))
        type_ = TensorType(weight.shape, ElementType.I8, Quantization(scales, 0, 0))
        where = Location((f"n{len(self.graph.nodes)}",))
        constants = [
            self.graph.constant(weight, type_, where, "w"),
            self.graph.constant(bias, bias_type(x.type, type_), where, "b"),
        ]
        return self.graph.append(op, [x, *constants], where)[0]


@given(half_dead_networks(), st.sampled_from([1, 4]), st.integers(0, 99))
@settings(ANY, max_examples=150)
def test_no_result_of_a_half_dead_network_changes(net: Graph, multiple: int, seed: int) -> None:
    copy, _ = pruned(net, multiple)
    check_equal(net, copy, seed)
    before = {n.location: n.output.type.shape[-1] for n in net.activations()}
    for node in copy.activations():
        left = node.output.type.shape[-1]
        assert left == before[node.location] or left % multiple == 0


def test_half_dead_networks_lose_channels() -> None:
    """The law above would hold of a pass that does nothing."""
    lost: list[int] = []

    @given(half_dead_networks())
    @settings(ANY, max_examples=50, database=None, derandomize=True)
    def count(net: Graph) -> None:
        lost.append(_channels(net) - _channels(pruned(net, 1)[0]))

    count()
    assert sum(n > 0 for n in lost) > len(lost) / 2


def _channels(net: Graph) -> int:
    return sum(n.output.type.shape[-1] for n in net.nodes if isinstance(n.op, Conv2D))
