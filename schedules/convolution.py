"""Plans of convolution kernels: which configuration, and the object file. Free of TVM until built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine
from schedules.convolution_config import ConvolutionConfig, candidates, check_config, default_config
from schedules.convolution_geometry import geometry
from schedules.convolution_layout import ConvolutionLayout


@dataclass(frozen=True)
class ConvolutionPlan(ConvolutionLayout):
    """A kernel for one form on one machine; see KernelPlan."""

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from schedules.convolution_tir import convolution_function

        return build_object({self.symbol: convolution_function(self)}, dict(self.machine.target))


def plan_convolution(
    form: Convolution, machine: CpuMachine, config: ConvolutionConfig | None = None
) -> ConvolutionPlan:
    """A plan with the given decisions, or with those of the analytic model.

    Errors: ValueError for element types that no kernel takes and for an illegal configuration.
    """
    g = geometry(form, machine)
    if config is None:
        config = default_config(g, machine)
    check_config(config, g, machine)
    return ConvolutionPlan(form, machine, config)


def candidate_configs(form: Convolution, machine: CpuMachine) -> Iterator[ConvolutionConfig]:
    """Legal configurations, the most promising by the analytic model first."""
    return candidates(geometry(form, machine), machine)
