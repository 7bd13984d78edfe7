"""A device that computes what a plan costs, and tuners of two kernels on it.

As an emulator counts instructions: nothing is built, and each measurement can be predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from compiler.loops.form import Convolution
from compiler.lowering.kernel import KernelPlan
from compiler.numerics.element import ElementType
from schedules.machines import machine_named
from schedules.tuning.measure import Measurement, Outcome, Unit
from schedules.tuning.refine import Place
from schedules.tuning.space import KernelSpace
from schedules.tuning.tuner import Budget, Tuner

FORMS = [
    Convolution(1, n, n, 64, n, n, 96, 1, 1, ElementType.I8, ElementType.I8, ElementType.I8) for n in (14, 28)
]
MACHINE = machine_named("avx512vnni")


def formula(plan: KernelPlan) -> float:
    c: Any = plan.config
    return 1e-5 * (1 + abs(c.columns - 5) + 2 * abs(c.vectors - 2) + 0.1 * c.unroll)


class Computing:
    """Costs by the formula. lost: how many of the first are. dies_after: Ctrl-C after so many trials."""

    def __init__(self, fingerprint: str = "here", lost: int = 0, dies_after: int | None = None) -> None:
        self._fingerprint, self.lost, self.dies_after = fingerprint, lost, dies_after
        self.measured: list[str] = []

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def unit(self) -> Unit:
        return Unit.SECONDS

    @property
    def parallel(self) -> int:
        return 4

    def measure(self, candidates: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
        for index, plan in enumerate(candidates):
            if self.lost:
                self.lost -= 1
                yield index, Measurement(Outcome.LOST, said="the board is gone")
                continue
            if self.dies_after is not None and len(self.measured) == self.dies_after:
                raise KeyboardInterrupt
            self.measured.append(plan.symbol)
            yield index, Measurement(Outcome.MEASURED, formula(plan), 1e-9)

    def close(self) -> None: ...


SPACES = [KernelSpace(form, MACHINE) for form in FORMS]


_SECONDS = 60.0


def tuner(
    folder: Path, device: Computing, trials: int | None, seed: int = 0, place: Place | None = None
) -> Tuner:
    """trials: None for a time, in which the clock ticks whenever it is looked at."""
    subjects: list[Any] = [(f"k{i}", space, i + 1) for i, space in enumerate(SPACES)]
    budget = Budget(seconds=_SECONDS) if trials is None else Budget(trials=trials)
    ticks = count()
    return Tuner(
        subjects, device, folder, seed=seed, budget=budget, place=place, clock=lambda: float(next(ticks))
    )
