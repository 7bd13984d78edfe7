"""Law: kernels of loop forms on Arm compute what `evaluate` says, where the instructions are Arm's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.types import Shape
from compiler.loops.evaluate import evaluate
from compiler.loops.expression import clamp
from compiler.loops.form import LoopForm, Stage
from compiler.numerics.element import Array, ElementType
from schedules.arm_machines import CORTEX_A53, NEOVERSE_N1
from schedules.loops import LoopsPlan, plan_loops
from tests import loop_families as f
from tests.emulated_kernel import run_emulated
from tests.test_lowering_loops import (
    QUICK,
    Case,
    assert_same,
    cases,
    operands_of,
    rescale_form,
    rescale_operands,
)

pytestmark = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
I8, I32 = ElementType.I8, ElementType.I32
EVERY_CODE = np.arange(-128, 128, dtype=np.int8)


def up_to_29_bits(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """What `Rescale` promises."""
    return {name: np.clip(y, -(1 << 29), 1 << 29) for name, y in outputs.items()}


def test_rescale_is_exact_for_every_shift_and_extreme() -> None:
    operands = rescale_operands()
    form = rescale_form(operands["x"].size)
    plans = [plan_loops(form, machine) for machine in (CORTEX_A53, NEOVERSE_N1)]
    assert all(plan.lanes > 4 for plan in plans)  # in vectors, and more than one to a step
    wanted = up_to_29_bits(evaluate(form, operands))
    for made in run_emulated(plans, [operands] * len(plans)):
        assert_same(up_to_29_bits(made), wanted)


def computed_lookup(shape: Shape) -> LoopForm:
    """table[clamp(3 * x + 1)]"""
    x, y, t = f.given("x", shape), f.made("y", shape), f.constant("table", 256, element=I8)
    code = clamp(x.load(*y.axes()).cast(I32) * 3 + 1, -128, 127).cast(I8)
    return LoopForm("lookup", (x, t, y), (Stage("y", y.axes(), t.load(code.cast(I32) + 128)),))


def test_lookups_of_every_code_in_vectors_of_every_width() -> None:
    counts = (1, 3, 7, 8, 15, 16, 31, 32, 64, 100, 256, 1000)
    forms = [form((n,)) for n in counts for form in (f.table, computed_lookup)]
    table = np.random.default_rng(3).permutation(EVERY_CODE)
    plans = [plan_loops(form, NEOVERSE_N1) for form in forms]
    assert {8, 16, 32, 64} <= {plan.lanes for plan in plans}
    operands = [
        {"x": np.resize(np.roll(EVERY_CODE, k * 16), form.buffer("x").shape), "table": table}
        for k, form in enumerate(forms)
    ]
    for form, given_, made in zip(forms, operands, run_emulated(plans, operands), strict=True):
        assert_same(made, evaluate(form, given_))


@pytest.mark.slow
@settings(QUICK, max_examples=4)
@given(st.lists(cases(), min_size=12, max_size=12), st.integers(0, 2**31))
def test_drawn_forms_under_emulation(drawn: list[Case], seed: int) -> None:
    plans: dict[str, LoopsPlan] = {}
    for k, case in enumerate(drawn):
        plan = plan_loops(case.form, (NEOVERSE_N1, CORTEX_A53)[k % 2], case.config)
        plans[plan.symbol] = plan
    operands = [operands_of(plan.form, seed) for plan in plans.values()]
    for plan, given_, made in zip(
        plans.values(), operands, run_emulated(list(plans.values()), operands), strict=True
    ):
        assert_same(made, evaluate(plan.form, given_))
