"""Which kernel the next trials go to: the one where they save the model most time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# Of a kernel that nothing is known of: the share of its time that trials may save.
_HOPE = 0.25


@dataclass(slots=True)
class Progress:
    """What trials have brought one kernel. count: how often the model runs it. costs: of the best so far,
    after each trial. default: of the default, infinite until it is measured. expected: the share of the best
    that the search predicts to save. spent: nothing more is to be found."""

    name: str
    count: int
    default: float = math.inf
    costs: list[float] = field(default_factory=list[float])
    expected: float = 1.0
    spent: bool = False

    @property
    def trials(self) -> int:
        return len(self.costs)

    @property
    def best(self) -> float:
        return self.costs[-1] if self.costs else math.inf

    @property
    def gain(self) -> float:
        """Share of the default's cost that the best saves."""
        return 0.0 if not math.isfinite(self.default) else max(0.0, 1.0 - self.best / self.default)

    @property
    def remaining(self) -> float:
        """Share of the best that is still expected to be saved: by the search's prediction and by what the
        last trials have brought, less with every trial that was made."""
        if self.spent:
            return 0.0
        hope = min(_HOPE, max(self.expected, 0.0)) / (1 + self.trials / 32)
        before = self.costs[-min(self.trials, 16)] if self.costs else math.inf
        slope = 1.0 - self.best / before if math.isfinite(before) else _HOPE
        return max(hope, slope / 2)

    def learn(self, cost: float) -> None:
        self.costs.append(min(self.best, cost))


def next_kernel(kernels: Sequence[Progress]) -> int | None:
    """Index of the kernel that a round of trials goes to; None where nothing is left to gain. Those that
    nothing was measured of come first: how much time they take is not known."""
    new = [i for i, k in enumerate(kernels) if not math.isfinite(k.best) and not k.spent]
    if new:
        return new[0]
    worth = [k.count * k.best * k.remaining if math.isfinite(k.best) else 0.0 for k in kernels]
    if not any(worth):
        return None
    return max(range(len(kernels)), key=lambda i: worth[i])


def saved(kernels: Sequence[Progress]) -> tuple[float, float]:
    """Of the sum of all kernels' times as often as the model runs them: the default's, and the best's."""
    timed = [k for k in kernels if math.isfinite(k.default) and math.isfinite(k.best)]
    return sum(k.count * k.default for k in timed), sum(k.count * min(k.best, k.default) for k in timed)


def expected_gain(kernels: Sequence[Progress]) -> float:
    """Share of the model's time in its best kernels that more trials are expected to save."""
    timed = [k for k in kernels if math.isfinite(k.best)]
    total = sum(k.count * k.best for k in timed)
    return sum(k.count * k.best * k.remaining for k in timed) / total if total else 1.0
