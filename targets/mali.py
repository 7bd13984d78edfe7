"""Mali GPUs: OpenCL inside of a C library for the Arm CPU beside them, or for this computer's.

mali/g76             for glibc
mali/g76@android
mali/generic@host    for any OpenCL device of this computer
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.machine import CpuMachine
from schedules.arm_machines import GENERIC_V8
from schedules.machines import X86_64, family_here
from schedules.mali_machines import MACHINES, GpuMachine

if TYPE_CHECKING:
    from compiler.driver import Progress, Target
    from compiler.ir.graph import Graph
    from compiler.loops.form import Form
    from compiler.lowering.cache import Cache
    from compiler.lowering.kernel import KernelPlan
    from compiler.lowering.program import Program
    from schedules.tuning.measure import Device
    from schedules.tuning.tuned import Tuned
    from targets.tunable import NamedSubject, Place

PREFIX = "mali/"
# None: this computer's own.
_TRIPLES = {"glibc": "aarch64-linux-gnu.2.28", "android": "aarch64-linux-android", "host": None}


@dataclass(frozen=True, slots=True)
class MaliTarget:
    """A C library that runs its layers on a GPU, and on the CPU what OpenCL cannot take.

    tuned: records of devices, by which kernels are planned; None: by rules alone.
    """

    name: str
    gpu: GpuMachine
    triple: str | None
    tuned: Tuned | None = None

    @property
    def cpu(self) -> CpuMachine:
        """What every CPU beside the GPU can run; its codes lie in memory as the GPU's do."""
        return X86_64 if self.triple is None and X86_64 in family_here() else GENERIC_V8

    @property
    def description(self) -> str:
        """`g76, up to 20 cores, int8 dot product, aarch64-linux-gnu.2.28`."""
        parts = [self.gpu.name, f"up to {self.gpu.cores} cores"]
        parts += ["int8 dot product"] if self.gpu.has_dot_product else []
        return ", ".join(parts + ([self.triple] if self.triple else ["OpenCL of this computer"]))

    @property
    def runs_here(self) -> bool:
        """As far as the CPU goes: whether there is an OpenCL device is known at create."""
        return self.triple is None

    @property
    def digest(self) -> str:
        records = "" if self.tuned is None else f" {self.tuned.digest}"
        return f"{self.name} {self.gpu!r} {self.cpu!r} {self.triple}{records}"

    def with_variants(self, others: Sequence[Target]) -> MaliTarget:
        """Errors: BitloomError for any: the driver compiles for its own device."""
        if others:
            raise BitloomError(f'target "{self.name}" has no variants', "leave out --variants")
        return self

    def plan(self, form: Form) -> KernelPlan:
        """For the GPU, or else for the CPU."""
        from schedules.cpu import plan_kernel
        from schedules.mali import plan_gpu_kernel

        tuned = self.tuned
        try:
            return plan_gpu_kernel(form, self.gpu) if tuned is None else tuned.plan(form, self.gpu)
        except ValueError:
            return plan_kernel(form, self.cpu) if tuned is None else tuned.plan(form, self.cpu)

    def with_records(self, folder: Path, warn: Callable[[str], None], *, packed: bool = False) -> MaliTarget:
        """This target, whose kernels are planned by the records of devices in a folder: by those of Mali GPUs
        before those of what stands in for one."""
        from schedules.tuning.records import databases

        if not any(databases(folder)):
            return self
        from schedules.tuning.tuned import Tuned

        machines, others = (self.gpu, self.cpu), lambda device: "Mali" not in device
        tuned = Tuned.of(folder, machines, None, warn, others, packed=packed)
        return replace(self, tuned=tuned if tuned.choices else None)

    def check_place(self, place: Place) -> None:
        """See `targets.tunable`, as for the next three."""
        from targets.measuring.opencl import check_place

        check_place(place, self.name)

    def subjects(self, graph: Graph) -> list[NamedSubject]:
        from targets.measuring.kernels import gpu_subjects

        return gpu_subjects(graph, self.gpu)

    def device(self, graph: Graph, place: Place) -> Device[Any]:
        from targets.measuring.opencl import OpenClDevice, device_name
        from targets.measuring.operands import constants_of

        return OpenClDevice(device_name(place), constants_of(graph))

    def runner(self, place: Place) -> str:
        from targets.tunable import NotTimedError

        if not self.runs_here:
            raise NotTimedError(
                f"libraries for {self.name} are for {self.triple}",
                f"{PREFIX}{self.gpu.name}@host has the same kernels, and runs here",
            )
        return place.runner or "opencl"

    def build(self, graph: Graph, progress: Progress) -> MaliBuild:
        from compiler.lowering.program import lower_program

        progress("lower")
        return MaliBuild(self, lower_program(graph, self.plan))


@dataclass(frozen=True, slots=True)
class MaliBuild:
    """Planned kernels and memory of a graph."""

    target: MaliTarget
    program: Program

    @property
    def facts(self) -> dict[str, Any]:
        """As every library's, and why which steps run on the CPU."""
        from compiler.report import layer_rows, program_summary
        from schedules.mali import gpu_plan
        from schedules.mali_cost import estimate_report
        from targets.tunable import tuning_facts

        plans = [gpu_plan(step.plan) for step in self.program.steps]
        on_cpu = [
            {
                "layer": str(step.node.location) or step.node.op.mnemonic,
                "reason": self._reason(step.plan.form),
            }
            for step in self.program.steps
            if gpu_plan(step.plan) is None
        ]
        return {
            "summary": program_summary([self.program]),
            "layers": [row.as_dict() for row in layer_rows(self.program)],
            "on_cpu": on_cpu,
            "estimate": estimate_report([p for p in plans if p is not None], self.target.gpu),
            "tuning": tuning_facts(self.target.tuned, list(self.program.kernels().values())),
        }

    def _reason(self, form: Form) -> str:
        from schedules.mali import plan_gpu_kernel

        try:
            plan_gpu_kernel(form, self.target.gpu)
        except ValueError as refusal:
            return str(refusal)
        raise AssertionError("the GPU takes what the CPU was given")

    def emit(
        self,
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
    ) -> None:
        """The library, whose kernels the device's driver compiles at the first create."""
        from compiler.lowering.objects import build_objects
        from schedules.mali import gpu_plan
        from targets.library.device_describing import describe_for_device
        from targets.library.emit import emit_library
        from targets.library.toolchain import Toolchain

        target = self.target
        toolchain = Toolchain.host() if target.triple is None else Toolchain(target.triple)
        told: Callable[[int, int], None] = lambda done, total: progress("build kernels", done, total)  # noqa: E731
        plans = {symbol: p for symbol, p in self.program.kernels().items() if gpu_plan(p) is None}
        folder = Path(tempfile.mkdtemp(prefix="bitloom-"))
        try:
            objects = build_objects(plans, folder, cache, told)
            progress("link")
            description = describe_for_device(name, target.gpu.name, self.program, target.cpu)
            emit_library(description, objects, out, toolchain, facts, attachments)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def targets() -> Iterator[MaliTarget]:
    """The named GPUs, for glibc."""
    for name, machine in MACHINES.items():
        yield MaliTarget(f"{PREFIX}{name}", machine, _TRIPLES["glibc"])


def target_from(name: str) -> MaliTarget | None:
    """A GPU with a system behind @; None for another name. Errors: BitloomError for an unknown one."""
    gpu, at, system = name.removeprefix(PREFIX).partition("@")
    if not name.startswith(PREFIX) or not at:
        return None
    if gpu not in MACHINES or system not in _TRIPLES:
        known = f"GPUs are {', '.join(MACHINES)}; systems are {', '.join(_TRIPLES)}"
        raise BitloomError(f'unknown target "{name}"', known)
    return MaliTarget(name, MACHINES[gpu], _TRIPLES[system])
