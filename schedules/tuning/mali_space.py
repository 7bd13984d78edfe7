"""What can be chosen for a kernel of a GPU, and the space of a form on a machine of any family."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from compiler.loops.form import Form
from compiler.lowering.kernel import KernelPlan, Machine
from compiler.lowering.machine import CpuMachine
from schedules.mali import plan_gpu_kernel
from schedules.mali_machines import GpuMachine
from schedules.tuning.mali_templates import MALI_TEMPLATES
from schedules.tuning.space import FORM_FEATURES, FormSpace, KernelSpace
from schedules.tuning.templates import Template

_FIELDS = sorted({f.name for t in MALI_TEMPLATES for f in dataclasses.fields(t.config)})
_DERIVED = ("estimate", "operations", "accesses", "registers", "occupancy", "items", "ragged", "template")
MALI_FEATURES = (*FORM_FEATURES, *_FIELDS, *_DERIVED)


class GpuSpace(FormSpace[GpuMachine]):
    """On a GPU, whose kernels run whole: work-groups are as large as its machine promises to run."""

    @property
    def family(self) -> Sequence[Template[GpuMachine]]:
        return MALI_TEMPLATES

    @property
    def feature_names(self) -> Sequence[str]:
        return MALI_FEATURES

    def planned(self, form: Form) -> KernelPlan:
        return plan_gpu_kernel(form, self.machine)


def space_of(form: Form, machine: Machine) -> FormSpace[Any]:
    """Errors: TypeError for a machine whose kernels are not tuned."""
    match machine:
        case CpuMachine():
            return KernelSpace(form, machine)
        case GpuMachine():
            return GpuSpace(form, machine)
        case _:
            raise TypeError(f"no space for kernels of {machine.name}")
