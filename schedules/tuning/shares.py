"""Sizes of shares as a search walks them: so many equal parts, whatever the tile is that they are made of."""

from __future__ import annotations

from math import ceil

# More parts than these are never worth handing out, and a share of many cores is still large enough.
_MOST_PARTS = 64


def parts_of(units: int, size: int) -> int:
    """How many blocks of `size` units make up all."""
    return ceil(units / size)


def in_parts(units: int, parts: int) -> int:
    """Units of a block where about `parts` of them make up all."""
    return ceil(units / max(1, min(units, parts)))


def other_parts(units: int, size: int) -> list[int]:
    """Sizes beside `size`: one block more, one fewer, twice and half as many."""
    parts = parts_of(units, size)
    wanted = (parts + 1, parts - 1, 2 * parts, parts // 2)
    sizes = {in_parts(units, p) for p in wanted if 1 <= p <= min(units, _MOST_PARTS)}
    return sorted(sizes - {size})


def part_counts(units: int) -> list[int]:
    """Numbers of parts to draw from: all small ones, then powers of two."""
    counts = [p for p in range(1, _MOST_PARTS + 1) if p <= units and (p <= 8 or p & (p - 1) == 0)]
    return counts or [1]


def evenness(tiles: int, threads: int) -> float:
    """Share of the threads' time that is used where they take equal ranges of equal tiles."""
    return tiles / (ceil(tiles / threads) * threads)
