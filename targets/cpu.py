"""CPUs: the machine at hand, and its instruction sets by name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.lowering.machine import CpuMachine, DotProduct
from schedules.machines import APPLE_M1, COMPUTERS, family_here, host_machine, runs_here

if TYPE_CHECKING:
    from compiler.driver import Progress
    from compiler.ir.graph import Graph
    from compiler.loops.form import Form
    from compiler.lowering.cache import Cache
    from compiler.lowering.kernel import KernelPlan
    from compiler.lowering.program import Program

# What builds a library is imported when one is built: a name that is no target is refused at once.


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """A C library for one CPU machine and operating system."""

    name: str
    machine: CpuMachine
    triple: str | None = None  # as zig spells it; None: this computer's own

    @property
    def description(self) -> str:
        """`avx512vnni, 512-bit vectors, vpdpbusd`."""
        machine = self.machine
        parts = [machine.name, f"{machine.vector_bits}-bit vectors"]
        if machine.dot is not DotProduct.NONE:
            parts.append(machine.dot.value)
        return ", ".join([*parts, self.triple] if self.triple else parts)

    @property
    def runs_here(self) -> bool:
        return runs_here(self.machine)

    @property
    def digest(self) -> str:
        return f"{self.name} {self.machine!r} {self.triple}"

    def plan_kernel(self, form: Form) -> KernelPlan:
        from schedules.cpu import plan_kernel

        return plan_kernel(form, self.machine)

    def build(self, graph: Graph, progress: Progress) -> CpuBuild:
        from compiler.lowering.program import lower_program

        progress("lower")
        return CpuBuild(self, lower_program(graph, self.plan_kernel))

    def emit(
        self,
        program: Program,
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
    ) -> None:
        """The library of `program` in `out`, with more files beside it; facts go into the manifest."""
        from compiler.lowering.objects import build_objects
        from targets.library.describing import describe
        from targets.library.emit import emit_library
        from targets.library.toolchain import Toolchain

        toolchain = Toolchain.host() if self.triple is None else Toolchain(self.triple)
        folder = Path(tempfile.mkdtemp(prefix="bitloom-"))
        try:
            objects = build_objects(
                program.kernels(),
                folder,
                cache,
                lambda done, total: progress("build kernels", done, total),
            )
            progress("link")
            description = describe(program, name, self.machine)
            emit_library(description, objects, out, toolchain, facts, attachments)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class CpuBuild:
    """Planned kernels and memory of a graph."""

    target: CpuTarget
    program: Program

    @property
    def facts(self) -> dict[str, Any]:
        from compiler.report import layer_rows, program_summary

        return {
            "summary": program_summary(self.program),
            "layers": [row.as_dict() for row in layer_rows(self.program)],
        }

    def emit(
        self,
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
    ) -> None:
        self.target.emit(self.program, name, out, attachments, facts, cache, progress)


def targets() -> Iterator[CpuTarget]:
    """`host`, and each kind of computer by name."""
    yield CpuTarget("host", host_machine())
    for machine in COMPUTERS:
        yield CpuTarget(f"cpu/{machine.name}", machine, _triple(machine))


def _triple(machine: CpuMachine) -> str | None:
    """Where a machine of another architecture than this computer's is at home."""
    if machine in family_here():
        return None
    if machine.is_x86:
        return "x86_64-linux-gnu.2.17"
    return "aarch64-macos" if machine is APPLE_M1 else "aarch64-linux-gnu.2.17"
