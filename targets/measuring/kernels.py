"""The kernels of a graph as subjects of the tuner."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from compiler.ir.graph import Graph
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import kernel_calls
from compiler.lowering.storage import place_values
from schedules.cpu import plan_kernel
from schedules.tuning.space import KernelSpace

if TYPE_CHECKING:
    from targets.tunable import NamedSubject


def kernel_subjects(graph: Graph, machine: CpuMachine) -> list[NamedSubject]:
    """Each distinct form of the graph's kernels, by the name of its default kernel."""
    counts = Counter(call.lowered.form for call in kernel_calls(graph, place_values(graph)))
    return [(plan_kernel(form, machine).symbol, KernelSpace(form, machine), n) for form, n in counts.items()]
