"""Plans of kernels that convolve bipolar codes with bipolar weights. Free of TVM until built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine
from schedules.binary_config import binary_candidates, check_binary_config, default_binary_config
from schedules.binary_geometry import binary_geometry
from schedules.binary_layout import BinaryLayout
from schedules.convolution_config import ConvolutionConfig


@dataclass(frozen=True)
class BinaryPlan(BinaryLayout):
    """A kernel for one form on one machine; see KernelPlan."""

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from schedules.binary_tir import binary_function

        return build_object({self.symbol: binary_function(self)}, dict(self.machine.target))


def plan_binary(
    form: Convolution, machine: CpuMachine, config: ConvolutionConfig | None = None
) -> BinaryPlan:
    """A plan with the given decisions, or with those of the analytic model.

    Errors: ValueError for forms that no kernel takes and for an illegal configuration.
    """
    g = binary_geometry(form)
    if config is None:
        config = default_binary_config(g, machine)
    check_binary_config(config, g, machine)
    return BinaryPlan(form, machine, config)


def binary_configs(form: Convolution, machine: CpuMachine) -> Iterator[ConvolutionConfig]:
    """Legal configurations, the most promising by the analytic model first."""
    return binary_candidates(binary_geometry(form), machine)
