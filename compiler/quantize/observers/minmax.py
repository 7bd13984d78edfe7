"""Smallest and largest value ever seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from compiler.numerics.element import Array, ElementType
from compiler.quantize.observers.base import Observer, Range


@dataclass(slots=True)
class MinMax(Observer):
    """The whole range of the calibration data: nothing is clipped."""

    name: ClassVar[str] = "minmax"
    seen: Range | None = field(default=None, init=False)

    def observe(self, values: Array) -> None:
        found = Range(float(values.min()), float(values.max()))
        self.seen = found if self.seen is None else self.seen.union(found)

    def range(self, element: ElementType) -> Range:
        if self.seen is None:
            raise ValueError("no sample was observed")
        return self.seen
