"""What kernels will take on a GPU, estimated from their code and the machine's numbers, never measured.

A core overlaps what its units do, so that the busiest counts: the arithmetic units, the load/store unit, or
the work-items that wait for loads where too few others are there to go on with. Registers decide how many
are. Caches are taken to hold what neighbours share and nothing else; DRAM, the L2 and other work of the
device are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from schedules.mali import GpuPlan
from schedules.mali_count import Access, Tally, tally
from schedules.mali_kernel import ClKernel
from schedules.mali_machines import GpuMachine

# From a load to its value where the L1 has it or the L2 does: the order of magnitude; no datasheet tells.
_LATENCY_CYCLES = 64


@dataclass(frozen=True, slots=True)
class KernelEstimate:
    """dots, loads, stores, operations: of all work-items; operations are of 32 bits on one lane. registers:
    of a work-item; occupancy: share of a core's work-items that fit at once with so many. cycles: of the
    busiest core."""

    kernel: str
    dots: int
    loads: int
    stores: int
    operations: int
    registers: int
    occupancy: float
    cycles: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimates(plan: GpuPlan) -> list[KernelEstimate]:
    """Of each launch of a plan. Errors: ValueError for code that schedules do not write."""
    return [_estimate(kernel, plan.machine) for kernel in plan.kernels]


def estimate_report(plans: Iterable[GpuPlan], machine: GpuMachine) -> dict[str, Any]:
    """For the manifest. plans: of each step that the GPU runs."""
    rows: dict[str, dict[str, Any]] = {}
    for plan in plans:
        for found in estimates(plan):
            row = {**found.as_dict(), "seconds": found.cycles / machine.clock_hz, "runs": 0}
            rows.setdefault(found.kernel, row)["runs"] += 1
    return {
        "gpu": machine.name,
        "cores": machine.cores,
        "clock_hz": machine.clock_hz,
        "seconds": sum(row["seconds"] * row["runs"] for row in rows.values()),
        "kernels": list(rows.values()),
    }


def occupancy(registers: int, machine: GpuMachine) -> float:
    """Share of a core's work-items that have room for so many registers; what is beyond those that a
    work-item can have lies in memory."""
    share, room = 1.0, machine.full_occupancy_registers
    while room < min(registers, machine.registers):
        share, room = share / 2, room * 2
    return share


def spilled(registers: int, group: int, machine: GpuMachine) -> int:
    """Registers of a work-item that lie in memory: beyond its own, and beyond its share where a whole
    work-group has to be there at once."""
    room = machine.threads * machine.full_occupancy_registers // max(1, group)
    return max(0, registers - min(machine.registers, room))


def _estimate(kernel: ClKernel, machine: GpuMachine) -> KernelEstimate:
    found = tally(kernel.source, machine.has_dot_product)
    items = prod(kernel.items)
    return KernelEstimate(
        kernel.name,
        found.dots * items,
        found.loads * items,
        found.stores * items,
        found.operations * items,
        found.registers,
        occupancy(found.registers, machine),
        _cycles(found, kernel, machine),
    )


def _cycles(found: Tally, kernel: ClKernel, machine: GpuMachine) -> float:
    group = prod(kernel.work_group)
    groups = -(-prod(kernel.global_size) // group // machine.cores)  # of the busiest core
    warps = groups * -(-group // machine.warp)
    items = warps * machine.warp
    lost = spilled(found.registers, group, machine)
    arithmetic = items * (found.operations + found.dots) / machine.lanes
    lines = _lines(found.accesses, kernel, machine)
    # Each is stored and loaded once where loads are waited for, words of neighbours side by side.
    lines += 2 * lost * found.rounds * _line_count(4, machine.warp, 4, machine)
    resident = min(items, machine.threads * occupancy(found.registers, machine))
    waiting = items / resident * found.rounds * _LATENCY_CYCLES
    return max(arithmetic, warps * lines, waiting)


def _lines(accesses: Iterable[Access], kernel: ClKernel, machine: GpuMachine) -> float:
    """That the load/store unit moves for the accesses of one warp."""
    along_x = min(machine.warp, kernel.work_group[0])
    along_y = min(machine.warp // along_x, kernel.work_group[1])
    total = 0.0
    for access in accesses:
        if access.steps is None:
            lines = _line_count(access.bytes, machine.warp, None, machine)
        else:
            x, y = access.steps
            lines = _line_count(access.bytes, along_x, x, machine)
            lines = _line_count(lines * machine.line_bytes, along_y, y, machine) if y else lines
        total += access.times * lines
    return total


def _line_count(size: float, neighbours: int, step: int | None, machine: GpuMachine) -> float:
    """Lines under `neighbours` pieces of so many bytes, each `step` bytes behind the one before; None: in
    lines of their own."""
    own = -(-size // machine.line_bytes)
    if step is None:
        return neighbours * own
    together = -(-(abs(step) * (neighbours - 1) + size) // machine.line_bytes)
    return min(neighbours * own, together)
