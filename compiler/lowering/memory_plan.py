"""One arena for all intermediate tensors: offsets such that buffers alive at the same time never overlap.

This is dynamic storage allocation, NP-hard in general; first fit by a good order is near optimal for
networks. Several orders are tried, then orders are mended at random (with a fixed seed) while the result
lies above the lower bound, which is the largest sum of sizes alive at one step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of `size` bytes, alive from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.size < 0 or self.first > self.last:
            raise ValueError(f"impossible lifetime {self}")

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """offsets: of each buffer in the order given, in bytes, multiples of ALIGNMENT. lower_bound: no plan
    can be smaller (sizes rounded up to ALIGNMENT)."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound: int


def plan_memory(buffers: Sequence[Lifetime], attempts: int = 200, seed: int = 0) -> MemoryPlan:
    """Offsets for all buffers; deterministic. attempts: random orders tried above the lower bound."""
    sizes = [aligned(b.size) for b in buffers]
    bound = lower_bound(buffers)
    conflicts = [
        [j for j, other in enumerate(buffers) if j != i and b.meets(other)] for i, b in enumerate(buffers)
    ]
    best: tuple[int, tuple[int, ...]] | None = None
    for order in _orders(buffers, attempts, seed):
        offsets = _first_fit(order, sizes, conflicts)
        total = max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)
        if best is None or total < best[0]:
            best = (total, tuple(offsets))
        if best[0] <= bound:
            break
    assert best is not None
    return MemoryPlan(best[1], best[0], bound)


def lower_bound(buffers: Sequence[Lifetime]) -> int:
    """Largest sum of aligned sizes alive at one step."""
    changes: dict[int, int] = {}
    for b in buffers:
        changes[b.first] = changes.get(b.first, 0) + aligned(b.size)
        changes[b.last + 1] = changes.get(b.last + 1, 0) - aligned(b.size)
    largest = total = 0
    for step in sorted(changes):
        total += changes[step]
        largest = max(largest, total)
    return largest


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _orders(buffers: Sequence[Lifetime], attempts: int, seed: int) -> Iterator[list[int]]:
    indices = range(len(buffers))
    by_size = sorted(indices, key=lambda i: (-buffers[i].size, buffers[i].first))
    yield by_size
    yield sorted(indices, key=lambda i: (buffers[i].first, -buffers[i].size))
    yield sorted(indices, key=lambda i: -buffers[i].size * (buffers[i].last - buffers[i].first + 1))
    rng = random.Random(seed)
    for _ in range(attempts):
        # A random buffer first: large ones that do not fit well are usually served too late.
        noise = {i: buffers[i].size * rng.uniform(0.5, 1.5) for i in indices}
        yield sorted(indices, key=lambda i: -noise[i])


def _first_fit(order: Sequence[int], sizes: Sequence[int], conflicts: Sequence[Sequence[int]]) -> list[int]:
    """Lowest offset free of conflicts with the buffers placed so far, in the given order."""
    offsets = [-1] * len(sizes)
    for i in order:
        taken = sorted((offsets[j], offsets[j] + sizes[j]) for j in conflicts[i] if offsets[j] >= 0)
        position = 0
        for start, end in taken:
            if position + sizes[i] <= start:
                break
            position = max(position, end)
        offsets[i] = position
    return offsets
