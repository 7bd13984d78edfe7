"""The protocol of observers, and the histogram that some of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.numerics.element import Array, ElementType


@dataclass(frozen=True, slots=True)
class Range:
    """A closed interval of real numbers."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def width(self) -> float:
        """Extent once widened to contain 0, as quantization does."""
        return max(self.high, 0.0) - min(self.low, 0.0)


class Observer(ABC):
    """Sees every array that one tensor takes, one sample after the other."""

    name: ClassVar[str]

    @abstractmethod
    def observe(self, values: Array) -> None:
        """Takes one sample's finite values."""

    @abstractmethod
    def range(self, element: ElementType) -> Range:
        """The interval to quantize with codes of `element`. Errors: ValueError before any sample."""


class Histogram:
    """Counts over bins of equal width that always cover all values; doubles its width when one falls
    outside, by adding neighbouring bins, so that one pass over the data is enough."""

    BINS = 4096

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.counts = np.zeros(self.BINS, np.float64)

    def add(self, values: Array) -> None:
        flat = np.asarray(values, np.float64).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if self.high == self.low:
            margin = max(abs(low), abs(high), 1e-30) * 1e-6
            self.low, self.high = low - margin, high + margin
        while low < self.low:
            self._double(downwards=True)
        while high > self.high:
            self._double(downwards=False)
        self.counts += np.histogram(flat, self.BINS, (self.low, self.high))[0]

    def _double(self, downwards: bool) -> None:
        width = self.high - self.low
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        empty = np.zeros_like(merged)
        if downwards:
            self.low, self.counts = self.low - width, np.concatenate([empty, merged])
        else:
            self.high, self.counts = self.high + width, np.concatenate([merged, empty])

    @property
    def edges(self) -> Array:
        return np.linspace(self.low, self.high, self.BINS + 1)

    @property
    def centres(self) -> Array:
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2
