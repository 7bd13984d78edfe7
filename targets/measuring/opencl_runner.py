"""A process that builds, checks and times kernels on an OpenCL device:
`python -m targets.measuring.opencl_runner FOLDER NAME`. See `child`.

Drivers and their compilers may end it. Weights come from behind the first caches: launches take copies of
them by turns, as those of `runner`.
"""

from __future__ import annotations

import os
import sys
from ctypes import c_void_p
from itertools import cycle
from pathlib import Path
from typing import IO

import numpy as np

from compiler.lowering.program import SCRATCH
from compiler.numerics.element import Array
from schedules.mali import GpuPlan
from targets.measuring.child import own_answers, receive, send
from targets.measuring.examples import Examples
from targets.measuring.jobs import Identify, Prepare, RunOnDevice
from targets.measuring.opencl_api import ClError, NoDeviceError
from targets.measuring.opencl_session import BuildError, Program, Session
from targets.measuring.operands import GARBAGE, Example, activations_of, difference, store
from targets.measuring.timing import steady_seconds

# Memory that kernels may read beside an operand, and never write.
_GUARD = 256
# That launches read before they come back to a copy of the constants, as far as eight copies hold so much.
_APART_BYTES, _MOST_COPIES = 4 << 20, 8
_MOST_PROGRAMS = 8


class _Memory:
    """The operands of a plan in buffers of the device. arguments: of one launch each; they differ in their
    copy of the constants."""

    def __init__(self, session: Session, plan: GpuPlan, example: Example) -> None:
        self._session, self._machine = session, plan.machine
        self._buffers = {b.name: b for b in activations_of(example.form)}
        stored = store(plan, example)
        self._expected = {**stored.before, **stored.after}
        fixed = {n: a for n, a in stored.before.items() if n in self._buffers or n == SCRATCH}
        constants = {n: a for n, a in stored.before.items() if n not in fixed}
        size = sum(array.nbytes for array in constants.values())
        copies = max(1, min(_MOST_COPIES, _APART_BYTES // max(1, size)))
        self._sizes = {n: array.nbytes for n, array in fixed.items()}
        self._memory = {n: session.memory(_guarded(array)) for n, array in fixed.items()}
        kept = [{n: session.memory(_guarded(a)) for n, a in constants.items()} for _ in range(copies)]
        self._all = [*self._memory.values(), *(m for copy in kept for m in copy.values())]
        self.arguments: list[list[tuple[c_void_p, int]]] = []
        for copy in kept:
            memory = {**self._memory, **copy}
            self.arguments.append([(memory[name], _GUARD) for name in plan.operands])

    def difference(self) -> str | None:
        """How the activations differ from what the form says, or what was written beside them."""
        found = {n: self._session.read(m, self._sizes[n] + 2 * _GUARD) for n, m in self._memory.items()}
        for name, buffer in self._buffers.items():
            words = difference(buffer, self._machine, found[name][_GUARD:-_GUARD], self._expected[name])
            if words is not None:
                return words
        for name, memory in found.items():
            if (memory[:_GUARD] != GARBAGE).any() or (memory[-_GUARD:] != GARBAGE).any():
                return f"it wrote beside {name}"
        return None

    def close(self) -> None:
        self._session.release(self._all)


def _guarded(contents: Array) -> Array:
    guard = np.full(_GUARD, GARBAGE, np.uint8)
    return np.concatenate([guard, contents, guard])


def _timed(session: Session, program: Program, memory: _Memory) -> tuple[float, float]:
    """Seconds by the device's clock; see `steady_seconds`."""
    copies = cycle(memory.arguments)

    def batch_of(count: int) -> float:
        events: list[c_void_p] = []
        for _ in range(count):
            program.set_arguments(next(copies))
            events += program.launch()
        session.finish()
        return max(session.seconds(events) / count, 1e-9)

    return steady_seconds(batch_of)


class _Runner:
    """The device, or why there is none."""

    def __init__(self, folder: Path, wanted: str, answers: IO[bytes]) -> None:
        self._answers, self._examples = answers, Examples(folder)
        self._programs: dict[str, Program] = {}
        self._session, self._refusal = None, ""
        try:
            self._session = Session(wanted)
        except (NoDeviceError, ClError) as error:
            self._refusal = str(error)

    def answer(self) -> None:
        """The next message. Errors: EOFError where there is none."""
        match receive(sys.stdin.buffer):
            case Identify():
                name = None if self._session is None else self._session.device.fingerprint
                send(self._answers, (name, self._refusal))
            case Prepare() as wanted:
                send(self._answers, self._examples.prepare(wanted))
            case RunOnDevice(plan):
                assert self._session is not None
                self._run(self._session, plan)
            case other:
                raise TypeError(f"{type(other).__name__} is no message")

    def _run(self, session: Session, plan: GpuPlan) -> None:
        """Answers as `RunOnDevice` says."""
        try:
            program = self._program(session, plan)
        except BuildError as error:
            send(self._answers, str(error))
            return
        send(self._answers, None)
        try:
            memory = _Memory(session, plan, self._examples.of(plan.form))
            program.set_arguments(memory.arguments[0])
            program.launch()
            session.finish()
            wrong = memory.difference()
            send(self._answers, wrong)
            if wrong is None:
                send(self._answers, _timed(session, program, memory))
            memory.close()
        except ClError as error:
            send(self._answers, error)
            sys.exit(0)  # nobody knows what the device is like now

    def _program(self, session: Session, plan: GpuPlan) -> Program:
        """Kept while others take turns with it: some drivers compile at launch. Errors: BuildError."""
        if plan.symbol not in self._programs:
            while len(self._programs) >= _MOST_PROGRAMS:
                self._programs.pop(next(iter(self._programs))).close()
            self._programs[plan.symbol] = session.build(plan.kernels)
        return self._programs[plan.symbol]


def main() -> None:
    """Answers messages from standard input until that ends."""
    folder = Path(sys.argv[1])
    answers = own_answers()
    # What PoCL builds is of no use to anyone later.
    os.environ["POCL_CACHE_DIR"] = str(folder / "pocl")
    runner = _Runner(folder, sys.argv[2], answers)
    while True:
        try:
            runner.answer()
        except EOFError:
            return


if __name__ == "__main__":
    main()
