"""Laws of the NPU's layers: each operator by itself, whatever its shapes and types, on every preset and on
machines with little memory."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph
from compiler.numerics.element import Array
from sim.config import NpuConfig, load_config, preset_names
from targets.streams.model import HostCall
from tests.npu_networks import check_exact, configurations
from tests.op_cases import OpCase, all_cases

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
CASES = all_cases()
# What the NPU takes whatever the case.
ALWAYS = (
    *("transpose", "broadcast", "slice", "gather", "pad", "concat", "resize_nearest"),
    *("add", "sub", "mul", "minimum", "maximum", "clip", "prelu"),
    *("max_pool2d", "average_pool2d"),
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
