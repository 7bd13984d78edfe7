"""An OpenCL device of this computer that measures candidates, and layers for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Convolution, LoopForm, Role
from compiler.numerics.element import Array, ElementType
from schedules.mali import GpuPlan, gpu_plan
from schedules.tuning.mali_space import GpuSpace
from schedules.tuning.space import Choice
from targets.measuring.opencl import OpenClDevice
from targets.measuring.operands import FormConstants
from tests.test_lowering_loops import FAMILIES, operands_of

I8, I4 = ElementType.I8, ElementType.I4
SOFTMAXES = {name: FAMILIES[name] for name in ("softmax", "large softmax")}
LAYERS = {
    "pointwise": Convolution(1, 6, 5, 24, 6, 5, 40, 1, 1, I8, I8, I8),
    "3x3": Convolution(1, 6, 5, 8, 6, 5, 16, 3, 3, I8, I8, I8, pad=(1, 1), input_pitch=24, output_pitch=48),
    "int4": Convolution(1, 6, 5, 16, 6, 5, 16, 1, 1, I8, I4, I8),
    "depthwise": Convolution(1, 8, 8, 24, 8, 8, 24, 3, 3, I8, I8, I8, pad=(1, 1), groups=24),
}


@contextmanager
def opencl_device(run_seconds: float = 20.0) -> Iterator[OpenClDevice]:
    """The test that asks for it is skipped where there is none."""
    given: FormConstants = {form: constants_for(form) for form in SOFTMAXES.values()}
    try:
        device = OpenClDevice("", given, build_seconds=60.0, run_seconds=run_seconds)
    except BitloomError as error:
        pytest.skip(error.message)
    try:
        yield device
    finally:
        device.close()


def constants_for(form: LoopForm) -> dict[str, Array]:
    names = {b.name for b in form.operands if b.role is Role.CONSTANT}
    return {name: array for name, array in operands_of(form).items() if name in names}


def planned(space: GpuSpace, choice: Choice) -> GpuPlan:
    plan = gpu_plan(space.plan(choice))
    assert plan is not None
    return plan
