"""Transfers that share one port: each gets what it can take, and all that cannot get enough get the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

# Against rounding of times that are sums of quotients, in cycles.
_SLACK = 1e-6


def fair_shares(wanted: list[float]) -> list[float]:
    """Max-min fair parts of 1 for transfers that could take up to `wanted` each."""
    shares = list(wanted)
    left, waiting = 1.0, sorted(range(len(wanted)), key=lambda i: wanted[i])
    while waiting:
        equal = left / len(waiting)
        first = waiting.pop(0)
        shares[first] = min(wanted[first], equal)
        left -= shares[first]
    return shares


@dataclass(slots=True)
class _Flow:
    """left: cycles of the port's time that are still needed; most: the part of the port that it can take;
    share: the part that it gets since `at`."""

    left: float
    most: float
    share: float
    at: float


@dataclass(slots=True)
class SharedPort:
    """The transfers of one port, by the number of whoever made them."""

    flows: dict[int, _Flow] = field(default_factory=dict[int, _Flow])

    def join(self, key: int, port_cycles: float, alone_cycles: float, now: float) -> None:
        """A transfer that needs port_cycles of the port's time and, alone, takes alone_cycles."""
        most = min(1.0, port_cycles / alone_cycles)
        self.flows[key] = _Flow(port_cycles, most, 0.0, now)
        self._share(now)

    def leave(self, key: int, now: float) -> None:
        del self.flows[key]
        self._share(now)

    def _share(self, now: float) -> None:
        flows = list(self.flows.values())
        for flow, share in zip(flows, fair_shares([f.most for f in flows]), strict=True):
            flow.left = max(0.0, flow.left - flow.share * (now - flow.at))
            flow.share, flow.at = share, now

    def ends(self, now: float) -> list[tuple[int, int]]:
        """When each transfer would end if no other came or went, in whole cycles."""
        return [(key, ceil(now + f.left / f.share - _SLACK)) for key, f in self.flows.items()]
