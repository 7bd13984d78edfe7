"""Law: every operator that a GPU takes computes its reference there; others say why they do not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution, Role
from compiler.numerics.element import Array
from schedules.mali import GpuPlan, plan_gpu_kernel
from schedules.mali_machines import MACHINES
from tests.opencl_kernel import run_plans
from tests.test_ops_contract import CASES, draw, operands, run_reference

# Their own forms compute floats, or codes narrower than a byte.
ON_CPU = {"dequantize", "quantize", "sign"}
Prepared = tuple[GpuPlan, dict[str, Array], tuple[Array, ...]]


def prepared(data: st.DataObject, mnemonic: str) -> Prepared | None:
    """A case as a plan with its operands and the expected results; None where the CPU takes it."""
    case = draw(data, mnemonic)
    if case.op.is_view or case.is_float:
        return None
    padding = data.draw(st.sampled_from([None, 3]))
    lowered = case.op.lower(*operands(case, padding))
    try:
        plan = plan_gpu_kernel(lowered.form, data.draw(st.sampled_from(list(MACHINES.values()))))
    except ValueError as reason:
        assert any(word in str(reason) for word in ("floats", "narrower than a byte", "private memory"))
        return None
    given_ = [case.arrays[i] for i in lowered.inputs]
    form = lowered.form
    if isinstance(form, Convolution):
        shape = (form.batch, form.in_height, form.in_width, form.in_channels)
        named = {"input": given_[0].reshape(shape)}
    else:
        inputs = (b for b in form.buffers if b.role is Role.INPUT)
        named = {b.name: a for b, a in zip(inputs, given_, strict=True)}
    return plan, {**named, **lowered.constants}, run_reference(case)


def check(data: st.DataObject) -> None:
    """One case of each operator, all in one program."""
    found = {mnemonic: prepared(data, mnemonic) for mnemonic in sorted(CASES)}
    ready = {mnemonic: case for mnemonic, case in found.items() if case is not None}
    assert not ready.keys() & ON_CPU
    results = run_plans([(plan, named) for plan, named, _ in ready.values()])
    for (mnemonic, (_, _, expected)), outputs in zip(ready.items(), results, strict=True):
        for array, wanted in zip(outputs.values(), expected, strict=True):
            assert (array.reshape(wanted.shape) == wanted).all(), mnemonic


_DRAWN = settings(
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a smaller case takes another compilation
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@settings(_DRAWN, max_examples=3)
@given(data=st.data())
def test_operators_compute_their_references(data: st.DataObject) -> None:
    check(data)


@pytest.mark.slow
@settings(_DRAWN, max_examples=40)
@given(data=st.data())
def test_operators_compute_their_references_on_many_cases(data: st.DataObject) -> None:
    check(data)
