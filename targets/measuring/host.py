"""This computer as a device: candidates are built, checked and timed in processes of their own."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Form
from compiler.lowering.cache import Cache
from compiler.lowering.kernel import KernelPlan, cpu_of
from schedules.machines import family_here, host_model, runs_here
from schedules.tuning.measure import Measurement, Outcome, Unit
from targets.library.toolchain import Toolchain
from targets.measuring.child import Child, ChildError, close_all
from targets.measuring.jobs import Prepare, Run
from targets.measuring.operands import FormConstants

# Candidates that are linked and loaded together.
_BATCH = 16
# The reference runs in numpy, and a machine may be busy.
_PREPARE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """build_seconds: of one candidate, importing TVM aside. run_seconds: of checking, and of timing."""

    build_seconds: float = 60.0
    run_seconds: float = 20.0
    build_bytes: int = 4 << 30
    run_bytes: int = 2 << 30


# Importing TVM, on a busy machine.
_START_SECONDS = 60.0


class HostDevice:
    """`Device` of kernel plans. Builders and runner are started when they are first needed, and stay.

    constants: of forms, as the model has them; a convolution without gets random ones. threads: costs are
    those of the slowest of so many equal ranges of tiles, each run by itself. objects: what was built, until
    the device is closed.
    """

    def __init__(
        self,
        constants: FormConstants | None = None,
        *,
        threads: int = 1,
        workers: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._constants, self.threads = constants or {}, threads
        self._limits = limits or Limits()
        self._folder = Path(tempfile.mkdtemp(prefix="bitloom-tune-"))
        self.objects = Cache(self._folder / "objects")
        self._builders: list[Child | None] = [None] * (workers or os.cpu_count() or 1)
        self._runner: Child | None = None
        self._prepared: Form | None = None
        self._libraries = 0

    @property
    def fingerprint(self) -> str:
        return host_fingerprint(self.threads)

    @property
    def unit(self) -> Unit:
        return Unit.SECONDS

    @property
    def parallel(self) -> int:
        """Builders; candidates are timed one after the other, while nothing is built."""
        return len(self._builders)

    def measure(self, candidates: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
        """See `Device`. Errors: BitloomError for candidates of a machine that this computer is not."""
        for plan in candidates:
            if not runs_here(cpu_of(plan)):
                raise BitloomError(f"this computer cannot run kernels for {plan.machine.name}")
        for first, end in _batches([plan.symbol for plan in candidates]):
            for index, measurement in self._measured(candidates[first:end]):
                yield first + index, measurement

    def close(self) -> None:
        close_all([*self._builders, self._runner])
        self._builders, self._runner = [None] * len(self._builders), None
        self._prepared = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _measured(self, plans: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
        """Equal plans are built once, and measured as often as they stand there, in order."""
        self._folder.mkdir(exist_ok=True)  # after `close`
        distinct = {plan.symbol: plan for plan in plans}
        failed: dict[str, Measurement] = {}
        libraries: dict[str, Path] = {}
        try:
            failed.update(self._built(list(distinct.values())))
            built = [plan for symbol, plan in distinct.items() if symbol not in failed]
            for library, part in self._linked(built):
                for plan in part:
                    if isinstance(library, Measurement):
                        failed[plan.symbol] = library
                    else:
                        libraries[plan.symbol] = library
            for index, plan in enumerate(plans):
                failure = failed.get(plan.symbol)
                yield index, failure or self._run(plan, libraries[plan.symbol])
        finally:
            for plan in distinct.values():
                self._object(plan).unlink(missing_ok=True)

    def _object(self, plan: KernelPlan) -> Path:
        return self._folder / f"{plan.symbol}.o"

    def _built(self, plans: Sequence[KernelPlan]) -> dict[str, Measurement]:
        """Builds all; those that fail, by symbol."""
        waiting: queue.SimpleQueue[KernelPlan] = queue.SimpleQueue()
        for plan in plans:
            waiting.put(plan)
        failed: dict[str, Measurement] = {}

        def serve(place: int) -> None:
            with suppress(queue.Empty):
                while True:
                    plan = waiting.get_nowait()
                    failure = self._build(place, plan)
                    if failure is not None:
                        failed[plan.symbol] = failure

        threads = [threading.Thread(target=serve, args=(i,), daemon=True) for i in range(len(self._builders))]
        for thread in threads[: len(plans)]:
            thread.start()
        for thread in threads[: len(plans)]:
            thread.join()
        return failed

    def _build(self, place: int, plan: KernelPlan) -> Measurement | None:
        if (known := self.objects.get("kernels", plan.symbol)) is not None:
            self._object(plan).write_bytes(known)
            return None
        builder, seconds = self._builders[place], self._limits.build_seconds
        if builder is None or not builder.alive:
            module = "targets.measuring.builder"
            builder = Child(module, str(self._folder), memory_bytes=self._limits.build_bytes)
            self._builders[place] = builder
            seconds += _START_SECONDS
        try:
            words = builder.ask(plan, seconds)
        except ChildError as error:
            memory = error.outcome is Outcome.OUT_OF_MEMORY
            outcome = Outcome.OUT_OF_MEMORY if memory else Outcome.NOT_BUILT
            return Measurement(outcome, said=f"the compiler {error.said}")
        if words is not None:
            return Measurement(Outcome.NOT_BUILT, said=words)
        self.objects.put("kernels", plan.symbol, self._object(plan).read_bytes())
        return None

    def _linked(
        self, plans: Sequence[KernelPlan]
    ) -> Iterator[tuple[Path | Measurement, Sequence[KernelPlan]]]:
        """Libraries of all plans together; of each alone where that fails."""
        if not plans:
            return
        try:
            yield self._link(plans), plans
        except BitloomError as error:
            if len(plans) == 1:
                yield Measurement(Outcome.NOT_BUILT, said=error.message), plans
                return
            for plan in plans:
                yield from self._linked([plan])

    def _link(self, plans: Sequence[KernelPlan]) -> Path:
        """Errors: BitloomError with the linker's words."""
        self._libraries += 1
        path = self._folder / f"{self._libraries}.so"
        objects = [self._object(plan) for plan in plans]
        if sys.platform == "darwin":
            Toolchain.host().link_shared(objects, path, [plan.symbol for plan in plans])
            return path
        command = [sys.executable, "-m", "ziglang", "ld.lld", "-shared", "-o", str(path)]
        done = subprocess.run(
            [*command, *map(str, objects)], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            raise BitloomError(f"the linker says: {done.stderr.strip()}")
        return path

    def _run(self, plan: KernelPlan, library: Path) -> Measurement:
        try:
            runner = self._ready_runner(plan.form)
            if isinstance(runner, Measurement):
                return runner
            seconds = self._limits.run_seconds
            wrong = runner.ask(Run(plan, library), seconds)
            if wrong is not None:
                return Measurement(Outcome.WRONG, said=wrong)
            cost, spread = runner.answer(seconds * self.threads)
        except ChildError as error:
            return Measurement(error.outcome, said=error.said)
        return Measurement(Outcome.MEASURED, cost, spread)

    def _ready_runner(self, form: Form) -> Child | Measurement:
        """A runner that has operands for a form. Errors: ChildError where making them ends it."""
        if self._runner is None or not self._runner.alive:
            arguments = (str(self._folder), str(_processor()), str(self.threads))
            module = "targets.measuring.runner"
            self._runner = Child(module, *arguments, memory_bytes=self._limits.run_bytes)
            self._prepared = None
        if form != self._prepared:
            words = self._runner.ask(Prepare(form, self._constants.get(form)), _PREPARE_SECONDS)
            if words is not None:
                return Measurement(Outcome.NOT_BUILT, said=words)
            self._prepared = form
        return self._runner


def host_fingerprint(threads: int = 1) -> str:
    """Of this computer, with kernels timed by so many threads."""
    machine = next((m.name for m in family_here() if runs_here(m)), "")
    return f"{host_model()}, {machine}, {threads} thread{'s' if threads > 1 else ''}"


def _batches(symbols: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges that hold `_BATCH` different symbols at most."""
    first, seen = 0, set[str]()
    for index, symbol in enumerate(symbols):
        if symbol not in seen and len(seen) == _BATCH:
            yield first, index
            first, seen = index, set[str]()
        seen.add(symbol)
    if symbols:
        yield first, len(symbols)


def _processor() -> int:
    """The one that kernels run on: the last, since interrupts mostly go to the first."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
