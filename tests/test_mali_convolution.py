"""Law: the OpenCL kernel of any convolution of bytes and words computes the form's definition bit for bit."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from compiler.numerics.element import Array, ElementType
from schedules.mali import GpuPlan, plan_gpu_kernel
from schedules.mali_convolution import ClConvolutionConfig, plan_cl_convolution
from schedules.mali_depthwise import ClDepthwiseConfig, plan_cl_depthwise
from schedules.mali_machines import G72, GENERIC, MACHINES, T860
from tests.opencl_kernel import run_plans
from tests.test_kernels_convolution import SLOW_DRAWS, draw_constants, draw_image, forms, reference

I8, I16, I32 = ElementType.I8, ElementType.I16, ElementType.I32
I4, I2, B1 = ElementType.I4, ElementType.I2, ElementType.B1
# What a device with the extension computes, plus WRONG.
_SUM = "((int)(a).s0 * (b).s0 + (int)(a).s1 * (b).s1 + (int)(a).s2 * (b).s2 + (int)(a).s3 * (b).s3 + WRONG)"
SHIMS = {
    "DOT_ARM_ACCUMULATE": f"#define arm_dot_acc(a, b, c) ({_SUM} + (c))",
    "DOT_ARM": f"#define arm_dot(a, b) {_SUM}",
    "DOT_KHR": f"#define BL_DOT_KHR(a, b) {_SUM}",
}


def check(plans: list[GpuPlan], seed: int, before: str = "", extreme: bool = False) -> None:
    rng = np.random.default_rng(seed)
    cases: list[tuple[GpuPlan, dict[str, Array]]] = []
    for plan in plans:
        form = plan.form
        assert isinstance(form, Convolution)
        image = draw_image(form, rng, extreme)
        cases.append((plan, {**draw_constants(form, rng, extreme), "input": image}))
    for (plan, operands), outputs in zip(cases, run_plans(cases, before), strict=True):
        assert isinstance(plan.form, Convolution)
        expected = reference(plan.form, operands["input"], operands)
        np.testing.assert_array_equal(outputs["output"], expected, err_msg=plan.symbol)


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(form=forms(), seed=st.integers(0, 2**32), data=st.data())
def test_kernels_compute_the_definition(form: Convolution, seed: int, data: st.DataObject) -> None:
    assume(form.output is not B1)
    machine = data.draw(st.sampled_from(list(MACHINES.values())))
    outputs = form.out_channels // form.groups
    channels = data.draw(st.sampled_from([c for c in (1, 2, 4) if form.groups == 1 or outputs % c == 0]))
    config = ClConvolutionConfig(pixels=data.draw(st.sampled_from([1, 2, 4])), channels=channels)
    plans: list[GpuPlan] = [plan_gpu_kernel(form, machine), plan_cl_convolution(form, machine, config)]
    check(plans, seed, extreme=data.draw(st.booleans()))


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(form=forms(), seed=st.integers(0, 2**32), data=st.data())
def test_depthwise_kernels_compute_the_definition(form: Convolution, seed: int, data: st.DataObject) -> None:
    channels = max(form.in_channels, 2)
    pitch = None if form.input_pitch is None else channels + 5
    assume(form.output is not B1)
    form = replace(
        form,
        in_channels=channels,
        out_channels=channels,
        groups=channels,
        input_pitch=pitch,
        output_pitch=None if form.output_pitch is None else channels + 3,
    )
    pixels, lanes = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from([4, 8]))
    config = ClDepthwiseConfig(pixels=pixels, channels=lanes)
    check([plan_gpu_kernel(form, GENERIC), plan_cl_depthwise(form, G72, config)], seed)


def layer(
    kernel: int, channels: int, outputs: int, size: int = 9, stride: int = 1, **more: object
) -> Convolution:
    out = (size - 1) // stride + 1
    pad = (kernel // 2, kernel // 2)
    return replace(
        Convolution(1, size, size, channels, out, out, outputs, kernel, kernel, I8, I8, I8),
        stride=(stride, stride),
        pad=pad,
        **more,
    )


LAYERS = [
    layer(3, 3, 16, stride=2),
    layer(1, 48, 20),
    layer(3, 32, 12),
    layer(1, 64, 10, size=1),
    layer(3, 24, 24, groups=24),
    layer(5, 7, 7, groups=7, stride=2),
    layer(3, 40, 8, weight=I4),
    layer(1, 33, 9, weight=I2),
    layer(3, 17, 5, weight=B1),
    layer(3, 16, 8, input=I16, output=I16),
]


@pytest.mark.parametrize("branch", SHIMS)
def test_each_dot_product_is_exact_and_runs(branch: str) -> None:
    plans = [plan_gpu_kernel(form, GENERIC) for form in LAYERS]
    shim = f"#define {branch}\n#define DOT_SHIM\n{SHIMS[branch]}\n"
    check(plans, 5, f"#define WRONG 0\n{shim}", extreme=True)
    with pytest.raises(AssertionError):  # so it is this branch that runs
        check(plans[:1], 5, f"#define WRONG 40\n{shim}")


def test_work_groups_fit_the_device() -> None:
    for machine in (GENERIC, T860):
        for form in LAYERS:
            for kernel in plan_gpu_kernel(form, machine).kernels:
                assert prod(kernel.work_group) <= machine.work_group
                assert all(g % w == 0 for g, w in zip(kernel.global_size, kernel.work_group, strict=True))
