"""Programs of random graphs, executed step by step in numpy over real bytes, equal the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.interpreter import run
from compiler.ir.graph import Graph
from compiler.ir.verifier import verify
from compiler.lowering.program import lower_program
from tests.program_executor import Executor, ReferencePlan
from tests.random_graphs import quantized_graphs, random_arrays

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))


def check(graph: Graph, seed: int) -> None:
    verify(graph)
    program = lower_program(graph, ReferencePlan)
    inputs = random_arrays(graph, seed)
    expected = run(graph, inputs)
    found = Executor(program, seed).run(inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@settings(ANY, max_examples=200)
@given(quantized_graphs(real_edges=False) | quantized_graphs(), st.integers(0, 99))
def test_a_program_computes_what_the_interpreter_says(graph: Graph, seed: int) -> None:
    check(graph, seed)


@pytest.mark.slow
@settings(ANY, max_examples=3_000)
@given(quantized_graphs(real_edges=False, most=12) | quantized_graphs(), st.integers(0, 99))
def test_many_programs_compute_what_the_interpreter_says(graph: Graph, seed: int) -> None:
    check(graph, seed)
