"""Kernels for GPUs before they are built: their OpenCL C, launches and packed constants, without TVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

from compiler.loops.form import Form
from compiler.numerics.element import Array, ElementType
from schedules.mali_code import type_of
from schedules.mali_machines import GpuMachine
from schedules.mali_prelude import PRELUDE

Sizes = tuple[int, int, int]
# A configuration's work-group that `work_group` chooses.
BY_RULE: Sizes = (0, 0, 0)

SCRATCH = "scratch"  # the operand of `ClPlan.scratch_bytes`


@dataclass(frozen=True, slots=True, kw_only=True)
class ClConfig:
    """group_x, group_y, group_z: work-items of a group, as far as a kernel has so many; all 0: by rule."""

    group_x: int = 0
    group_y: int = 0
    group_z: int = 0

    @property
    def group(self) -> Sizes:
        return self.group_x, self.group_y, self.group_z


@dataclass(frozen=True, slots=True)
class ClParameter:
    """An operand: bytes from an offset in a memory object. restrict: no other operand overlaps it."""

    name: str
    element: ElementType
    constant: bool
    restrict: bool = True


@dataclass(frozen=True, slots=True)
class ClKernel:
    """One launch. items: work-items in each dimension; work_group: of which so many run together.

    source: the whole `__kernel` function. Its arguments are, for each operand of the plan, the memory object
    and a byte offset. A launch has whole groups: work-items beyond `items` do nothing.
    """

    name: str
    source: str
    items: Sizes
    work_group: Sizes

    @property
    def global_size(self) -> Sizes:
        x, y, z = (-(-n // g) * g for n, g in zip(self.items, self.work_group, strict=True))
        return (x, y, z)


class ClPlan(Protocol):
    """A form on a GPU: a `KernelPlan` in all but `build`, for `kernels` are its code."""

    @property
    def form(self) -> Form: ...

    @property
    def machine(self) -> GpuMachine: ...

    @property
    def symbol(self) -> str: ...

    @property
    def operands(self) -> tuple[str, ...]: ...

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the operand `SCRATCH`, where kernels leave what later ones read; 0: there is none."""
        ...

    @property
    def kernels(self) -> tuple[ClKernel, ...]: ...

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]: ...


def program_source(kernels: Iterable[ClKernel]) -> str:
    """OpenCL C of all kernels, each once."""
    return PRELUDE + "\n".join({kernel.name: kernel.source for kernel in kernels}.values())


def work_group(items: Sizes, most: int) -> Sizes:
    """Powers of two, the first dimension first: neighbours along it read neighbouring memory."""
    sizes: list[int] = []
    for count in items:
        size = 1
        while size * 2 <= most and size < count:
            size *= 2
        sizes.append(size)
        most //= size
    x, y, z = sizes
    return (x, y, z)


def covering(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << (count - 1).bit_length()


def check_group(group: Sizes, machine: GpuMachine) -> None:
    """Errors: ValueError for a work-group that the machine does not promise to run."""
    if group != BY_RULE and not all(g > 0 and g == covering(g) for g in group):
        raise ValueError(f"the extents of a work-group are powers of two, not {group}")
    if prod(group) > machine.work_group:
        raise ValueError(f"{machine.name} runs groups of {machine.work_group} work-items, not {prod(group)}")


def kernel(
    name: str,
    parameters: Iterable[ClParameter],
    body: str,
    items: Sizes,
    machine: GpuMachine,
    wanted: Sizes = BY_RULE,
) -> ClKernel:
    """A kernel whose body sees the operand a as the typed pointer p_a, and its place as item_x, item_y and
    item_z. wanted: its work-group, as far as there are work-items."""
    parameters = tuple(parameters)
    if wanted == BY_RULE:
        group = work_group(items, machine.work_group)
    else:
        x, y, z = (min(w, covering(n)) for w, n in zip(wanted, items, strict=True))
        group = (x, y, z)
    arguments = ", ".join(f"__global uchar *{p.name}_base, int {p.name}_at" for p in parameters)
    lines = [f"__attribute__((reqd_work_group_size({', '.join(map(str, group))})))"]
    lines.append(f"__kernel void {name}({arguments})\n{{")
    for p in parameters:
        pointer = f"__global {'const ' if p.constant else ''}{type_of(p.element)} *"
        restrict = "restrict " if p.restrict else ""
        lines.append(f"    {pointer}{restrict}p_{p.name} = ({pointer})({p.name}_base + {p.name}_at);")
    for dimension, (axis, count) in enumerate(zip("xyz", items, strict=True)):
        lines.append(f"    const int item_{axis} = get_global_id({dimension});")
        if count % group[dimension]:
            lines.append(f"    if (item_{axis} >= {count})\n        return;")
    return ClKernel(name, "\n".join(lines) + f"\n{body}}}\n", items, group)
