"""Random quantized graphs: the compiled library equals the interpreter, the text comes back, and every
operator lies within its rounding of what it means on real numbers."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bitloom.library_files import IR_SUFFIX
from bitloom.verification import verify
from compiler.driver import no_progress
from compiler.interpreter import run, run_node
from compiler.ir.graph import Graph, Node
from compiler.ir.literal import Constant
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.ir.verifier import verify as verify_graph
from compiler.lowering.cache import Cache
from compiler.lowering.program import lower_variants
from compiler.numerics.element import Array, ElementType
from compiler.ops import OPS
from targets import target_named
from tests.random_graphs import quantized_graphs, random_arrays
from tests.rounding import assert_rounded

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
# Kernels take seconds: nothing is shrunk, and no example is drawn again from another session's failures.
COMPILED = settings(ANY, phases=[Phase.generate], database=None)


@st.composite
def several_graphs(draw: st.DrawFn, count: int = 4) -> Graph:
    """Graphs side by side in one, so that they are built and linked at once."""
    graph = Graph("several")
    for index in range(count):
        draw(quantized_graphs(into=graph, prefix=f"g{index}_"))
    return graph


def check_compiled(graph: Graph, seed: int) -> None:
    """Layer by layer and in one run, on one thread and on two."""
    verify_graph(graph)
    host = target_named("host")
    samples = [random_arrays(graph, seed + i) for i in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        text = gzip.compress(graph_text(graph).encode())
        programs = lower_variants(graph, host.planners)
        host.emit(programs, "net", out, {f"net{IR_SUFFIX}": text}, {}, Cache(None), no_progress)
        for threads in (1, 2):
            verdict = verify(out, samples, threads=threads)
            assert verdict, f"{verdict.difference}\n{graph_text(graph, 16)}"


@settings(COMPILED, max_examples=4)
@given(several_graphs(), st.integers(0, 2**16))
def test_the_library_computes_what_the_interpreter_says(graph: Graph, seed: int) -> None:
    check_compiled(graph, seed)


@pytest.mark.slow
@settings(COMPILED, max_examples=300)
@given(several_graphs(8), st.integers(0, 2**16))
def test_many_libraries_compute_what_the_interpreter_says(graph: Graph, seed: int) -> None:
    check_compiled(graph, seed)


@settings(ANY, max_examples=150)
@given(quantized_graphs())
def test_a_graph_survives_its_text(graph: Graph) -> None:
    text = graph_text(graph)
    again = parse_graph(text, OPS)
    verify_graph(again)
    assert graph_text(again) == text
    inputs = random_arrays(graph, 0)
    expected, found = run(graph, inputs), run(again, inputs)
    assert list(expected) == list(found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def steps(graph: Graph, inputs: dict[str, Array]) -> Iterator[tuple[Node, list[Array], tuple[Array, ...]]]:
    """Every node that computes, its operands and its results."""
    arrays = {v.name: inputs[v.name] for v in graph.inputs}
    for node in graph.nodes:
        operands = [arrays[v.name] for v in node.inputs]
        results = run_node(node, operands)
        arrays |= {v.name: a for v, a in zip(node.outputs, results, strict=True)}
        if not isinstance(node.op, Constant):
            yield node, operands, results


@settings(ANY, max_examples=150)
@given(quantized_graphs(), st.integers(0, 2**16))
def test_every_code_lies_within_rounding_of_its_meaning(graph: Graph, seed: int) -> None:
    for node, operands, results in steps(graph, random_arrays(graph, seed)):
        if any(v.type.element is not ElementType.F32 for v in (*node.inputs, *node.outputs)):
            assert_rounded(node.op, [v.type for v in node.inputs], operands, results)
