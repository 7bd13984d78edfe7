"""Law: the phases of a form, one after another, compute what the form does; no reduction in them is long."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.op import Op
from compiler.ir.types import Shape, quantized
from compiler.loops.evaluate import evaluate
from compiler.loops.expression import Axis
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.loops.phases import Phases, split_reductions
from compiler.numerics.element import Array, ElementType
from compiler.ops.reduction import Mean, ReduceMax
from compiler.ops.softmax import Softmax
from tests import loop_families as f
from tests.op_cases import ACTIVATIONS, OpCase, code_types, codes
from tests.test_lowering_loops import operands_of
from tests.test_ops_contract import operands, run_reference

I8, I32 = ElementType.I8, ElementType.I32


def run_phases(phases: Phases, given_: dict[str, Array]) -> dict[str, Array]:
    known = dict(given_)
    for form in phases.forms:
        read = [b.name for b in form.buffers if b.role in (Role.INPUT, Role.CONSTANT)]
        known |= evaluate(form, {name: known[name] for name in read})
    return known


def split(form: LoopForm, longest: int) -> Phases:
    """No stage reduces more than `longest` values, and none stores more than one for each of its indices."""
    phases = split_reductions(form)
    assert phases is not None
    for phase in phases.forms:
        assert all(prod(a.extent for a in s.over) <= longest for s in phase.stages)
        assert len({s.axes for s in phase.stages}) == 1
    return phases


@pytest.mark.parametrize("extent", [64, 65, 101, 1000, 1001, 4096])
def test_rows_of_every_length_are_split(extent: int) -> None:
    form = f.softmax(2, extent)
    phases = split(form, 2 * int(extent**0.5))
    given_ = operands_of(form)
    np.testing.assert_array_equal(run_phases(phases, given_)["y"], evaluate(form, given_)["y"])
    assert [b.name for b in phases.passed] == ["largest_parts", "total_parts"]


@st.composite
def long_reductions(draw: st.DrawFn) -> OpCase:
    shape: Shape = draw(st.sampled_from([(1, 70), (3, 200), (2, 2, 130), (500,), (1, 9, 40, 3), (2, 65, 2)]))
    to = draw(code_types())
    axes = tuple(range(len(shape) - 1)) if len(shape) > 2 and draw(st.booleans()) else (len(shape) - 1,)
    soft = Softmax().fixed_output(draw(st.sampled_from(ACTIVATIONS)))
    op: Op = draw(st.sampled_from([Softmax(soft), Mean(axes, to=to), ReduceMax(axes)]))
    x = quantized(shape, draw(code_types()))
    return OpCase(op, (x,), (draw(codes(x)),))


@settings(max_examples=100, deadline=None)
@given(long_reductions())
def test_operators_compute_their_references(case: OpCase) -> None:
    lowered = case.op.lower(*operands(case))
    form = lowered.form
    assert isinstance(form, LoopForm)
    if all(prod(a.extent for a in s.over) < 64 for s in form.stages):
        assert split_reductions(form) is None
        return
    found = run_phases(split(form, 63), {"input": case.arrays[0], **lowered.constants})["output"]
    np.testing.assert_array_equal(found, run_reference(case)[0])


def test_what_a_reduction_needs_of_another_for_each_value_is_left_alone() -> None:
    """y = sum over i of (x[i] * sum over j of x[j + i])."""
    x, y = f.given("x", (200,), I32), f.made("y", (1,), I32)
    total = Buffer("total", (100,), I32, Role.SCRATCH)
    i, j, one, k = Axis("i", 100), Axis("j", 100), Axis("one", 1), Axis("k", 100)
    zero = f.Constant(0)
    stages = (
        Stage("total", (i,), x.load(i + j), (j,), Reduction.SUM, zero),
        Stage("y", (one,), x.load(k) * total.load(k), (k,), Reduction.SUM, zero),
    )
    assert split_reductions(LoopForm("entangled", (x, y, total), stages)) is None


def test_short_and_float_reductions_are_left_alone() -> None:
    assert split_reductions(f.softmax(5, 63)) is None
    assert split_reductions(f.add((1, 5, 5, 100))) is None
