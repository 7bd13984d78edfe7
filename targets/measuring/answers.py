"""What the measuring program prints, as measurements."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import numpy as np

from schedules.tuning.measure import Measurement, Outcome
from targets.measuring.program import Limits


class Answers:
    """Reads the lines of one run of the program.

    A line that is not of its language is `heard`: something else may have spoken, as an emulator does.
    """

    def __init__(self, limits: Limits) -> None:
        self.heard: list[str] = []
        self._limits = limits
        self._marks: dict[tuple[str, str], int] = {}

    def read(self, line: str) -> tuple[int, Measurement] | None:
        """The position of a candidate that this line ends, and what became of it."""
        words = line.split()
        if len(words) == 4 and words[0] == "mark":
            self._marks[words[1], words[2]] = int(words[3])
            return None
        if len(words) < 2 or not words[0].isdigit():
            self.heard.append(line.strip())
            return None
        index, kind, *rest = words
        measurement = self._measurement(index, kind, rest)
        if measurement is None:
            self.heard.append(line.strip())
            return None
        return int(index), measurement

    def _measurement(self, index: str, kind: str, rest: Sequence[str]) -> Measurement | None:
        match kind, *rest:
            case "measured", *times if times:
                return _timed([float(t) * 1e-9 for t in times])
            case ["measured"] if (index, "1") in self._marks:
                cost = self._marks[index, "1"] - self._marks[index, "0"]
                return Measurement(Outcome.MEASURED, float(cost), 0.0)
            case "crashed", number:
                return Measurement(Outcome.CRASHED, said=_signal_words(int(number)))
            case "failed", status:
                return Measurement(Outcome.CRASHED, said=f"it returned the status {status}")
            case ["hung"]:
                return Measurement(Outcome.HUNG, said=f"it did not end within {self._limits.seconds:g} s")
            case ["memory"]:
                most = self._limits.memory_bytes / (1 << 20)
                return Measurement(Outcome.OUT_OF_MEMORY, said=f"it needs more than {most:g} MiB")
            case "wrong", operand, different, size, first:
                where = f"{different} of {size} bytes of {operand} differ, the first at {first}"
                return Measurement(Outcome.WRONG, said=where)
            case "outside", operand:
                return Measurement(
                    Outcome.WRONG, said=f"it wrote beside {operand}, which is not its to write"
                )
            case _:
                return None


def _timed(seconds: Sequence[float]) -> Measurement:
    low, middle, high = (float(q) for q in np.percentile(seconds, (25, 50, 75)))
    return Measurement(Outcome.MEASURED, middle, (high - low) / 2)


def _signal_words(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGILL:
        return f"it was ended by {name}: the CPU lacks an instruction that the kernel uses"
    return f"it was ended by {name}"
