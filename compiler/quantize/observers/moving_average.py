"""Exponential moving average of each sample's minimum and maximum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from compiler.numerics.element import Array, ElementType
from compiler.quantize.observers.base import Observer, Range


@dataclass(slots=True)
class MovingAverage(Observer):
    """Damps single extreme samples. momentum: weight of the past, in [0, 1)."""

    name: ClassVar[str] = "moving-average"
    momentum: float = 0.9
    seen: Range | None = field(default=None, init=False)

    def observe(self, values: Array) -> None:
        found = Range(float(values.min()), float(values.max()))
        if self.seen is None:
            self.seen = found
            return
        keep, take = self.momentum, 1 - self.momentum
        self.seen = Range(keep * self.seen.low + take * found.low, keep * self.seen.high + take * found.high)

    def range(self, element: ElementType) -> Range:
        if self.seen is None:
            raise ValueError("no sample was observed")
        return self.seen
