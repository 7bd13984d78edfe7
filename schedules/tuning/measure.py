"""What a device says of a candidate: one protocol for this computer, boards, emulators and the NPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

_Candidate_contra = TypeVar("_Candidate_contra", contravariant=True)


class Outcome(Enum):
    """How a measurement ended; the values are those of the records."""

    MEASURED = "measured"
    NOT_BUILT = "not built"
    CRASHED = "crashed"
    HUNG = "hung"  # no answer within the limit of time
    WRONG = "wrong"  # ran, and computed something else than the form says
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"  # the device went away: says nothing about the candidate, which may be tried again


class Unit(Enum):
    """What costs are counted in. Costs of different units are never compared."""

    SECONDS = "seconds"
    INSTRUCTIONS = "instructions"
    CYCLES = "cycles"

    @property
    def is_exact(self) -> bool:
        """Whether a candidate costs the same every time."""
        return self is not Unit.SECONDS

    def text(self, cost: float) -> str:
        """`12.3 µs`, or a number alone; `-` for an infinite cost."""
        if cost == float("inf"):
            return "-"
        return f"{cost:,.0f}" if self.is_exact else f"{cost * 1e6:.1f} µs"


@dataclass(frozen=True, slots=True)
class Measurement:
    """cost: median of the repetitions; spread: half the distance of their quartiles, in the same unit. Both
    are infinite unless the outcome is MEASURED. said: the device's or the compiler's own words where it is
    not. parts: of what is made of several, what each adds to the cost."""

    outcome: Outcome
    cost: float = float("inf")
    spread: float = float("inf")
    said: str = ""
    parts: tuple[float, ...] = ()


class Device(Protocol, Generic[_Candidate_contra]):
    """A place where candidates (kernel plans of a CPU, layers with a tiling of the NPU) are measured.

    Not for use by several threads.
    """

    @property
    def fingerprint(self) -> str:
        """Names all devices on which costs are the same: `cortex-a76`, a board's model and clock, an NPU's
        configuration. Records are kept by it."""
        ...

    @property
    def unit(self) -> Unit: ...

    @property
    def parallel(self) -> int:
        """Candidates that it measures at once: a caller gives it at least so many."""
        ...

    def measure(self, candidates: Sequence[_Candidate_contra]) -> Iterator[tuple[int, Measurement]]:
        """(index, measurement) of each candidate, as they finish; each is built, checked and then measured.

        A candidate's own faults are outcomes. Errors: BitloomError where no device is left at all; what was
        yielded before stays true.
        """
        ...

    def close(self) -> None:
        """Ends processes and connections. Allowed at any time, and more than once."""
        ...
