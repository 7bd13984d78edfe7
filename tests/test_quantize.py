"""Laws of observers, of the choice of types, and of the quantized graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compiler.interpreter import run
from compiler.ir.graph import Graph
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType, dequantize_array, from_range, quantize_array
from compiler.passes.base import Notes
from compiler.quantize.observers import OBSERVERS
from compiler.quantize.observers.base import Histogram, Observer, Range
from compiler.quantize.observers.minmax import MinMax
from compiler.quantize.observers.moving_average import MovingAverage
from compiler.quantize.observers.mse import MeanSquaredError
from compiler.quantize.observers.percentile import Percentile
from compiler.quantize.quantize_graph import WeightWidths, quantize_graph
from compiler.quantize.types import JOIN_RATIO, activation_types
from tests.ir_text import graph

I8, I16 = ElementType.I8, ElementType.I16
FINITE = st.floats(-1e6, 1e6, width=32)
SAMPLES = st.lists(hnp.arrays(np.float32, st.integers(1, 40), elements=FINITE), min_size=1, max_size=5)


def observed(observer: Observer, samples: list[Array], element: ElementType = I8) -> Range:
    for sample in samples:
        observer.observe(sample)
    return observer.range(element)


@pytest.mark.parametrize("name", OBSERVERS)
def test_no_sample_gives_no_range(name: str) -> None:
    with pytest.raises(ValueError, match="no sample"):
        OBSERVERS[name]().range(I8)


@pytest.mark.parametrize("name", OBSERVERS)
@given(samples=SAMPLES)
@settings(max_examples=30, deadline=None)
def test_a_range_lies_within_what_was_seen(name: str, samples: list[Array]) -> None:
    found = observed(OBSERVERS[name](), samples)
    seen = observed(MinMax(), samples)
    slack = 1e-9 * max(abs(seen.low), abs(seen.high))
    low, high = min(seen.low, 0.0) - slack, max(seen.high, 0.0) + slack
    assert low <= found.low <= found.high <= high


@given(SAMPLES)
def test_minmax_is_the_smallest_interval_that_holds_all(samples: list[Array]) -> None:
    values = np.concatenate(samples)
    assert observed(MinMax(), samples) == Range(float(values.min()), float(values.max()))


@given(SAMPLES)
def test_a_moving_average_without_memory_is_the_last_sample(samples: list[Array]) -> None:
    assert observed(MovingAverage(momentum=0.0), samples) == observed(MinMax(), samples[-1:])


def test_a_moving_average_damps_one_extreme_sample() -> None:
    samples = [np.array([-1, 1], np.float32)] * 5 + [np.array([-100, 100], np.float32)]
    found = observed(MovingAverage(momentum=0.9), samples)
    assert found.low == pytest.approx(-10.9)
    assert found.high == pytest.approx(10.9)


@given(SAMPLES)
@settings(max_examples=50, deadline=None)
def test_a_histogram_loses_nothing_when_it_grows(samples: list[Array]) -> None:
    histogram = Histogram()
    for index, sample in enumerate(samples):
        histogram.add(sample)
        seen = np.concatenate(samples[: index + 1])
        assert histogram.counts.sum() == seen.size
        assert histogram.low <= seen.min() and seen.max() <= histogram.high
    # Bins are merged whole, so that no value moves by more than a bin.
    values = np.sort(np.concatenate(samples).astype(np.float64))
    restored = np.repeat(histogram.centres, histogram.counts.astype(int))
    width = (histogram.high - histogram.low) / Histogram.BINS
    assert np.all(np.abs(values - restored) <= width * 1.001)


@given(SAMPLES, st.floats(50, 100), st.floats(50, 100))
@settings(max_examples=50, deadline=None)
def test_percentiles_are_nested(samples: list[Array], a: float, b: float) -> None:
    inner, outer = (observed(Percentile(percentile=p), samples) for p in sorted((a, b)))
    assert outer.low <= inner.low and inner.high <= outer.high
    values = np.concatenate(samples)
    slack = 1e-9 * np.abs(values).max()  # edges of bins are rounded numbers
    kept = np.mean((values >= inner.low - slack) & (values <= inner.high + slack))
    assert kept >= min(a, b) / 100 - 1e-9


@given(SAMPLES)
@settings(max_examples=50, deadline=None)
def test_the_whole_percentile_is_minmax(samples: list[Array]) -> None:
    assert observed(Percentile(percentile=100.0), samples) == observed(MinMax(), samples)


def test_a_percentile_keeps_a_bound_where_values_pile_up() -> None:
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=100_000), 0).astype(np.float32)
    found = observed(Percentile(percentile=99.0), [values])
    assert found.low == 0.0
    assert found.high == pytest.approx(np.quantile(values, 0.995), rel=1e-2)


def rounding_error(values: Array, chosen: Range) -> float:
    to = QuantizedType(I8, from_range(chosen.low, chosen.high, I8))
    return float(np.mean((dequantize_array(quantize_array(values, to), to) - values) ** 2))


@pytest.mark.parametrize("seed", range(5))
def test_mse_is_no_worse_than_minmax_by_its_own_measure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=20_000)
    for values in (normal, np.maximum(normal, 0), rng.laplace(size=20_000), rng.uniform(-1, 3, 20_000)):
        samples = [part.astype(np.float32) for part in np.array_split(values, 4)]
        found, whole = observed(MeanSquaredError(), samples), observed(MinMax(), samples)
        # The measure is taken on a histogram: a per cent of it may be its bins.
        assert rounding_error(values, found) <= 1.01 * rounding_error(values, whole)


def test_mse_clips_an_outlier() -> None:
    """Above alone: the lower end stays where the values are."""
    values = np.append(np.random.default_rng(0).normal(size=1_000_000), 30.0).astype(np.float32)
    found = observed(MeanSquaredError(), [values])
    assert 3 < found.high < 15
    assert found.low < -3
    assert rounding_error(values, found) < 0.5 * rounding_error(values, observed(MinMax(), [values]))


def types_of(g: Graph, ranges: dict[str, tuple[float, float]]) -> dict[str, QuantizedType]:
    """Types by value name. ranges: of computed values; [-1, 1] for those left out."""
    given = {v: Range(*ranges.get(v.name, (-1.0, 1.0))) for v in g.values() if v.constant is None}
    return {v.name: t for v, t in activation_types(g, given, I8).items()}


POOL = """
    input %x: f32[1,4,4,2]
    %p = max_pool2d(%x) {kernel = (2, 2), stride = (2, 2)} : f32[1,2,2,2]
    %r = reshape(%p) {shape = (1, 8)} : f32[1,8]
    output %r
    """


def test_operators_that_move_codes_share_one_type() -> None:
    types = types_of(graph(POOL), {"x": (-1.0, 1.0), "p": (0.0, 1.0), "r": (0.0, 1.0)})
    assert types["x"] == types["p"] == types["r"]
    assert types["x"].quantization == from_range(-1.0, 1.0)


CONCAT = """
    input %a: f32[1,2]
    input %b: f32[1,2]
    %y = concat(%a, %b) {axis = 1} : f32[1,4]
    output %y
    """


def test_joined_parts_of_like_ranges_share_one_type() -> None:
    near = 2 / JOIN_RATIO * 1.01
    types = types_of(graph(CONCAT), {"a": (-near / 2, near / 2), "b": (-1.0, 1.0), "y": (-1.0, 1.0)})
    assert types["a"] == types["b"] == types["y"]


def test_a_part_of_a_much_smaller_range_keeps_its_own_and_is_requantized() -> None:
    far = 2 / JOIN_RATIO * 0.99
    g = graph(CONCAT)
    ranges = {"a": (-far / 2, far / 2), "b": (-1.0, 1.0), "y": (-1.0, 1.0)}
    types = types_of(g, ranges)
    assert types["a"] != types["b"] == types["y"]
    quantized = quantize_by(g, ranges)
    (concat,) = (n for n in quantized.nodes if n.op.mnemonic == "concat")
    assert [v.producer.op.mnemonic for v in concat.inputs if v.producer] == ["requantize", "quantize"]
    assert all(v.type.codes == types["y"] for v in (*concat.inputs, concat.output))


def test_a_softmax_keeps_its_type_beside_another_part() -> None:
    """Its codes are requantized in front of the concatenation; it does not fall back to float."""
    g = graph("""
        input %a: f32[1,2]
        input %b: f32[1,2]
        %s = softmax(%a) : f32[1,2]
        %r = reshape(%s) {shape = (1, 2)} : f32[1,2]
        %y = concat(%r, %b) {axis = 1} : f32[1,4]
        output %y
        """)
    ranges = {"s": (0.0, 1.0), "r": (0.0, 1.0)}
    types = types_of(g, ranges)
    assert types["s"] == types["r"] != types["y"] == types["b"]
    notes = Notes()
    quantize_by(g, ranges, notes)
    assert notes.entries == []


def test_a_constant_beyond_a_fixed_type_is_not_clipped() -> None:
    g = graph("""
        input %a: f32[1,2]
        %c = [[5, -5]] : f32[1,2]
        %s = softmax(%a) : f32[1,2]
        %y = concat(%s, %c) {axis = 1} : f32[1,4]
        output %y
        """)
    quantized = quantize_by(g, {"s": (0.0, 1.0), "y": (-5.0, 5.0)})
    found = run(quantized, {"a": np.zeros((1, 2), np.float32)})["y"]
    np.testing.assert_allclose(found, [[0.5, 0.5, 5, -5]], atol=0.05)


def test_parts_that_are_all_probabilities_stay_probabilities() -> None:
    types = types_of(
        graph("""
        input %a: f32[1,2]
        input %b: f32[1,3]
        %s = softmax(%a) : f32[1,2]
        %t = softmax(%b) : f32[1,3]
        %y = concat(%s, %t) {axis = 1} : f32[1,5]
        output %y
        """),
        dict.fromkeys("sty", (0.0, 1.0)),
    )
    assert types["s"] == types["t"] == types["y"]
    assert (types["y"].scale, types["y"].zero_point) == (1 / 256, -128)


def quantize_by(g: Graph, ranges: dict[str, tuple[float, float]], notes: Notes | None = None) -> Graph:
    given = {v: Range(*ranges.get(v.name, (-1.0, 1.0))) for v in g.values() if v.constant is None}
    return quantize_graph(g, activation_types(g, given, I8), WeightWidths(), notes or Notes())


NETWORK = """
    input %x: f32[1,3]
    %w = [[0.5, -0.25, 1], [1, 0.5, -0.5]] : f32[2,3]
    %b = [0.5, 2] : f32[2]
    %d = dense(%x, %w, %b) : f32[1,2] @("fc")
    %c = clip(%d) {low = 0.5, high = 4.0} : f32[1,2] @("clip")
    %q = div(%d, %c) : f32[1,2] @("quotient")
    %y = add(%q, %d) : f32[1,2] @("sum")
    output %y, %c
    """
NETWORK_RANGES = {"d": (-1.25, 4.0), "c": (0.5, 4.0), "q": (-2.5, 1.0), "y": (-4.0, 5.0)}


def test_inputs_and_outputs_keep_names_and_types() -> None:
    g = graph(NETWORK)
    quantized = quantize_by(g, NETWORK_RANGES)
    assert [(v.name, v.type) for v in quantized.inputs] == [(v.name, v.type) for v in g.inputs]
    assert [(v.name, v.type) for v in quantized.outputs] == [(v.name, v.type) for v in g.outputs]


def test_an_operator_without_integer_form_is_noted_and_computes_between_codes() -> None:
    g, notes = graph(NETWORK), Notes()
    quantized = quantize_by(g, NETWORK_RANGES, notes)
    (note,) = notes.entries
    assert note.location.names == ("quotient",)
    assert note.text == "stays in float32: a quotient of two computed tensors has no integer form"
    (island,) = (n for n in quantized.nodes if n.op.mnemonic == "div")
    assert [v.producer.op.mnemonic for v in island.inputs if v.producer] == ["dequantize", "dequantize"]
    assert [user.op.mnemonic for user, _ in island.output.uses] == ["quantize"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = {"x": rng.uniform(-1, 1, (1, 3)).astype(np.float32)}
        exact, found = run(g, x), run(quantized, x)
        # d has steps of 0.02, its quotient by at least 0.5 of 0.05 and 0.014; all added twice over.
        assert np.abs(exact["y"] - found["y"]).max() < 0.2
        assert np.abs(exact["c"] - found["c"]).max() < 0.03
        assert not np.array_equal(exact["y"], found["y"])


def test_a_value_that_is_read_as_codes_and_as_float_is_computed_once() -> None:
    quantized = quantize_by(graph(NETWORK), NETWORK_RANGES)
    mnemonics = [n.op.mnemonic for n in quantized.activations()]
    assert mnemonics.count("dense") == mnemonics.count("clip") + mnemonics.count("requantize") == 1
    assert mnemonics.count("dequantize") == 3  # d and c for the quotient (c is an output too), and y


def test_wide_activations_are_closer() -> None:
    g = graph(NETWORK)
    given = {v: Range(*NETWORK_RANGES.get(v.name, (-1.0, 1.0))) for v in g.values() if v.constant is None}
    graphs = [quantize_graph(g, activation_types(g, given, e), WeightWidths(), Notes()) for e in (I8, I16)]
    x = {"x": np.random.default_rng(1).uniform(-1, 1, (1, 3)).astype(np.float32)}
    narrow, wide = (np.abs(run(q, x)["c"] - run(g, x)["c"]).max() for q in graphs)
    assert wide < narrow
