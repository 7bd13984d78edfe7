"""Mali GPUs as seen by schedules: public numbers, before which goes what a driver says at run time.

Sources: Arm, "Mali GPU Datasheet" (cores, arithmetic lanes of a core); Arm, "Mali GPU OpenCL Developer Guide"
(registers and threads of Midgard, Bifrost and Valhall; sizes of work-groups); the Khronos registry,
cl_arm_integer_dot_product.
"""

from __future__ import annotations

from dataclasses import dataclass

_DOT_INT8 = "cl_arm_integer_dot_product_int8"
_DOT_ACCUMULATE = "cl_arm_integer_dot_product_accumulate_int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMachine:
    """One kind of GPU.

    cores: of the largest configuration. lanes: 32-bit multiply-adds that a core begins in a cycle.
    registers: 32 bits wide, for each work-item; full_occupancy_registers: with more, half as many fit.
    threads: work-items that a core keeps at once. work_group: the most work-items in a group.
    extensions: that matter here. What counts is the device's own list, at create.
    """

    name: str
    cores: int
    lanes: int
    registers: int
    full_occupancy_registers: int
    threads: int
    work_group: int
    extensions: tuple[str, ...]

    @property
    def has_dot_product(self) -> bool:
        return bool(self.extensions)

    @property
    def work_items(self) -> int:
        """As many as keep all cores busy."""
        return self.cores * self.threads


def _bifrost(name: str, cores: int, lanes: int, threads: int, *extensions: str) -> GpuMachine:
    return GpuMachine(
        name=name,
        cores=cores,
        lanes=lanes,
        registers=64,
        full_occupancy_registers=32,
        threads=threads,
        work_group=384,
        extensions=extensions,
    )


def _valhall(name: str, cores: int, lanes: int, threads: int, work_group: int) -> GpuMachine:
    return GpuMachine(
        name=name,
        cores=cores,
        lanes=lanes,
        registers=64,
        full_occupancy_registers=32,
        threads=threads,
        work_group=work_group,
        extensions=(_DOT_INT8, _DOT_ACCUMULATE),
    )


# Any OpenCL 1.2 device: the smallest work-group that drivers of embedded GPUs allow, no extension.
GENERIC = GpuMachine(
    name="generic",
    cores=4,
    lanes=8,
    registers=64,
    full_occupancy_registers=32,
    threads=256,
    work_group=64,
    extensions=(),
)
T860 = GpuMachine(
    name="t860",
    cores=16,
    lanes=8,
    registers=64,
    full_occupancy_registers=16,
    threads=256,
    work_group=256,
    extensions=(),
)
G52 = _bifrost("g52", 6, 24, 768, _DOT_INT8, _DOT_ACCUMULATE)
G72 = _bifrost("g72", 32, 12, 384)
G76 = _bifrost("g76", 20, 24, 768, _DOT_INT8, _DOT_ACCUMULATE)
G78 = _valhall("g78", 24, 32, 1024, 512)
G710 = _valhall("g710", 16, 64, 2048, 512)

MACHINES = {m.name: m for m in (GENERIC, T860, G52, G72, G76, G78, G710)}
