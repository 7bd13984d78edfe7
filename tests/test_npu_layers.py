"""Laws of the NPU's layers: each operator by itself, whatever its shapes and types, on every preset and on
machines with little memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.numerics.element import ElementType
from compiler.ops.accumulation import spread
from compiler.ops.matmul import MatMul
from compiler.ops.reduction import Mean, ReduceMax
from compiler.ops.resize import ResizeBilinear
from sim.config import NpuConfig, load_config, preset_names
from targets.streams.model import HostCall
from tests.npu_networks import check_exact, configurations, graph_of
from tests.op_cases import OpCase, activations, all_cases, code_types

I8 = ElementType.I8
ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
CASES = all_cases()
# What the NPU takes whatever the case.
ALWAYS = (
    *("transpose", "broadcast", "slice", "gather", "pad", "concat", "resize_nearest"),
    *("add", "sub", "mul", "minimum", "maximum", "clip", "prelu"),
    *("max_pool2d", "average_pool2d", "mean", "reduce_max", "requantize"),
)
# What it takes where the core's memories hold a tile and the tables.
WHERE_IT_FITS = ("unary", "softmax", "conv2d", "dense")


def check_case(case: OpCase, config: NpuConfig) -> list[HostCall]:
    """What is left to the host."""
    graph, inputs = graph_of(case)
    return [s for s in check_exact(graph, config, inputs).steps if isinstance(s, HostCall)]


@pytest.mark.parametrize("mnemonic", ALWAYS)
@settings(ANY, max_examples=15)
@given(st.data(), configurations())
def test_the_npu_takes_every_case(mnemonic: str, data: st.DataObject, config: NpuConfig) -> None:
    assert not check_case(data.draw(CASES[mnemonic]), config)


@pytest.mark.parametrize("mnemonic", WHERE_IT_FITS)
@pytest.mark.parametrize("preset", preset_names())
@settings(ANY, max_examples=15)
@given(st.data())
def test_a_preset_takes_every_case(mnemonic: str, preset: str, data: st.DataObject) -> None:
    assert not check_case(data.draw(CASES[mnemonic]), load_config(preset))


@pytest.mark.parametrize("mnemonic", WHERE_IT_FITS)
@settings(ANY, max_examples=15)
@given(st.data(), configurations())
def test_little_memory_is_exact_or_refused(mnemonic: str, data: st.DataObject, config: NpuConfig) -> None:
    check_case(data.draw(CASES[mnemonic]), config)


def passes_32_bits(case: OpCase) -> bool:
    """Whether the worst sum does."""
    spreads = [spread(t.element) for t in case.types]
    if not isinstance(case.op, MatMul):
        return case.types[0].element is ElementType.I16
    depth = case.types[0].shape[-2 if case.op.transpose_a else -1]
    return depth * spreads[0] * spreads[1] >= 1 << 31


@pytest.mark.parametrize("mnemonic", ["matmul", "resize_bilinear"])
@settings(ANY, max_examples=25)
@given(st.data(), configurations())
def test_the_npu_takes_all_but_wide_sums(mnemonic: str, data: st.DataObject, config: NpuConfig) -> None:
    case = data.draw(CASES[mnemonic])
    assert bool(check_case(case, config)) == passes_32_bits(case)


@st.composite
def large_matrices(draw: st.DrawFn) -> OpCase:
    """Cut into tiles of every axis."""
    m, k, n = (draw(st.integers(1, 150)) for _ in range(3))
    batch = draw(st.sampled_from([(), (2,), (3, 1), (2, 2)]))
    transpose_a, transpose_b = draw(st.tuples(st.booleans(), st.booleans()))
    narrow, either = (I8,), (I8, ElementType.I16) if k <= 128 else (I8,)
    elements = draw(st.permutations((narrow, either)))
    shapes = (k, m) if transpose_a else (m, k), (n, k) if transpose_b else (k, n)
    leading = batch, draw(st.sampled_from([batch, (), (1,) * len(batch)]))
    operands = [draw(activations((*b, *s), e)) for b, s, e in zip(leading, shapes, elements, strict=True)]
    op = MatMul(transpose_a, transpose_b, draw(st.sampled_from([1.0, 0.01])), None, draw(code_types()))
    types, arrays = zip(*operands, strict=True)
    return OpCase(op, types, arrays, draw(st.sampled_from([frozenset[int](), frozenset({1})])))


@settings(ANY, max_examples=40)
@given(large_matrices(), configurations())
def test_large_matrices_are_exact(case: OpCase, config: NpuConfig) -> None:
    assert not check_case(case, config)


@st.composite
def large_resizes(draw: st.DrawFn) -> OpCase:
    """To more and to fewer pixels, in even steps as networks have them."""
    x_type, x = draw(
        activations((draw(st.integers(1, 2)), *(draw(st.integers(1, n)) for n in (20, 20, 40))), (I8,))
    )
    places: list[tuple[float, ...]] = []
    for extent in x.shape[1:3]:
        size = draw(st.sampled_from([extent, 2 * extent, 4 * extent, draw(st.integers(1, 30))]))
        at = (np.arange(size) + 0.5) * extent / size - 0.5
        places.append(tuple(float(p) for p in np.clip(at, 0, extent - 1)))
    return OpCase(ResizeBilinear(*places), (x_type,), (x,))


@settings(ANY, max_examples=40)
@given(large_resizes(), configurations())
def test_large_resizes_are_exact(case: OpCase, config: NpuConfig) -> None:
    assert not check_case(case, config)


@st.composite
def long_reductions(draw: st.DrawFn) -> OpCase:
    """Of so many elements that they come part by part."""
    shape = draw(
        st.permutations((draw(st.integers(1, 900)), draw(st.integers(1, 70)), draw(st.integers(1, 3))))
    )
    x_type, x = draw(activations(tuple(shape)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, 2), min_size=1))))
    op = draw(st.sampled_from([ReduceMax(axes), Mean(axes, 1.0, None, draw(code_types()))]))
    return OpCase(op, (x_type,), (x,))


@settings(ANY, max_examples=40)
@given(long_reductions(), configurations())
def test_long_reductions_are_exact(case: OpCase, config: NpuConfig) -> None:
    left = check_case(case, config)
    assert config.name == "drawn" or not left
