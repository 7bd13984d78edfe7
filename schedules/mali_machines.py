"""Mali GPUs as seen by schedules: public numbers, before which goes what a driver says at run time.

Sources, by field:

cores       TensorFlow Lite's gpu_info.cc (Midgard 1 to 16, Bifrost 1 to 32, G78 7 to 24, G710 7 to 16); Arm's
            announcement of the G76 (20); SoC Labs, "Mali-G52" (4)
lanes       Arm, libGPUInfo: multiply-adds of an engine by engines (T860 4 x 2, G72 4 x 3, G76 8 x 3, G52
            8 x 2 or 3, G78 16 x 2, G710 32 x 2)
threads     Arm, "Mali GPU Datasheet" of 2021 (T860 256, G72 384, G52 512 or 768, G76 768, G78 1024);
            G710 taken as twice the G78, as its lanes are
registers   Arm, "Mali Bifrost and Valhall OpenCL Developer Guide", 9.6 (64 for each thread)
occupancy   Mesa, src/panfrost (`panfrost_max_thread_count`): of T860 256 threads up to 4 vector registers of
            128 bits, 128 up to 8, then 64; of G72 384 always; of G52 and G76 768 up to 32 registers, then
            384; of G78 1024, then 512
work_group  what a core still keeps of a kernel that needs all registers, so that none is refused: see above.
            Drivers list the most of a small kernel: 256 on T860, 384 on G71 and G52 as here, 1024 on G610,
            which has the cores of G710
extensions  Arm's datasheets of G52, G76 and later; the Khronos registry, cl_arm_integer_dot_product. Drivers
            of some G52 do not list it
warp, line  Arm, "The Bifrost Shader Core" and "The Valhall Shader Core" (64 bytes in a cycle), "Mali Compute
            Architecture Fundamentals" (Midgard: 16 bytes)
clock       of a chip with that GPU. Looked up: G52 in S922X (Linux, meson-g12-common.dtsi), G72 in Kirin 970
            and G710 in Dimensity 9000 (nanoreview.net). Recalled: T860 in RK3399, G76 in Kirin 980, G78 in
            Kirin 9000
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_DOT_INT8 = "cl_arm_integer_dot_product_int8"
_DOT_ACCUMULATE = "cl_arm_integer_dot_product_accumulate_int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMachine:
    """One kind of GPU.

    cores: of the largest configuration. lanes: 32-bit multiply-adds that a core begins in a cycle.
    registers: 32 bits wide, for each work-item; full_occupancy_registers: with more, half as many fit.
    threads: work-items that a core keeps at once. work_group: the most work-items in a group of any kernel.
    warp: neighbours that run in lock-step. line_bytes: what the load/store unit of a core moves in a cycle.
    extensions: that matter here. What counts is the device's own list, at create.
    """

    name: str
    cores: int
    lanes: int
    registers: int
    full_occupancy_registers: int
    threads: int
    work_group: int
    warp: int
    line_bytes: int
    clock_hz: int
    extensions: tuple[str, ...]

    @property
    def has_dot_product(self) -> bool:
        return bool(self.extensions)

    @property
    def activation_offset(self) -> int:
        """8-bit codes are stored as they are: see `CpuMachine`."""
        return 0

    @property
    def work_items(self) -> int:
        """As many as keep all cores busy."""
        return self.cores * self.threads


def _bifrost(
    name: str, cores: int, lanes: int, threads: int, warp: int, clock_hz: int, *extensions: str
) -> GpuMachine:
    return GpuMachine(
        name=name,
        cores=cores,
        lanes=lanes,
        registers=64,
        full_occupancy_registers=32,
        threads=threads,
        work_group=384,
        warp=warp,
        line_bytes=64,
        clock_hz=clock_hz,
        extensions=extensions,
    )


def _valhall(name: str, cores: int, lanes: int, threads: int, work_group: int, clock_hz: int) -> GpuMachine:
    return GpuMachine(
        name=name,
        cores=cores,
        lanes=lanes,
        registers=64,
        full_occupancy_registers=32,
        threads=threads,
        work_group=work_group,
        warp=16,
        line_bytes=64,
        clock_hz=clock_hz,
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
    warp=1,
    line_bytes=16,
    clock_hz=500_000_000,
    extensions=(),
)
T860 = GpuMachine(
    name="t860",
    cores=16,
    lanes=8,
    registers=64,
    full_occupancy_registers=16,
    threads=256,
    work_group=64,
    warp=1,
    line_bytes=16,
    clock_hz=800_000_000,
    extensions=(),
)
G52 = _bifrost("g52", 4, 24, 768, 8, 800_000_000, _DOT_INT8, _DOT_ACCUMULATE)
G72 = replace(_bifrost("g72", 32, 12, 384, 4, 746_000_000), full_occupancy_registers=64)
G76 = _bifrost("g76", 20, 24, 768, 8, 720_000_000, _DOT_INT8, _DOT_ACCUMULATE)
G78 = _valhall("g78", 24, 32, 1024, 512, 759_000_000)
G710 = _valhall("g710", 16, 64, 2048, 512, 850_000_000)

MACHINES = {m.name: m for m in (GENERIC, T860, G52, G72, G76, G78, G710)}
