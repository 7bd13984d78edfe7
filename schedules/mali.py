"""The kernels for a form on a Mali GPU: which template takes it."""

from __future__ import annotations

from compiler.loops.form import Convolution, Form
from schedules.mali_channels import refusal
from schedules.mali_convolution import ClConvolutionPlan, plan_cl_convolution
from schedules.mali_depthwise import ClDepthwisePlan, plan_cl_depthwise
from schedules.mali_loops import ClLoopsPlan, plan_cl_loops
from schedules.mali_machines import GpuMachine

GpuPlan = ClConvolutionPlan | ClDepthwisePlan | ClLoopsPlan


def plan_gpu_kernel(form: Form, machine: GpuMachine) -> GpuPlan:
    """The plan with the default configuration.

    Errors: ValueError with the reason where the GPU does not take the form.
    """
    if not isinstance(form, Convolution):
        return plan_cl_loops(form, machine)
    reason = refusal(form)
    if reason is not None:
        raise ValueError(reason)
    if form.depthwise:
        return plan_cl_depthwise(form, machine)
    return plan_cl_convolution(form, machine)


def gpu_plan(plan: object) -> GpuPlan | None:
    """A plan that is for a GPU."""
    return plan if isinstance(plan, ClConvolutionPlan | ClDepthwisePlan | ClLoopsPlan) else None
