"""What a runner is asked: messages, apart from the program that answers them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.loops.form import Form
from compiler.lowering.kernel import KernelPlan
from schedules.mali import GpuPlan
from targets.measuring.operands import Constants


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the operands of a form ready. The answer: None, or why there are none."""

    form: Form
    constants: Constants | None


@dataclass(frozen=True, slots=True)
class Run:
    """Check and time a plan's kernel in a shared library. The answers: None or what is wrong; then cost and
    spread in seconds."""

    plan: KernelPlan
    library: Path


@dataclass(frozen=True, slots=True)
class Identify:
    """Which device it is. The answer: its fingerprint or None, and why there is none."""


@dataclass(frozen=True, slots=True)
class RunOnDevice:
    """Build, check and time a plan's kernels on a device. The answers: None or why they are not built; None
    or what is wrong; cost and spread in seconds. A `ClError` for one of the last two ends the process."""

    plan: GpuPlan
