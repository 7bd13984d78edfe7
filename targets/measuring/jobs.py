"""What a runner is asked: messages, apart from the program that answers them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.loops.form import Form
from compiler.lowering.kernel import KernelPlan
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
