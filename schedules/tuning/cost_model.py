"""What a candidate will cost, learned from what others did: gradient-boosted trees on features of choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.numerics.element import Array

# Costs are logarithms of what they are above the best of their kernel: beyond this, and for what failed, it
# is all one how bad they are.
WORST = math.log(6.0)
_ROUNDS = 80
_PARAMETERS = {
    "max_depth": 5,
    "eta": 0.15,
    "subsample": 0.9,
    "colsample_bytree": 0.7,
    "min_child_weight": 0.5,
}


@dataclass(frozen=True, slots=True)
class Samples:
    """features: float32 [n, features]; costs: [n], log(cost / best of the same kernel)."""

    features: Array
    costs: Array

    @staticmethod
    def of(features: Sequence[Array], costs: Sequence[float]) -> Samples:
        """costs: of one kernel, in any unit; infinite for what failed."""
        finite = [c for c in costs if math.isfinite(c)]
        best = min(finite, default=1.0)
        relative = [min(WORST, math.log(c / best)) if math.isfinite(c) else WORST for c in costs]
        return Samples(np.array(features, np.float32), np.array(relative))


class CostModel:
    """prior: of similar kernels and devices, each counting as `prior_weight` of a sample of this one."""

    def __init__(self, seed: int, prior: Samples | None = None, prior_weight: float = 0.3) -> None:
        self._seed, self._prior, self._prior_weight = seed, prior, prior_weight
        self._trees: Any = None

    def fit(self, samples: Samples | None) -> None:
        """Learns anew, from the prior and from `samples`."""
        import xgboost

        parts = [p for p in (self._prior, samples) if p is not None and len(p.costs)]
        if not parts:
            return
        weights = [self._prior_weight if p is self._prior else 1.0 for p in parts]
        data = xgboost.DMatrix(
            np.concatenate([p.features for p in parts]),
            label=np.concatenate([p.costs for p in parts]),
            weight=np.concatenate([np.full(len(p.costs), w) for p, w in zip(parts, weights, strict=True)]),
        )
        parameters = {**_PARAMETERS, "seed": self._seed, "nthread": 1, "verbosity": 0}
        self._trees = xgboost.train(parameters, data, _ROUNDS)

    @property
    def knows(self) -> bool:
        """Whether it has learned anything."""
        return self._trees is not None

    def predict(self, features: Sequence[Array]) -> Array:
        """log(cost / best) of each; zeros before anything is known."""
        if self._trees is None or not features:
            return np.zeros(len(features))
        import xgboost

        return np.asarray(self._trees.predict(xgboost.DMatrix(np.array(features, np.float32))))
