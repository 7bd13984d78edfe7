"""Laws of the NPU's layers: each operator by itself, whatever its shapes and types, on every preset and on
machines with little memory."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph
from compiler.numerics.element import Array
from compiler.ops.reduction import Mean, ReduceMax
from sim.config import NpuConfig, load_config, preset_names
from targets.streams.model import HostCall
from tests.npu_networks import check_exact, configurations
from tests.op_cases import OpCase, activations, all_cases, code_types

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
CASES = all_cases()
# What the NPU takes whatever the case.
ALWAYS = (
    *("transpose", "broadcast", "slice", "gather", "pad", "concat", "resize_nearest"),
    *("add", "sub", "mul", "minimum", "maximum", "clip", "prelu"),
    *("max_pool2d", "average_pool2d", "mean", "reduce_max"),
)
# What it takes where the core's memories hold a tile and the tables.
WHERE_IT_FITS = ("unary", "softmax")


def graph_of(case: OpCase) -> tuple[Graph, dict[str, Array]]:
    """The operator alone, and its inputs."""
    graph, inputs = Graph("one"), dict[str, Array]()
    values = [
        graph.constant(a, t, Location(()), f"c{i}") if i in case.constants else graph.add_input(f"x{i}", t)
        for i, (t, a) in enumerate(zip(case.types, case.arrays, strict=True))
    ]
    for i, array in enumerate(case.arrays):
        if i not in case.constants:
            inputs[f"x{i}"] = array
    graph.outputs += graph.append(case.op, values, Location(("op",)), ["y"])
    return graph, inputs


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
