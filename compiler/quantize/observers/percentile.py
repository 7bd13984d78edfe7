"""The interval that holds a given share of all values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from compiler.numerics.element import Array, ElementType
from compiler.quantize.observers.base import Histogram, Observer, Range


@dataclass(slots=True)
class Percentile(Observer):
    """percentile: percentage of values kept, half of the rest clipped at each end. A bound at which
    values pile up (0 behind a ReLU) is kept exactly."""

    name: ClassVar[str] = "percentile"
    percentile: float = 99.99
    histogram: Histogram = field(default_factory=Histogram, init=False)
    low: float = field(default=np.inf, init=False)
    high: float = field(default=-np.inf, init=False)

    def observe(self, values: Array) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.histogram.add(values)

    def range(self, element: ElementType) -> Range:
        total = self.histogram.counts.sum()
        if total == 0:
            raise ValueError("no sample was observed")
        cumulative = np.concatenate([[0.0], np.cumsum(self.histogram.counts)]) / total
        tail = (1 - self.percentile / 100) / 2
        edges = self.histogram.edges
        low = edges[np.searchsorted(cumulative, tail, side="right") - 1]
        high = edges[np.searchsorted(cumulative, 1 - tail, side="left")]
        return Range(max(float(low), self.low), min(float(high), self.high))
