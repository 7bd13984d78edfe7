"""CPUs: the machine at hand, and its instruction sets by name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.machine import CpuMachine, DotProduct
from schedules.machines import APPLE_M1, COMPUTERS, family_here, host_machine, runs_here

if TYPE_CHECKING:
    from compiler.driver import Progress, Target
    from compiler.ir.graph import Graph
    from compiler.lowering.cache import Cache
    from compiler.lowering.program import PlanKernel, Program
    from schedules.tuning.measure import Device
    from schedules.tuning.tuned import Tuned
    from schedules.tuning.tuner import Subject
    from targets.tunable import Chosen, NamedSubject, Place

# What builds a library is imported when one is built: a name that is no target is refused at once.


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """A C library for a CPU machine and operating system.

    companions: targets of the same system whose kernels the library carries too. tuned: records of devices,
    by which kernels are planned; None: by the analytic model alone.
    """

    own_name: str
    machine: CpuMachine
    triple: str | None = None  # as zig spells it; None: this computer's own
    companions: tuple[CpuTarget, ...] = ()
    tuned: Tuned | None = None

    @property
    def name(self) -> str:
        return ",".join(target.own_name for target in (self, *self.companions))

    @property
    def variant(self) -> str:
        """What a library calls its kernels for `machine`: the target's name without family and C library."""
        plain = self.own_name.partition("@")[0]
        return plain.rpartition("/")[2] if "/" in plain or ":" in plain else self.machine.name

    @property
    def machines(self) -> Mapping[str, CpuMachine]:
        """Of each variant of a library."""
        return {target.variant: target.machine for target in (self, *self.companions)}

    @property
    def description(self) -> str:
        """`avx512vnni, 512-bit vectors, vpdpbusd`."""
        machines = "; ".join(map(_description, self.machines.values()))
        return f"{machines}, {self.triple}" if self.triple else machines

    @property
    def runs_here(self) -> bool:
        return any(runs_here(machine) for machine in self.machines.values())

    @property
    def digest(self) -> str:
        records = "" if self.tuned is None else f" {self.tuned.digest}"
        return f"{self.name} {self.machines!r} {self.triple}{records}"

    @property
    def planners(self) -> Mapping[str, PlanKernel]:
        from schedules.cpu import plan_kernel

        plan = plan_kernel if self.tuned is None else self.tuned.plan
        return {name: partial(plan, machine=machine) for name, machine in self.machines.items()}

    def with_records(self, folder: Path, warn: Callable[[str], None], *, packed: bool = False) -> CpuTarget:
        """This target, whose kernels are planned by the records of devices in a folder."""
        from schedules.tuning.records import databases

        if not any(databases(folder)):
            return self  # what reads records knows all templates, and so TVM
        from schedules.tuning.tuned import Tuned
        from targets.measuring.host import host_fingerprint

        tuned = Tuned.of(folder, self.machines.values(), host_fingerprint(), warn, packed=packed)
        return replace(self, tuned=tuned if tuned.choices or tuned.threads else None)

    def check_place(self, place: Place) -> None:
        """See `targets.tunable`, as for the next four."""
        from targets.measuring.choosing import check_place

        check_place(place, self.machine, self.name)

    def subjects(self, graph: Graph) -> list[NamedSubject]:
        from targets.measuring.kernels import kernel_subjects

        return kernel_subjects(graph, self.machine)

    def device(self, graph: Graph, place: Place) -> Device[Any]:
        from targets.measuring.choosing import kernel_device

        return kernel_device(graph, place, self.machine, self.name)

    def runner(self, place: Place) -> str:
        from targets.measuring.choosing import runner_of

        return runner_of(place)

    def with_choices(
        self, subjects: Sequence[Subject[Any]], choices: Mapping[str, Mapping[str, Any]]
    ) -> Chosen:
        from schedules.tuning.space import KernelSpace
        from schedules.tuning.tuned import Tuned
        from targets.tunable import Chosen

        tuned = Tuned(choices)
        spaces = [subject for subject in subjects if isinstance(subject, KernelSpace)]
        symbols = {tuned.plan(space.form, space.machine).symbol: space.subject for space in spaces}
        return Chosen(replace(self, tuned=tuned), symbols)

    def with_variants(self, others: Sequence[Target]) -> CpuTarget:
        found: dict[str, CpuTarget] = {}
        for other in others:
            if not isinstance(other, CpuTarget) or other.triple != self.triple:
                raise BitloomError(
                    f'targets "{self.name}" and "{other.name}" cannot be variants of one library: '
                    f"{self.description} and {other.description}",
                    "variants are CPUs of one architecture, operating system and C library",
                )
            if other.variant != self.variant:
                found[other.variant] = other
        return replace(self, companions=tuple(found.values()))

    def build(self, graph: Graph, progress: Progress) -> CpuBuild:
        from compiler.lowering.program import lower_variants

        progress("lower")
        return CpuBuild(self, lower_variants(graph, self.planners), self._threads(graph))

    def _threads(self, graph: Graph) -> int:
        """With how many the graph was fastest; 0 where no record says."""
        if self.tuned is None or not self.tuned.threads:
            return 0
        from schedules.tuning.threads import subject_of

        return self.tuned.threads.get(subject_of(s.subject for _, s, _ in self.subjects(graph)), 0)

    def emit(
        self,
        programs: Mapping[str, Program],
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
        threads: int = 0,
    ) -> None:
        """The library of `programs` in `out`, with more files beside it; facts go into the manifest. threads:
        as `LibraryDescription` has it."""
        from compiler.lowering.objects import build_objects
        from targets.library.describing import describe
        from targets.library.emit import emit_library
        from targets.library.toolchain import Toolchain

        toolchain = Toolchain.host() if self.triple is None else Toolchain(self.triple)
        folder = Path(tempfile.mkdtemp(prefix="bitloom-"))
        try:
            objects = build_objects(
                {symbol: plan for p in programs.values() for symbol, plan in p.kernels().items()},
                folder,
                cache,
                lambda done, total: progress("build kernels", done, total),
            )
            progress("link")
            machines = self.machines
            variants = {v: (program, machines[v]) for v, program in programs.items()}
            description = describe(name, variants, threads)
            emit_library(description, objects, out, toolchain, facts, attachments)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class CpuBuild:
    """Planned kernels and memory of a graph, for each variant. threads: see `LibraryDescription`."""

    target: CpuTarget
    programs: Mapping[str, Program]
    threads: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Of programs that differ in their kernels alone."""
        from compiler.report import layer_rows, program_summary

        return {
            "summary": program_summary(self.programs.values()),
            "layers": [row.as_dict() for row in layer_rows(next(iter(self.programs.values())))],
            "tuning": self._tuning,
        }

    @property
    def _tuning(self) -> dict[str, Any]:
        from targets.tunable import tuning_facts

        plans = [plan for program in self.programs.values() for plan in program.kernels().values()]
        return tuning_facts(self.target.tuned, plans)

    def emit(
        self,
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
    ) -> None:
        self.target.emit(self.programs, name, out, attachments, facts, cache, progress, self.threads)


def _description(machine: CpuMachine) -> str:
    parts = [machine.name, f"{machine.vector_bits}-bit vectors"]
    if machine.dot is not DotProduct.NONE:
        parts.append(machine.dot.value)
    return ", ".join(parts)


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
