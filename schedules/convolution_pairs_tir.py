"""The reduction of a micro-tile over sorted steps: see `convolution_pairs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from schedules.convolution_pairs import StepTable, table_width
from schedules.intrinsics import Expr, load, tir
from schedules.intrinsics_x86 import PairDot

if TYPE_CHECKING:
    from schedules.convolution_tile import MicroTile


def accumulate_sorted(tile: MicroTile, code: PairDot) -> None:
    """All products of the tile: direct steps, then the others."""
    plan, g, lanes = tile.plan, tile.g, tile.lanes
    weight, table = tile.share.operands["weight"], tile.share.operands["steps"]
    row = tir.Bind(tile.panel * table_width(g))
    origin = tir.Bind(tile.first_activation())
    direct = tir.Bind(table[row + int(StepTable.DIRECT_STEPS)])
    size = tile.vectors * plan.vector_bytes

    def vector(offset: Expr, index: int) -> Expr:
        return tir.Bind(load(weight, offset + index * plan.vector_bytes, "int8", plan.vector_bytes))

    def step(index: Expr, add: Callable[[Expr, Expr, int], Expr]) -> None:
        """add(accumulator, activations, vector of channels)"""
        activations = tir.Bind(origin + table[row + int(StepTable.FIRST_STEP) + index])
        for p, offset in enumerate(tile.pixel_offsets()):
            a = tir.Bind(code.spread(tile.share.source, activations + offset, 0, lanes))
            for v in range(tile.vectors):
                tile.set(p, v, add(tile.get(p, v), a, v))

    first = tir.Bind(table[row + int(StepTable.WEIGHTS)])
    with tir.serial(0, direct) as s:
        at = tir.Bind(first + s * size)
        tile.prefetch(at, size)
        weights = [vector(at, v) for v in range(tile.vectors)]
        step(s, lambda c, a, v: code.accumulate(c, a, weights[v], lanes))
    rest = tir.Bind(first + direct * size)
    with tir.serial(0, g.segments * g.steps - direct) as s:
        at = tir.Bind(rest + s * (2 * size))
        tile.prefetch(at, 2 * size)
        magnitudes = [vector(at, 2 * v) for v in range(tile.vectors)]
        flips = [vector(at, 2 * v + 1) for v in range(tile.vectors)]
        step(direct + s, lambda c, a, v: code.accumulate_flipped(c, a, magnitudes[v], flips[v], lanes))
