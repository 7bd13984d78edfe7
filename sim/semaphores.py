"""Which semaphore an engine's tokens for another one go through.

Each pair of engines of a core has one. Those that all cores share go to pairs of different cores as they are
needed; where cores have more pairs than there are, tokens go from core to core through STORE, along a path of
pairs that have one. Two cores need no path: only LOAD, FETCH and STORE touch what cores share, and one of two
that meet there is a STORE, so there are ten pairs.
"""

from __future__ import annotations

from sim.isa import LOCAL_TOKENS, TOKEN_NONE, Engine
from sim.threads import ENGINES

SHARED = TOKEN_NONE - LOCAL_TOKENS
_Pair = tuple[int, int]


class Semaphores:
    """Threads are numbered as in `sim.threads`. shared: numbers of pairs of different cores."""

    def __init__(self, cores: int) -> None:
        """Errors: ValueError where shared semaphores do not even join the cores."""
        if cores > SHARED:
            raise ValueError(f"{cores} cores: {SHARED} shared semaphores join no more than {SHARED} cores")
        self.shared: dict[_Pair, int] = {}
        self._paths: dict[_Pair, tuple[int, ...]] = {}
        for pair in _backbone(cores):
            self._number(pair)

    def _number(self, pair: _Pair) -> None:
        self.shared[pair] = LOCAL_TOKENS + len(self.shared)

    def between(self, before: int, after: int) -> int:
        """The semaphore of two neighbours on a path."""
        if before // ENGINES != after // ENGINES:
            return self.shared[before, after]
        a, b = before % ENGINES, after % ENGINES
        return a * (ENGINES - 1) + b - (b > a)

    def path(self, before: int, after: int) -> tuple[int, ...]:
        """Threads from one that posts to one that waits; each has a semaphore to the next."""
        pair = before, after
        if before // ENGINES == after // ENGINES or pair in self.shared:
            return pair
        if len(self.shared) < SHARED:
            self._number(pair)
            return pair
        if pair not in self._paths:  # no pair will get a semaphore any more
            self._paths[pair] = self._search(before, after)
        return self._paths[pair]

    def _search(self, before: int, after: int) -> tuple[int, ...]:
        """The shortest path, through STORE of cores."""
        found: dict[int, tuple[int, ...]] = {before: (before,)}
        nearest = [before]
        for thread in nearest:  # grows
            for other in (after, *self._stores(thread)):
                if other not in found and self._meet(thread, other):
                    found[other] = (*found[thread], other)
                    nearest.append(other)
        return found[after]

    def _stores(self, thread: int) -> list[int]:
        return [_store(thread // ENGINES), *(b for a, b in self.shared if a == thread and _is_store(b))]

    def _meet(self, before: int, after: int) -> bool:
        return before // ENGINES == after // ENGINES or (before, after) in self.shared


def _backbone(cores: int) -> list[_Pair]:
    """Pairs of STORE that join all cores: each core with its neighbours, in both directions where there are
    enough semaphores."""
    ahead = [(_store(core), _store((core + 1) % cores)) for core in range(cores)]
    both = [*ahead[:-1], *((b, a) for a, b in ahead[:-1])]
    return both if len(both) < SHARED else ahead


def _store(core: int) -> int:
    return core * ENGINES + Engine.STORE


def _is_store(thread: int) -> bool:
    return thread % ENGINES == Engine.STORE
