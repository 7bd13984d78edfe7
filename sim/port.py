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
    if len(wanted) == 2:
        a, b = wanted
        if a <= b:
            a = min(a, 0.5)
            return [a, min(b, 1.0 - a)]
        b = min(b, 0.5)
        return [min(a, 1.0 - b), b]
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

    def join(self, key: int, port_cycles: float, most: float, now: int) -> list[tuple[int, int]]:
        """A transfer that needs port_cycles of the port's time and can take the part `most` of it, at most 1.

        Returns when each transfer would end if no other came or went, in whole cycles.
        """
        self._advance(now)
        self.keys.append(key)
        self.left.append(port_cycles)
        self.most.append(most)
        return self._divide(now)

    def leave(self, key: int, now: int) -> list[tuple[int, int]]:
        """Returns the same."""
        if len(self.keys) == 1:
            self.keys, self.left, self.most, self.shares = [], [], [], []
            return []
        self._advance(now)
        i = self.keys.index(key)
        del self.keys[i], self.left[i], self.most[i]
        return self._divide(now)

    def _advance(self, now: int) -> None:
        if self.keys:
            passed = now - self.at
            flows = zip(self.left, self.shares, strict=True)
            self.left = [max(0.0, left - share * passed) for left, share in flows]
        self.at = now

    def _divide(self, now: int) -> list[tuple[int, int]]:
        self.shares = fair_shares(self.most)
        flows = zip(self.keys, self.left, self.shares, strict=True)
        return [(key, ceil(now + left / share - _SLACK)) for key, left, share in flows]
