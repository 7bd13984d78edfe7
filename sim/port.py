"""Transfers that share one port: each gets what it can take, and all that cannot get enough get the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

# Against rounding of times that are sums of quotients, in cycles.
_SLACK = 1e-6


def fair_shares(wanted: list[float]) -> list[float]:
    """Max-min fair parts of 1 for transfers that could take up to `wanted` each, at most 1."""
    if len(wanted) == 1:
        return [wanted[0]]
    shares = list(wanted)
    left, waiting = 1.0, len(wanted)
    for i in sorted(range(len(wanted)), key=wanted.__getitem__):
        shares[i] = min(wanted[i], left / waiting)
        left -= shares[i]
        waiting -= 1
    return shares


@dataclass(slots=True)
class SharedPort:
    """The transfers of one port, by the number of whoever made them.

    left: cycles of the port's time that each still needed at time `at`; most: the part of the port that it
    can take; shares: the part that it gets since then.
    """

    keys: list[int] = field(default_factory=list[int])
    left: list[float] = field(default_factory=list[float])
    most: list[float] = field(default_factory=list[float])
    shares: list[float] = field(default_factory=list[float])
    at: int = 0

    def join(self, key: int, port_cycles: float, alone_cycles: float, now: int) -> None:
        """A transfer that needs port_cycles of the port's time and, alone, takes alone_cycles."""
        self._advance(now)
        self.keys.append(key)
        self.left.append(port_cycles)
        self.most.append(min(1.0, port_cycles / alone_cycles))
        self.shares = fair_shares(self.most)

    def leave(self, key: int, now: int) -> None:
        self._advance(now)
        i = self.keys.index(key)
        del self.keys[i], self.left[i], self.most[i]
        self.shares = fair_shares(self.most)

    def _advance(self, now: int) -> None:
        if self.keys:
            passed = now - self.at
            flows = zip(self.left, self.shares, strict=True)
            self.left = [max(0.0, left - share * passed) for left, share in flows]
        self.at = now

    def ends(self, now: int) -> list[tuple[int, int]]:
        """When each transfer would end if no other came or went, in whole cycles."""
        flows = zip(self.keys, self.left, self.shares, strict=True)
        return [(key, ceil(now + left / share - _SLACK)) for key, left, share in flows]
