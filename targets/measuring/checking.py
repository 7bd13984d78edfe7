"""Is a board fit for measuring: the way to it, its clock, its noise, and how fast kernels can be at most."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from schedules.tuning.measure import Outcome
from targets.library.emit import RUNTIME_INCLUDE
from targets.measuring.answers import Answers
from targets.measuring.links import Link, ProgramError
from targets.measuring.operands import StoredOperands
from targets.measuring.program import Built, Limits, Linker, Timing

_ROUNDS = 1 << 14  # of a probe, as bitloom_probe.c says
_ADDITIONS = 16  # in a round of the clock's
_LIMITS = Limits(seconds=10.0)
_TIMING = Timing(repeats=21, slice_seconds=0.005)
_REPEATS = 3
_ASKED = 5

# Probes by architecture: name, instruction, its products, and how many of it a round has.
_PROBES: Mapping[str, tuple[tuple[str, str, int, int], ...]] = {
    "aarch64": (
        ("smmla", "smmla", 32, 16),
        ("sdot", "sdot", 16, 16),
        ("smlal", "smull+smlal2+sadalp", 16, 16),
    ),
    "x86_64": (
        ("avx512vnni", "vpdpbusd of 512 bits", 64, 12),
        ("avxvnni", "vpdpbusd of 256 bits", 32, 12),
        ("pmaddwd", "vpmaddwd of 256 bits", 16, 12),
    ),
}


@dataclass(frozen=True, slots=True)
class _Probe:
    symbol: str
    operands: tuple[str, ...] = ("nothing",)
    tiles: int = 1


@dataclass(frozen=True, slots=True)
class BoardCheck:
    """round_trip_seconds: of a question without work, median. clock_hz: additions that wait for each other, a
    second. noise: the largest distance of equal measurements from their median, as a share of it.
    instruction: the one with the most products a second; None where no probe for the architecture is known.
    peak: multiply-accumulates a second of one core."""

    round_trip_seconds: float
    clock_hz: float
    noise: float
    instruction: str | None
    peak: float | None

    @property
    def peak_per_cycle(self) -> float | None:
        return None if self.peak is None else self.peak / self.clock_hz


def check_board(link: Link, triple: str, ask: Callable[[], object]) -> BoardCheck:
    """Measures a board. ask: a question to it without work, for the round trip.

    Errors: LinkLostError, RefusedError, ProgramError.
    """
    trips: list[float] = []
    for _ in range(_ASKED):
        start = time.perf_counter()
        ask()
        trips.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory(prefix="bitloom-check-") as folder:
        program, kinds = _program(triple, Path(folder))
    runs = [_run(link, program) for _ in range(_REPEATS)]
    clocks = [run[0] for run in runs if 0 in run]
    if len(clocks) < _REPEATS:
        raise ProgramError("the board does not run the probe of its clock")
    middle = median(clocks)
    rates: dict[str, float] = {}
    for index, (said, products) in enumerate(kinds):
        times = [run[index] for run in runs if index in run]
        if index > 0 and times:
            rates[said] = products / median(times)
    instruction = max(rates, key=lambda said: rates[said], default=None)
    return BoardCheck(
        round_trip_seconds=median(trips),
        clock_hz=_ROUNDS * _ADDITIONS / middle,
        noise=max(abs(clock - middle) for clock in clocks) / middle,
        instruction=instruction,
        peak=rates[instruction] if instruction else None,
    )


def _program(triple: str, folder: Path) -> tuple[bytes, list[tuple[str, float]]]:
    """The probes' program; names and products of a call, the clock's first."""
    linker = Linker(triple, folder)
    made = folder / "probe.o"
    linker.toolchain.compile(RUNTIME_INCLUDE / "bitloom_probe.c", made)
    probes = _PROBES.get(linker.architecture, ())
    symbols = ["bitloom_probe_clock", *(f"bitloom_probe_{name}" for name, *_ in probes)]
    kinds = [("clock", 0.0), *((said, float(_ROUNDS * many * each)) for _, said, each, many in probes)]
    empty = StoredOperands({"nothing": np.zeros(64, np.uint8)}, {})
    built = [Built(_Probe(symbol), made.read_bytes(), empty) for symbol in symbols]
    return linker.link(built, _LIMITS, _TIMING), kinds


def _run(link: Link, program: bytes) -> dict[int, float]:
    """Seconds of a call by position, of the probes that the CPU can run."""
    answers, found = Answers(_LIMITS), dict[int, float]()
    for line in link.run(program, _LIMITS.seconds):
        answer = answers.read(line)
        if answer is not None and answer[1].outcome is Outcome.MEASURED:
            found[answer[0]] = answer[1].cost
    return found
