"""Which configurations no other one beats in everything."""

from __future__ import annotations

from collections.abc import Sequence

from bitloom.exploration.evaluation import Result
from bitloom.exploration.space import WEIGHTS_KEY


def objectives(result: Result) -> tuple[float, float, float]:
    """Cycles, energy and area: less is better."""
    return result.cycles, result.energy_pj, result.area


def pareto_front(results: Sequence[Result]) -> list[bool]:
    """Of each result, whether no comparable one is at least as good in every objective and better in one.

    Comparable are results with the same weights, as narrower ones cost accuracy that is not measured here.
    What leaves more layers to the host than another is on no front: its time lacks theirs.
    """
    eligible = [_eligible(r, results) for r in results]
    candidates = [r for r, e in zip(results, eligible, strict=True) if e]
    return [e and not any(_beats(o, r) for o in candidates) for r, e in zip(results, eligible, strict=True)]


def _eligible(result: Result, results: Sequence[Result]) -> bool:
    fewest = min((r.host_layers for r in results if _same_weights(r, result) and not r.reason), default=0)
    return not result.reason and result.host_layers == fewest


def _beats(a: Result, b: Result) -> bool:
    pairs = list(zip(objectives(a), objectives(b), strict=True))
    return _same_weights(a, b) and all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def _same_weights(a: Result, b: Result) -> bool:
    return a.point.get(WEIGHTS_KEY) == b.point.get(WEIGHTS_KEY)
