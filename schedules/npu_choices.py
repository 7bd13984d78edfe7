"""What may be given for a network on an NPU, where records know better than the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.npu_room import Staging
from schedules.npu_tiling import Tiling


@dataclass(frozen=True, slots=True)
class Manner:
    """How a layer that is no product is cut: a move, a pool, or a function of elements.

    grain: how large a tile may be, by what the layer takes for enough. alone: LOAD brings all operands, so
    that FETCH has time for constants of later layers.
    """

    grain: float = 1.0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """tilings: of products, by the numbers of their calls; manners: of other layers; what is not given is the
    compiler's own. stagings: how copies of constants are planned in programs, by the numbers of their first
    calls; others make none."""

    tilings: Mapping[int, Tiling] = field(default_factory=dict[int, Tiling])
    manners: Mapping[int, Manner] = field(default_factory=dict[int, Manner])
    stagings: Mapping[int, Staging] = field(default_factory=dict[int, Staging])

    def within(self, first: int) -> Choices:
        """The same, with calls counted from `first`; none before it."""
        tilings = {n - first: t for n, t in self.tilings.items() if n >= first}
        manners = {n - first: m for n, m in self.manners.items() if n >= first}
        stagings = {n - first: s for n, s in self.stagings.items() if n >= first}
        return Choices(tilings, manners, stagings)
