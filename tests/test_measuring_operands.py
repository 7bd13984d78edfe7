"""Examples of forms are what kernels compute: every template, every operator's loop form, byte for byte."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.loops.form import Convolution
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from schedules.cpu import plan_kernel
from schedules.machines import MACHINES, runs_here
from targets.measuring.operands import Example, StoredOperands, constants_of, example_of, store
from tests import loop_families as f
from tests.built_kernel import load
from tests.random_graphs import quantized_graphs

I8, I16, I32, I4, B1 = (ElementType(name) for name in ("i8", "i16", "i32", "i4", "b1"))
HOSTS = [machine for machine in MACHINES if runs_here(machine)]
needs_host = pytest.mark.skipif(not HOSTS, reason="no kernels of this computer")


def call(plan: KernelPlan, stored: StoredOperands) -> dict[str, Array]:
    """Memory of the outputs after the kernel ran on this computer."""
    memory = {name: aligned(contents) for name, contents in stored.before.items()}
    function = load([plan])[plan.symbol]
    pointers = [ctypes.c_void_p(memory[name].ctypes.data) for name in plan.operands]
    assert function(*pointers, ctypes.c_int32(0), ctypes.c_int32(plan.tiles)) == 0
    return {name: memory[name] for name in stored.after}


def aligned(contents: Array) -> Array:
    """A copy that starts at a multiple of 64, with 64 more bytes to read on both sides."""
    raw = np.zeros(contents.size + 192, np.uint8)
    start = 64 + -raw.ctypes.data % 64
    raw[start : start + contents.size] = contents
    return raw[start : start + contents.size]


def check(plan: KernelPlan, example: Example) -> None:
    stored = store(plan, example)
    made = call(plan, stored)
    assert made
    for name, expected in stored.after.items():
        np.testing.assert_array_equal(made[name], expected, f"{plan.symbol}: {name}")
    assert any(not np.array_equal(stored.before[name], stored.after[name]) for name in stored.after)


CONVOLUTIONS = {
    "plain": Convolution(1, 9, 7, 16, 9, 7, 24, 3, 3, I8, I8, I8, pad=(1, 1)),
    "slices": Convolution(2, 6, 6, 8, 6, 6, 16, 1, 1, I8, I8, I8, input_pitch=24, output_pitch=40),
    "strided": Convolution(1, 9, 9, 12, 4, 4, 10, 3, 3, I8, I4, I8, stride=(2, 2)),
    "depthwise": Convolution(1, 8, 8, 32, 8, 8, 32, 3, 3, I8, I8, I8, pad=(1, 1), groups=32),
    "sums": Convolution(1, 1, 1, 64, 1, 1, 10, 1, 1, I8, I8, I32),
    "wide": Convolution(1, 5, 5, 16, 5, 5, 8, 1, 1, I16, I8, I16),
    "binary": Convolution(1, 6, 6, 64, 6, 6, 20, 3, 3, B1, B1, B1, pad=(1, 1)),
    "binary to codes": Convolution(1, 6, 6, 40, 6, 6, 16, 1, 1, B1, B1, I8),
}


@needs_host
@pytest.mark.parametrize("machine", HOSTS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_kernels_make_of_random_examples_what_is_expected(name: str, machine: CpuMachine) -> None:
    form = CONVOLUTIONS[name]
    example = example_of(form)
    check(plan_kernel(form, machine), example)
    codes = example.expected["output"]
    assert len(np.unique(codes)) > (1 if form.output is B1 else 5)  # not all of them at one end


@needs_host
@settings(
    max_examples=4, deadline=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large)
)
@given(quantized_graphs(), st.integers(0, 99))
def test_kernels_of_graphs_take_the_constants_of_their_nodes(graph: Graph, seed: int) -> None:
    for form, constants in constants_of(graph).items():
        check(plan_kernel(form, HOSTS[0]), example_of(form, constants, seed))


def test_examples_repeat() -> None:
    first, again = (example_of(CONVOLUTIONS["plain"], seed=3) for _ in range(2))
    other = example_of(CONVOLUTIONS["plain"], seed=4)
    assert first.inputs["input"].tolist() == again.inputs["input"].tolist()
    assert first.inputs["input"].tolist() != other.inputs["input"].tolist()


def test_constants_of_loop_forms_are_the_models() -> None:
    with pytest.raises(BitloomError, match=r"form requantize has constants \(parameters\)"):
        example_of(f.requantize((4, 8)))
    example = example_of(f.requantize((4, 8)), {"parameters": f.requantize_parameters()})
    assert example.expected["y"].shape == (4, 8)
    assert example_of(f.max_pool(8, 8, 4)).expected  # has none
