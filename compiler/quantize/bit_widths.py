"""choose-bit-widths: the width of each layer's weights, under a budget.

Minimise the sum of the layers' errors, one width per layer, the sum of their costs within the limit: a
multiple-choice knapsack, solved exactly as an integer program. Adding errors assumes that layers disturb the
outputs independently (zero-mean and uncorrelated, so that squared errors add). That is false where one
layer's error saturates the outputs, but there the sum is large anyway, and the choice avoids it if it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.numerics.element import ElementType
from compiler.quantize.budget import Budget, Metric
from compiler.quantize.layers import Layer
from compiler.quantize.quantize_graph import WeightWidths
from compiler.quantize.sensitivity import Sensitivity

WIDTHS = (ElementType.I8, ElementType.I4, ElementType.I2, ElementType.B1)

# What a layer costs with weights of an element type: bytes, or a target's cycles.
Cost = Callable[[Layer, ElementType], float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """error: normalised mean squared error of the outputs (`measure_sensitivity`)."""

    element: ElementType
    error: float
    cost: float


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """One layer's row of the report."""

    layer: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate


@dataclass(frozen=True, slots=True)
class BitWidthChoice:
    """The widths chosen. cost, limit: of the whole model, what no choice changes included."""

    budget: Budget
    limit: float
    cost: float
    layers: tuple[LayerChoice, ...]

    @property
    def error(self) -> float:
        """Estimated normalised mean squared error of the outputs: the sum that was minimised."""
        return sum(row.chosen.error for row in self.layers)

    def widths(self, asked: WeightWidths) -> WeightWidths:
        """For `quantize_graph`. asked: what holds for weights that are no layer of the table."""
        chosen = {row.layer: row.chosen.element for row in self.layers}
        return WeightWidths(asked.default, {**asked.layers, **chosen}, asked.by_channel)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "budget": str(self.budget),
            "limit": self.limit,
            "cost": self.cost,
            "estimated_error": self.error,
            "layers": [
                {
                    "layer": row.layer,
                    "chosen": row.chosen.element.value,
                    "candidates": {
                        c.element.value: {"error": c.error, "cost": c.cost} for c in row.candidates
                    },
                }
                for row in self.layers
            ],
        }


def width_candidates(layers: Sequence[Layer], asked: WeightWidths) -> dict[Layer, tuple[ElementType, ...]]:
    """The widths that the user leaves open: exactly the one asked for by a layer's name, otherwise up to the
    default."""
    narrower = tuple(e for e in WIDTHS if e.bits <= asked.default.bits)
    fixed = {layer: asked.of(layer.nodes[0].location) for layer in layers}
    named = {layer for layer in layers if any(n in asked.layers for n in layer.nodes[0].location.names)}
    return {layer: (fixed[layer],) if layer in named else narrower for layer in layers}


def choose_bit_widths(
    candidates: Mapping[Layer, Sequence[ElementType]],
    sensitivity: Sensitivity,
    cost: Cost,
    budget: Budget,
    base: float,
) -> BitWidthChoice:
    """The widths of least total error within the budget.

    base: cost of the model but for these layers' weights. A budget in per cent is relative to the model with
    each layer at its first candidate of `WIDTHS`, int8.
    Errors: BitloomError that names the smallest cost within reach.
    """
    tables = {
        layer: tuple(Candidate(e, sensitivity[layer.name][e], cost(layer, e)) for e in elements)
        for layer, elements in candidates.items()
    }
    limit = budget.limit(base + sum(cost(layer, WIDTHS[0]) for layer in candidates))
    least = base + sum(min(c.cost for c in table) for table in tables.values())
    if least > limit:
        raise BitloomError(
            f"no choice of weight widths meets {budget}: the smallest {budget.metric.value} within reach is "
            f"{budget.cost_text(least)}, allowed are {limit:,.0f}",
            f"allow more: {budget.metric.value}<={least:.0f}{'B' if budget.metric is Metric.SIZE else ''}",
        )
    chosen = _solve(list(tables.values()), limit - base)
    rows = tuple(
        LayerChoice(layer.name, table, table[index])
        for (layer, table), index in zip(tables.items(), chosen, strict=True)
    )
    return BitWidthChoice(budget, limit, base + sum(r.chosen.cost for r in rows), rows)


def _solve(tables: Sequence[Sequence[Candidate]], limit: float) -> list[int]:
    """The index chosen in each table: least sum of errors, sum of costs at most `limit`."""
    if not tables:
        return []
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [c for table in tables for c in table]
    owner = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    errors, costs = np.array([c.error for c in flat]), np.array([c.cost for c in flat])
    # The solver stops at absolute gaps of 1e-6: errors are scaled so that this is 1e-12 of the largest.
    largest = float(errors.max())
    scaled = errors / largest * 1e6 if largest > 0 else errors
    one_each = (owner == np.arange(len(tables))[:, None]).astype(np.float64)
    result = milp(
        scaled,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(costs[None], -np.inf, limit)],
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise RuntimeError(f"the solver failed on a problem that has a solution: {result.message}")
    picked = np.flatnonzero(np.asarray(result.x) > 0.5)
    starts = np.cumsum([0, *(len(t) for t in tables)])
    return [int(p - starts[owner[p]]) for p in picked]
