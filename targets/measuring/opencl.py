"""An OpenCL device of this computer: candidates are built, checked and timed in a process that may end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compiler.ir.diagnostics import BitloomError
from schedules.mali import GpuPlan
from schedules.tuning.measure import Measurement, Outcome, Unit
from targets.measuring.child import Child, ChildError
from targets.measuring.jobs import Identify, Prepare, RunOnDevice
from targets.measuring.opencl_api import ClError
from targets.measuring.operands import FormConstants
from targets.tunable import Place

_KIND = "opencl"
# Loading drivers; the reference runs in numpy, and a machine may be busy.
_START_SECONDS, _PREPARE_SECONDS = 60.0, 300.0
_HINT = "see docs/mali.md; `pip install 'bitloom[mali]'` brings PoCL, an OpenCL device on the CPU"


def device_name(place: Place) -> str:
    """Of `opencl:NAME`; empty for any. Errors: BitloomError for another runner."""
    kind, _, name = (place.runner or _KIND).partition(":")
    if kind != _KIND:
        raise BitloomError(
            f'kernels of GPUs are not measured by the runner "{place.runner}"',
            "--runner opencl, or opencl:NAME for the device or platform whose name holds NAME",
        )
    return name


def check_place(place: Place, target: str) -> None:
    """Errors: BitloomError for options that do not fit, and where there is no such device."""
    if not place.is_here or place.tracker is not None:
        raise BitloomError(
            f'target "{target}" is tuned on an OpenCL device of this computer',
            "--runner opencl[:NAME], without --board, --tracker and --key",
        )
    if place.threads != 1:
        raise BitloomError("--threads is for CPUs: a GPU runs its kernels whole", "leave it out")
    if place.pause_seconds:
        raise BitloomError("--pause is for boards", "leave it out")
    OpenClDevice(device_name(place)).close()


class OpenClDevice:
    """`Device` of GPU plans. name: what its own or its platform's name holds. constants: as `HostDevice`'s.

    build_seconds: of one candidate; run_seconds: of checking, for which drivers may compile once more, and of
    timing. Errors: BitloomError where there is no such device.
    """

    def __init__(
        self,
        name: str = "",
        constants: FormConstants | None = None,
        *,
        build_seconds: float = 120.0,
        run_seconds: float = 60.0,
        memory_bytes: int = 6 << 30,
    ) -> None:
        self._name, self._constants = name, constants or {}
        self._build_seconds, self._run_seconds = build_seconds, run_seconds
        self._memory_bytes = memory_bytes
        self._folder = Path(tempfile.mkdtemp(prefix="bitloom-tune-"))
        self._runner: Child | None = None
        self._prepared: Any = None
        try:
            self.fingerprint = self._identified()
        except BitloomError:
            self.close()
            raise

    @property
    def unit(self) -> Unit:
        return Unit.SECONDS

    @property
    def parallel(self) -> int:
        """Nothing is built while something is timed: PoCL's device is the CPU that builds."""
        return 1

    def measure(self, candidates: Sequence[GpuPlan]) -> Iterator[tuple[int, Measurement]]:
        """See `Device`."""
        for index, plan in enumerate(candidates):
            yield index, self._measured(plan)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._runner, self._prepared = None, None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _measured(self, plan: GpuPlan) -> Measurement:
        runner = self._ready()
        try:
            if plan.form != self._prepared:
                words = runner.ask(Prepare(plan.form, self._constants.get(plan.form)), _PREPARE_SECONDS)
                if words is not None:
                    return Measurement(Outcome.NOT_BUILT, said=words)
                self._prepared = plan.form
        except ChildError as error:
            return Measurement(error.outcome, said=f"while operands were made: {error.said}")
        try:
            words = runner.ask(RunOnDevice(plan), self._build_seconds)
        except ChildError as error:
            memory = error.outcome is Outcome.OUT_OF_MEMORY
            outcome = Outcome.OUT_OF_MEMORY if memory else Outcome.NOT_BUILT
            return Measurement(outcome, said=f"the driver's compiler: {error.said}")
        if words is not None:
            return Measurement(Outcome.NOT_BUILT, said=words)
        return self._run(runner)

    def _run(self, runner: Child) -> Measurement:
        try:
            wrong = runner.answer(self._run_seconds)
            timed = runner.answer(self._run_seconds) if wrong is None else wrong
        except ChildError as error:
            return Measurement(error.outcome, said=error.said)
        match timed:
            case ClError():
                runner.close()
                outcome = Outcome.OUT_OF_MEMORY if timed.out_of_memory else Outcome.NOT_BUILT
                return Measurement(outcome, said=str(timed))
            case str():
                return Measurement(Outcome.WRONG, said=timed)
            case _:
                cost, spread = timed
                return Measurement(Outcome.MEASURED, cost, spread)

    def _ready(self) -> Child:
        """A process that has the device. Errors: BitloomError where the device is gone."""
        if self._runner is None or not self._runner.alive:
            found = self._identified()
            if found != self.fingerprint:
                raise BitloomError(f"the device was {self.fingerprint}, and is now {found}")
        assert self._runner is not None
        return self._runner

    def _identified(self) -> str:
        """Starts the process. The device's fingerprint."""
        self._folder.mkdir(exist_ok=True)  # after `close`
        self._prepared = None
        module = "targets.measuring.opencl_runner"
        runner = self._runner = Child(module, str(self._folder), self._name, memory_bytes=self._memory_bytes)
        try:
            fingerprint, refusal = runner.ask(Identify(), _START_SECONDS)
        except ChildError as error:
            raise BitloomError(f"the OpenCL driver: {error.said}", _HINT) from error
        if fingerprint is None:
            raise BitloomError(refusal, _HINT)
        return fingerprint
