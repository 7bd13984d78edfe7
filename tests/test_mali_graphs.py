"""Law: the library of any graph of integers fits its GPU, builds, and computes what the interpreter says.

Kernels are compiled as for every user: by PoCL, in a library's first create.
"""

from __future__ import annotations

import gzip
import tempfile
from math import prod
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bitloom.library_files import IR_SUFFIX, LoadError
from bitloom.verification import verify
from compiler.driver import no_progress
from compiler.ir.graph import Graph
from compiler.ir.printer import graph_text
from compiler.ir.verifier import verify as verify_graph
from compiler.lowering.cache import Cache
from schedules.mali import gpu_plan
from schedules.mali_machines import GENERIC, MACHINES, GpuMachine
from targets import target_named
from targets.mali import MaliBuild
from tests.random_graphs import base_shapes, quantized_graphs, random_arrays, wide_shapes

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
# Kernels take seconds: nothing is shrunk.
COMPILED = settings(ANY, phases=[Phase.generate], database=None)
SHAPES = base_shapes() | wide_shapes()
GPUS = st.sampled_from(list(MACHINES.values()))


@st.composite
def several_graphs(draw: st.DrawFn, count: int) -> Graph:
    """Graphs side by side in one, so that they are built, linked and compiled at once."""
    graph = Graph("several")
    for index in range(count):
        draw(quantized_graphs(real_edges=False, into=graph, prefix=f"g{index}_", shapes=SHAPES))
    return graph


def built(graph: Graph, machine: GpuMachine) -> MaliBuild:
    """For this computer's OpenCL, by the schedules of the machine; within its limits."""
    build = target_named(f"mali/{machine.name}@host").build(graph, no_progress)
    assert isinstance(build, MaliBuild)
    for plan in filter(None, map(gpu_plan, build.program.kernels().values())):
        assert plan.kernels
        for kernel in plan.kernels:
            assert 1 <= prod(kernel.work_group) <= machine.work_group, kernel.name
            for whole, group, items in zip(kernel.global_size, kernel.work_group, kernel.items, strict=True):
                assert whole % group == 0 and items <= whole < items + group, kernel.name
    return build


def check(graph: Graph, machine: GpuMachine, seed: int) -> None:
    verify_graph(graph)
    build = built(graph, machine)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITLOOM_OPENCL_CACHE", f"{folder}/compiled")
        out = Path(folder) / "out"
        text = gzip.compress(graph_text(graph).encode())
        build.emit("net", out, {f"net{IR_SUFFIX}": text}, build.facts, Cache(None), no_progress)
        try:
            verdict = verify(out, [random_arrays(graph, seed)], runner="opencl")
        except LoadError as error:
            if not any(
                words in str(error) for words in ("no OpenCL library", "no platform", "no OpenCL device")
            ):
                raise
            pytest.skip(str(error))
        assert verdict, f"{machine.name}: {verdict.difference}\n{graph_text(graph, 16)}"


@settings(COMPILED, max_examples=3, derandomize=True)
@given(several_graphs(4), GPUS, st.integers(0, 2**16))
def test_libraries_compute_what_the_interpreter_says(graph: Graph, machine: GpuMachine, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCL_EXTRA_BUILD_FLAGS", "-cl-opt-disable")  # half the time
        check(graph, machine, seed)


@pytest.mark.slow
@settings(COMPILED, max_examples=150)
@given(several_graphs(8), GPUS, st.integers(0, 2**16))
def test_many_libraries_compute_what_the_interpreter_says(
    graph: Graph, machine: GpuMachine, seed: int
) -> None:
    check(graph, machine, seed)


@settings(ANY, max_examples=60)
@given(quantized_graphs(real_edges=False, shapes=SHAPES), st.sampled_from([GENERIC, *MACHINES.values()]))
def test_kernels_fit_their_machine(graph: Graph, machine: GpuMachine) -> None:
    """The smallest group that drivers of embedded GPUs allow has 64 work-items."""
    built(graph, machine)
    assert GENERIC.work_group == 64
