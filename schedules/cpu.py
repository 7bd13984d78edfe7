"""The kernel for a form on a CPU: which template takes it."""

from __future__ import annotations

from functools import lru_cache

from compiler.loops.form import Convolution, Form
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.machine import CpuMachine
from schedules.amx import plan_amx
from schedules.amx_config import pays
from schedules.binary import plan_binary
from schedules.binary_geometry import is_binary
from schedules.convolution import plan_convolution
from schedules.depthwise import plan_depthwise
from schedules.loops import plan_loops
from schedules.sums import plan_sum, takes_sum
from schedules.winograd import plan_winograd, winograd_pays

# Plans that are kept: a model is planned for its report, for its kernels, and many times while it is tuned.
_KEPT = 2048


@lru_cache(_KEPT)
def plan_kernel(form: Form, machine: CpuMachine) -> KernelPlan:
    """The plan with the default configuration.

    Errors: ValueError with the reason where no template takes the form.
    """
    if not isinstance(form, Convolution):
        return plan_sum(form, machine) if takes_sum(form, machine) else plan_loops(form, machine)
    if is_binary(form):
        return plan_binary(form, machine)
    if form.depthwise:
        return plan_depthwise(form, machine)
    if pays(form, machine):
        return plan_amx(form, machine)
    return plan_winograd(form, machine) if winograd_pays(form, machine) else plan_convolution(form, machine)
