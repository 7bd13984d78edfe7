"""The choice of weight widths under a budget: exact, honest about what is out of reach, and kept."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.interpreter import run
from compiler.ir.diagnostics import BitloomError, Location
from compiler.ir.graph import Graph
from compiler.ir.types import f32
from compiler.numerics.element import Array, ElementType
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.ops.shape import Reshape
from compiler.ops.softmax import Softmax
from compiler.quantize.bit_widths import WIDTHS, choose_bit_widths, width_candidates
from compiler.quantize.budget import Budget, Metric
from compiler.quantize.calibration_run import read_calibration
from compiler.quantize.layers import Layer, check_layer_names, contraction_layers, rounded_weights
from compiler.quantize.quantize_graph import WeightWidths, weight_bytes
from compiler.quantize.sensitivity import measure_sensitivity, spread_samples, watched_values
from compiler.quantize.width_choice import CountsCycles
from targets import target_named

LETTERS = Path(__file__).parent.parent / "examples" / "letters"
I8, I4, I2, B1 = WIDTHS


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("size<=1.2MB", 1_200_000),
        ("size <= 800KiB", 819_200),
        ("size<=60%", 6_000),
        ("size<=12.5 %", 1_250),
        ("size<=512B", 512),
        ("size<=2MiB", 2_097_152),
        ("cycles<=60%", 6_000),
        ("cycles<=1500", 1_500),
        ("cycles<=1.5M", 1_500_000),
    ],
)
def test_budgets_are_read(text: str, limit: float) -> None:
    budget = Budget.parse(text)
    assert budget.limit(10_000) == limit
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size<1MB", r'cannot read the budget "size<1MB"\nhint: write it as size<=800KiB or size<=60%'),
        ("latency<=3B", r'unknown measure "latency"\nhint: known: size, cycles'),
        ("cycles<=3kB", r'unknown unit "kB"\nhint: known: %, none, k, M'),
        ("size<=3", r'unknown unit ""\nhint: known: %, B, kB'),
        ("size<=3ms", r'unknown unit "ms"'),
        ("size<=-3MB", "cannot read"),
    ],
)
def test_budgets_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(BitloomError, match=message):
        Budget.parse(text)


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1000)), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    ),
    st.floats(0, 1),
    st.integers(0, 500),
)
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_best_of_all(
    tables: list[list[tuple[float, int]]], tightness: float, base: int
) -> None:
    """Against trying every combination."""
    layers = [Layer(f"layer{i}", ()) for i in range(len(tables))]
    candidates = {layer: WIDTHS[: len(t)] for layer, t in zip(layers, tables, strict=True)}
    sensitivity = {
        layer.name: {e: error for e, (error, _) in zip(WIDTHS, t, strict=False)}
        for layer, t in zip(layers, tables, strict=True)
    }
    costs = {
        (layer.name, e): float(cost)
        for layer, t in zip(layers, tables, strict=True)
        for e, (_, cost) in zip(WIDTHS, t, strict=False)
    }
    least = sum(min(c for _, c in t) for t in tables)
    most = sum(max(c for _, c in t) for t in tables)
    limit = base + least + int(tightness * (most - least))
    found = choose_bit_widths(
        candidates,
        sensitivity,
        lambda layer, e: costs[layer.name, e],
        Budget(Metric.SIZE, float(limit), "B"),
        base,
    )
    combinations = itertools.product(*tables)
    allowed = [c for c in combinations if base + sum(cost for _, cost in c) <= limit]
    best = min(sum(error for error, _ in c) for c in allowed)
    assert found.cost <= limit
    assert found.cost == base + sum(row.chosen.cost for row in found.layers)
    assert found.error <= best + 1e-9


def test_a_budget_out_of_reach_names_the_smallest_size() -> None:
    layer = Layer("conv", ())
    sensitivity = {"conv": {I8: 0.0, I4: 0.5}}
    with pytest.raises(
        BitloomError,
        match=r"no choice of weight widths meets size<=10%: the smallest size within reach is 1,050 bytes, "
        r"allowed are 200\nhint: allow more: size<=1050B",
    ):
        choose_bit_widths(
            {layer: (I8, I4)},
            sensitivity,
            lambda _, e: 1000.0 if e is I8 else 50.0,
            Budget.parse("size<=10%"),
            base=1000,
        )


def network(softmax: bool = False) -> Graph:
    """conv -> conv -> dense, with random weights."""
    rng = np.random.default_rng(3)
    graph = Graph("g")
    x = graph.add_input("x", f32(1, 6, 6, 3))
    for name, shape in (("a", (8, 3, 3, 3)), ("b", (4, 3, 3, 8))):
        weight = graph.constant(rng.normal(size=shape), f32(*shape), Location((name,)), f"{name}.weight")
        op = Conv2D(pads=(1, 1, 1, 1), clamp=(0.0, float("inf")))
        (x,) = graph.append(op, [x, weight], Location((name, f"{name}.relu")), [name])
    (x,) = graph.append(Reshape((1, 144)), [x], Location(("flatten",)), ["flat"])
    weight = graph.constant(rng.normal(size=(5, 144)), f32(5, 144), Location(("c",)), "c.weight")
    (x,) = graph.append(Dense(), [x, weight], Location(("c",)), ["c"])
    if softmax:
        (x,) = graph.append(Softmax(), [x], Location(("softmax",)), ["p"])
        (x,) = graph.append(Reshape((5,)), [x], Location(("squeeze",)), ["y"])
    graph.outputs = [x]
    return graph


def inputs(count: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(4)
    return [{"x": rng.normal(size=(1, 6, 6, 3)).astype(np.float32)} for _ in range(count)]


def test_sensitivity_is_the_error_of_a_run_with_rounded_weights() -> None:
    """What is computed from cached activations equals a whole run of the changed graph."""
    graph, samples = network(), inputs(3)
    layers = contraction_layers(graph)
    assert [layer.name for layer in layers] == ["a", "b", "c"]
    found = measure_sensitivity(graph, samples, dict.fromkeys(layers, WIDTHS))
    exact = np.concatenate([run(graph, s)["c"] for s in samples])
    for index, layer in enumerate(layers):
        for element in WIDTHS:
            changed = network()
            (node,) = contraction_layers(changed)[index].nodes
            weight = node.inputs[1].constant
            assert weight is not None
            rounded = changed.constant(
                rounded_weights(weight, element), node.inputs[1].type, node.location, "r"
            )
            changed.set_input(node, 1, rounded)
            output = np.concatenate([run(changed, s)["c"] for s in samples])
            expected = np.sum((output - exact) ** 2) / np.sum(exact**2)
            assert found[layer.name][element] == pytest.approx(expected, rel=1e-5)


def test_fewer_bits_disturb_more() -> None:
    graph = network()
    found = measure_sensitivity(graph, inputs(4), dict.fromkeys(contraction_layers(graph), WIDTHS))
    for errors in found.values():
        assert 0 < errors[I8] < errors[I4] < errors[I2] < 10
        assert errors[I4] < errors[B1]


def test_a_softmax_is_judged_by_its_logits() -> None:
    assert [v.name for v in watched_values(network())] == ["c"]
    assert [v.name for v in watched_values(network(softmax=True))] == ["c"]


def test_layers_named_by_the_user_keep_their_width() -> None:
    layers = contraction_layers(network())
    found = width_candidates(layers, WeightWidths(I4, {"a": I8, "b.relu": B1}))
    assert list(found.values()) == [(I8,), (B1,), (I4, I2, B1)]


def test_names_of_layers_that_are_none_are_refused() -> None:
    check_layer_names(network(), WeightWidths(I8, {"a": I4, "b.relu": I4}))
    with pytest.raises(
        BitloomError, match='no layer with weights is called "flatten"\nhint: its layers: a, b, c'
    ):
        check_layer_names(network(), WeightWidths(I8, {"a": I4, "flatten": I4}))


def test_samples_are_spread_evenly() -> None:
    samples = inputs(10)
    chosen = spread_samples(samples, 4)
    assert [i for i, s in enumerate(samples) if any(s is c for c in chosen)] == [0, 2, 5, 7]
    assert len(spread_samples(samples, 20)) == 10


@pytest.mark.parametrize("text", ["size<=100%", "size<=60%", "size<=20KiB"])
def test_the_quantized_graph_meets_the_budget(text: str) -> None:
    imported = import_float(LETTERS / "letters.onnx")
    samples = read_calibration(LETTERS / "calibration.npz", imported.graph)[:4]
    options = QuantizeOptions(weights=WeightWidths(I8, {"classify": I8}), budget=Budget.parse(text))
    compilation = quantize_imported(imported, samples, options)
    choice = compilation.bit_widths
    assert choice is not None
    assert weight_bytes(compilation.graph) == choice.cost <= choice.limit
    widths = {row.layer: row.chosen.element for row in choice.layers}
    assert widths["classify"] is I8
    if text == "size<=100%":
        assert set(widths.values()) == {I8}
    else:
        assert choice.cost > 0.9 * choice.limit  # no bytes are left unused without need
    for node in compilation.graph.nodes:
        if isinstance(node.op, Conv2D | Dense):
            assert node.inputs[1].type.element is widths[node.location.names[0]]
    assert all(isinstance(row["chosen"], str) for row in choice.as_dict()["layers"])
    assert ElementType(choice.as_dict()["layers"][0]["chosen"]) in WIDTHS


@pytest.mark.parametrize("text", ["cycles<=100%", "cycles<=85%"])
def test_the_network_itself_keeps_to_its_cycles(text: str) -> None:
    """Layers overlap, so that the sum of their cycles alone would prove nothing."""
    imported = import_float(LETTERS / "letters.onnx")
    samples = read_calibration(LETTERS / "calibration.npz", imported.graph)[:4]
    clock = target_named("npu/npu-128")
    assert isinstance(clock, CountsCycles)
    options = QuantizeOptions(weights=WeightWidths(I8, {"classify": I8}), budget=Budget.parse(text))
    compilation = quantize_imported(imported, samples, options, clock=clock)
    choice = compilation.bit_widths
    assert choice is not None and str(choice.budget) == text
    assert sum(clock.cycles(compilation.graph).values()) == choice.cost <= choice.limit
    widths = {row.layer: row.chosen.element for row in choice.layers}
    assert widths["classify"] is I8
    assert (set(widths.values()) == {I8}) == (text == "cycles<=100%")


def test_a_target_without_a_clock_takes_no_budget_of_cycles() -> None:
    imported = import_float(LETTERS / "letters.onnx")
    samples = read_calibration(LETTERS / "calibration.npz", imported.graph)[:1]
    options = QuantizeOptions(budget=Budget.parse("cycles<=75%"))
    with pytest.raises(BitloomError, match=r"does not count cycles\nhint: targets npu"):
        quantize_imported(imported, samples, options)


def test_cycles_out_of_reach_are_refused() -> None:
    imported = import_float(LETTERS / "letters.onnx")
    samples = read_calibration(LETTERS / "calibration.npz", imported.graph)[:1]
    clock = target_named("npu/npu-128")
    assert isinstance(clock, CountsCycles)
    options = QuantizeOptions(budget=Budget.parse("cycles<=5%"))
    with pytest.raises(BitloomError, match=r"the smallest cycles within reach is [\d,]+ cycles, allowed are"):
        quantize_imported(imported, samples, options, clock=clock)
