"""Cuts a grid of units of work into even shares for a few threads."""

from __future__ import annotations

from itertools import pairwise, product


def even_blocks(wanted: int, units: int, panels: int, weights_first: bool) -> tuple[int, int]:
    """Sizes of blocks of units of pixels and of panels that make about `wanted` even shares.

    Cutting units repeats the weights' traffic and cutting panels the activations', so the larger one is
    cut first and cutting the other costs a little.
    """

    def cost(blocks: tuple[int, int]) -> float:
        count = -(-units // blocks[0]) * -(-panels // blocks[1])
        other = -(-units // blocks[0]) if weights_first else -(-panels // blocks[1])
        uneven = _unevenness(_shares(units, blocks[0], panels, blocks[1]))
        return uneven + 0.01 * (abs(count - wanted) + other)

    if wanted == 1:
        return units, panels
    pairs = product(_block_sizes(units, 2 * wanted), _block_sizes(panels, 2 * wanted))
    fitting = [(u, p) for u, p in pairs if -(-units // u) * -(-panels // p) <= 2 * wanted]
    return min(fitting, key=cost)


def _block_sizes(length: int, most: int) -> list[int]:
    """Sizes of blocks of which at most `most` make up `length`."""
    return sorted({-(-length // parts) for parts in range(1, min(length, most) + 1)})


def _shares(units: int, unit_block: int, panels: int, panel_block: int) -> list[int]:
    """Work of each share, in order."""
    rows = [min(unit_block, units - u) for u in range(0, units, unit_block)]
    columns = [min(panel_block, panels - p) for p in range(0, panels, panel_block)]
    return [r * c for r in rows for c in columns]


def _unevenness(shares: list[int]) -> float:
    """Time of two threads and of four that take equal ranges of shares, over that of a perfect cut."""
    total = 0.0
    for threads in (2, 4):
        ends = [len(shares) * i // threads for i in range(threads + 1)]
        total += max(sum(shares[a:b]) for a, b in pairwise(ends)) * threads / sum(shares)
    return total
