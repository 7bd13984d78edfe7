"""Law: the OpenCL kernel of a form of integers computes what `evaluate` says, and writes nothing else."""

from __future__ import annotations

import pytest

from compiler.loops.evaluate import evaluate
from compiler.numerics.element import ElementType
from schedules.mali_loops import ClLoopsConfig, plan_cl_loops
from schedules.mali_machines import G76, GENERIC, GpuMachine
from tests.loop_families import softmax
from tests.opencl_kernel import run_plans
from tests.test_lowering_loops import FAMILIES, assert_same, operands_of

INTEGER = {
    name: form
    for name, form in FAMILIES.items()
    if not any(b.element is ElementType.F32 for b in form.buffers)
}


@pytest.mark.parametrize(("machine", "vector_bytes"), [(GENERIC, 4), (G76, 64)], ids=["scalars", "vectors"])
def test_families_equal_their_forms(machine: GpuMachine, vector_bytes: int) -> None:
    check_families(machine, vector_bytes)


def check_families(machine: GpuMachine, vector_bytes: int) -> None:
    config = ClLoopsConfig(vector_bytes=vector_bytes)
    plans = [(plan_cl_loops(form, machine, config), operands_of(form)) for form in INTEGER.values()]
    for (plan, operands), outputs in zip(plans, run_plans(plans), strict=True):
        assert_same(outputs, evaluate(plan.form, operands))


def test_rows_that_a_work_item_cannot_keep_run_in_phases() -> None:
    """As do long rows where there are few of them; many short ones do not."""
    long, few, many = (
        plan_cl_loops(softmax(rows, classes), GENERIC) for rows, classes in [(80, 5000), (1, 1000), (80, 100)]
    )
    assert [len(plan.kernels) for plan in (long, few, many)] == [3, 3, 1]
    operands = operands_of(long.form)
    [outputs] = run_plans([(long, operands)])
    assert_same(outputs, evaluate(long.form, operands))
