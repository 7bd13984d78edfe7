"""The interval whose quantization has the least squared error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from compiler.numerics.element import Array, ElementType
from compiler.quantize.observers.base import Histogram, Observer, Range


@dataclass(slots=True)
class MeanSquaredError(Observer):
    """Shrinks both ends together in `steps` equal steps, then the upper and the lower one alone, and keeps
    the best: clipping error of the values outside against rounding error of those inside, measured on a
    histogram."""

    name: ClassVar[str] = "mse"
    steps: int = 100
    histogram: Histogram = field(default_factory=Histogram, init=False)
    low: float = field(default=np.inf, init=False)
    high: float = field(default=-np.inf, init=False)

    def observe(self, values: Array) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.histogram.add(values)

    def range(self, element: ElementType) -> Range:
        if self.histogram.counts.sum() == 0:
            raise ValueError("no sample was observed")
        levels = element.high - element.low
        shares: list[float] = np.linspace(1.0, 1.0 / self.steps, self.steps).tolist()

        def best(candidates: Iterable[Range]) -> Range:
            return min(candidates, key=lambda r: self._error(r, levels))

        both = best(Range(self.low * share, self.high * share) for share in shares)
        above = best([both, *(Range(both.low, self.high * share) for share in shares)])
        return best([above, *(Range(self.low * share, above.high) for share in shares)])

    def _error(self, candidate: Range, levels: int) -> float:
        low, high = min(candidate.low, 0.0), max(candidate.high, 0.0)
        step = (high - low) / levels
        if step == 0:
            return float(self.histogram.counts @ self.histogram.centres**2)
        x = self.histogram.centres
        restored = np.round((np.clip(x, low, high) - low) / step) * step + low
        return float(self.histogram.counts @ (x - restored) ** 2)
