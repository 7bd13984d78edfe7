"""The kernels of a graph as subjects of the tuner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compiler.ir.graph import Graph
from compiler.loops.form import Form
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import kernel_calls
from compiler.lowering.storage import place_values
from schedules.mali_machines import GpuMachine
from schedules.tuning.mali_space import GpuSpace
from schedules.tuning.space import FormSpace, KernelSpace

if TYPE_CHECKING:
    from targets.tunable import NamedSubject


def kernel_subjects(graph: Graph, machine: CpuMachine) -> list[NamedSubject]:
    """Each distinct form of the graph's kernels, by the name of its default kernel."""
    return _subjects(graph, lambda form: KernelSpace(form, machine))


def gpu_subjects(graph: Graph, machine: GpuMachine) -> list[NamedSubject]:
    """The same of those that the GPU takes."""
    return _subjects(graph, lambda form: GpuSpace(form, machine))


def _subjects(graph: Graph, space_of: Callable[[Form], FormSpace[Any]]) -> list[NamedSubject]:
    counts = Counter(call.lowered.form for call in kernel_calls(graph, place_values(graph)))
    found: list[NamedSubject] = []
    for form, count in counts.items():
        space = space_of(form)
        try:
            found.append((space.default_plan.symbol, space, count))
        except ValueError:  # another machine runs it
            continue
    return found
