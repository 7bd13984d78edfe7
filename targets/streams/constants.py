"""Contents of DRAM behind the tensors that lie there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from compiler.lowering.memory_plan import aligned
from compiler.numerics.element import Array
from schedules.npu_emit import Address


@dataclass(slots=True)
class Constants:
    """begin: the byte at which they begin; end: at which the next one would lie."""

    begin: int
    end: int
    _parts: list[Array] = field(default_factory=list[Array])
    _known: dict[bytes, int] = field(default_factory=dict[bytes, int])

    def add(self, data: Array) -> Address:
        """Where these bytes lie, which may be where the same ones lay already."""
        raw = data.tobytes()
        if raw not in self._known:
            self._known[raw] = self.end
            padded = np.zeros(aligned(len(raw)), np.uint8)
            padded[: len(raw)] = data
            self._parts.append(padded)
            self.end += padded.size
        return Address(True, self._known[raw])

    def copy(self) -> Constants:
        return Constants(self.begin, self.end, list(self._parts), dict(self._known))

    def contents(self) -> Array:
        """Of DRAM from byte 0; tensors are zeros."""
        return np.concatenate([np.zeros(self.begin, np.uint8), *self._parts])
