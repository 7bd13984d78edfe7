"""This project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bitloom
from benchmarks.case import Case
from benchmarks.engines import Run


@dataclass(frozen=True, slots=True)
class Engine:
    """target: of the compiler. runner: as `bitloom.load` takes it."""

    target: str
    runner: str = "local"

    def prepare(self, case: Case, folder: Path) -> Path:
        out = folder / f"{case.name}-bitloom-{self.target.replace('/', '_')}"
        return bitloom.compile(
            case.model, target=self.target, calibration=list(case.calibration), output=out
        ).path

    def open(self, prepared: Path, case: Case, threads: int) -> Run:
        model = bitloom.load(prepared, threads, self.runner)
        return lambda: model(case.timed_input)
