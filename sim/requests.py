"""Requests for bursts of one engine: how long a transfer takes behind those that the engine has made before.

Bursts of b cycles come L cycles after their requests, of which `outstanding` may be on their way: burst i can
be requested when its transfer has begun and burst i - outstanding has ended, whichever transfer that belongs
to. So bursts come in rounds of `outstanding`, a period of max(L + b, outstanding * b) after the other. Ends
are sums and maxima of what they depend on, so a transfer ends at the latest of all chains of rounds that
began with one of the transfers before it, carried on, and of its own.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf

from sim.config import NpuConfig

_CHAINS = 3  # that are carried on at most; more are hardly ever of any weight
_SLACK = 1e-6  # against rounding, in cycles
_Chain = tuple[float, int]  # when its current round began, if no burst were late; bursts of that round


class Requests:
    """Of one engine.

    port, bursts: of the last transfer; sent, asked: when it could send requests, and has sent all of them;
    began: when its first burst came; rounds: when its last one would, if the port were its own; carried: by
    the chains before it alone; expected: if its bursts are not late; alone: its end were the port its own.
    ended: end and bursts of the last transfers on each port, the latest first. chains: of each port, up to
    the last burst there, the latest first; late: how much longer the last round of the latest took than
    alone, stretched by others.
    """

    def __init__(self, config: NpuConfig, write: bool) -> None:
        self.sides: list[tuple[int, int, float, float]] = []
        for port in (config.sram, config.dram):
            latency, outstanding = port.side(write)
            burst = port.burst_cycles
            self.sides.append((latency, outstanding, burst, max(latency + burst, outstanding * burst)))
        self.port, self.bursts, self.began = -1, 0, 0
        self.rounds = self.alone = self.expected = 0.0
        self.chains: tuple[list[_Chain], ...] = ([], [])
        self.late = [0.0, 0.0]
        self.carried = inf
        self.sent, self.asked = 0.0, 0.0
        most = config.dma.outstanding_instructions
        self.ended: tuple[deque[tuple[int, int]], ...] = (deque(maxlen=most), deque(maxlen=most))

    def ready(self, port: int, began: float, now: int) -> int:
        """When the first burst can come of a transfer that could send requests from `began` on, those of all
        before it first."""
        self.sent = max(began, self.asked)
        return max(now, ceil(self.sent + self.sides[port][0]))

    def begin(self, port: int, bursts: int, cycles: float, decodes: bool, now: int) -> float:
        """The end of a transfer whose first burst can come now, alone on the port. cycles: without any before
        it; decodes: bursts come as fast as they can, wherever the core's side has come to."""
        _, outstanding, burst, period = self.sides[port]
        whole, rest = divmod(bursts - 1, outstanding)
        own = now + whole * period, rest + 1
        self.rounds = own[0] + own[1] * burst
        self.port, self.bursts, self.began = port, bursts, now
        self.carried = inf
        if period > outstanding * burst:
            self._carry_on(bursts, own)
        self.asked = max(self.sent, self._freed())
        self.alone = max(self.rounds, now + cycles)
        if cycles > own[0] + own[1] * burst - now + _SLACK and self.chains[port]:
            # The core's side is slower than the port: at the end, it has the last round to take in.
            rounds, used = self.chains[port][0]
            mine = min(used, bursts)
            self.alone = max(self.alone, rounds + (used - mine) * burst + cycles * mine / bursts)
        self.expected = self.alone if decodes else self.rounds
        return self.alone

    def _carry_on(self, bursts: int, own: _Chain) -> None:
        port = self.port
        chains, (_, outstanding, burst, period) = self.chains[port], self.sides[port]
        found = [(self.rounds, own)]
        if chains:
            late = self.late[port]
            if bursts < outstanding:
                late *= bursts / outstanding
            self.carried = -inf
            for rounds, used in chains:
                whole, rest = divmod(used + bursts - 1, outstanding)
                rounds += whole * period + late
                end = rounds + (rest + 1) * burst
                self.carried = max(self.carried, end)
                found.append((end, (rounds, rest + 1)))
                late = 0.0
            found.sort(reverse=True)
        self.rounds, latest = found[0]
        most, least = latest[1], self.rounds - (period - outstanding * burst)
        chains[:], self.late[port] = [latest], 0.0
        for end, chain in found[1:]:
            # The next round of this one begins sooner, and that may be later than what the latest does then.
            if end > least and chain[1] > most and len(chains) < _CHAINS:
                chains.append(chain)
                most = chain[1]

    def _freed(self) -> float:
        """When the request of the last burst can be sent: the burst `outstanding` before it has ended."""
        _, outstanding, burst, period = self.sides[self.port]
        if self.bursts > outstanding:
            return self.rounds - period
        between = outstanding - self.bursts
        for end, bursts in self.ended[self.port]:
            if end <= self.sent:
                break
            if between < bursts:
                return min(end - between * burst, self.carried - period)
            between -= bursts
        return 0.0

    def end(self, now: int) -> int:
        """How much later than alone the transfer ends, which ends now."""
        delay, chains = now - self.expected, self.chains[self.port]
        if delay >= 1 and chains:
            rounds, used = chains[0]
            late = delay / (self.rounds - self.began) * min(used, self.bursts) * self.sides[self.port][2]
            self.late[self.port] = late
            chains[0] = rounds + delay - late, used
        if delay >= 1 and self.bursts > self.sides[self.port][1]:
            self.asked += delay
        self.ended[self.port].appendleft((now, self.bursts))
        return max(0, now - ceil(self.alone))
