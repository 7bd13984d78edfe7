"""Which candidates to measure next: evolution under a learned cost model, and chance to compare it with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from random import Random
from typing import Generic, Protocol, TypeVar

import numpy as np

from compiler.numerics.element import Array
from schedules.tuning.cost_model import CostModel, Samples
from schedules.tuning.space import Space

ChoiceT = TypeVar("ChoiceT")


class Search(Protocol[ChoiceT]):
    """Proposes choices of a space and is told what they cost; no choice is proposed twice."""

    def propose(self, count: int) -> list[ChoiceT]:
        """Up to `count` choices to measure; none where all that can be found are known."""
        ...

    def learn(self, choice: ChoiceT, cost: float) -> None:
        """cost: infinite for a choice that failed. Choices that were not proposed are welcome too."""
        ...

    def forget(self, choice: ChoiceT) -> None:
        """A proposed choice was not measured, and may be proposed again."""
        ...

    def expect(self) -> float:
        """The share of the best cost that more trials are expected to save."""
        ...


class _Known(Generic[ChoiceT]):
    """What was proposed or measured. costs: in the order of measurement."""

    def __init__(self, space: Space[ChoiceT], seed: int) -> None:
        self.space, self.random = space, Random(seed)
        self.costs: dict[ChoiceT, float] = {}
        self.proposed: set[ChoiceT] = set()

    @property
    def best(self) -> float:
        return min(self.costs.values(), default=math.inf)

    def is_new(self, choice: ChoiceT) -> bool:
        return choice not in self.proposed and choice not in self.costs

    def new(self, choices: Iterable[ChoiceT]) -> list[ChoiceT]:
        return [choice for choice in dict.fromkeys(choices) if self.is_new(choice)]

    def drawn(self, count: int) -> list[ChoiceT]:
        """Up to `count` new choices at random."""
        found: dict[ChoiceT, None] = {}
        for _ in range(_DRAWS * count):
            if len(found) == count:
                break
            choice = self.space.drawn(self.random)
            if self.is_new(choice):
                found[choice] = None
        return list(found)


_DRAWS = 20


class RandomSearch(Generic[ChoiceT]):
    """The default, then whatever chance draws."""

    def __init__(self, space: Space[ChoiceT], seed: int) -> None:
        self._known = _Known(space, seed)

    def propose(self, count: int) -> list[ChoiceT]:
        first = self._known.new([self._known.space.default])
        found = first + [c for c in self._known.drawn(count - len(first)) if c not in first]
        self._known.proposed.update(found)
        return found

    def learn(self, choice: ChoiceT, cost: float) -> None:
        self._known.costs[choice] = cost

    def forget(self, choice: ChoiceT) -> None:
        self._known.proposed.discard(choice)

    def expect(self) -> float:
        return 1.0 / (1 + len(self._known.costs))


# Choices that parents are taken from, those kept from one generation to the next, and generations.
_ELITE, _POPULATION, _GENERATIONS = 12, 96, 4
_NEIGHBOURS = 6
# Of each round's trials, the share that chance chooses.
_EPSILON = 0.1
# Of the first trials, those that come from the analytic model and from similar kernels.
_SEEDS = 24
# From one analytic candidate to its follower the model mostly says little: every so many are taken.
_LISTED = 64
# Trials without a gain of at least `_NOTABLE` after which a search that expects nothing is at its end.
_PATIENCE, _NOTABLE = 24, 0.005


class EvolutionarySearch(Generic[ChoiceT]):
    """hints: choices that were good for similar kernels or on sibling devices, the best first. prior: what
    choices cost there.

    The trees are grown anew each round; the most promising of a population bred from the best are measured,
    and a few at random. Deterministic for a seed, given the measurements.
    """

    def __init__(
        self,
        space: Space[ChoiceT],
        seed: int,
        hints: Sequence[ChoiceT] = (),
        prior: Samples | None = None,
    ) -> None:
        self._known = _Known(space, seed)
        self._model = CostModel(seed, prior)
        self._features: dict[ChoiceT, Array] = {}
        self._neighbours: dict[ChoiceT, list[ChoiceT]] = {}
        listed = list(islice(space.ordered(), _LISTED))
        self._listed = dict.fromkeys([space.default, *hints, *listed])
        self._seeds = dict.fromkeys([space.default, *hints[: _SEEDS // 3], *listed[:_SEEDS]])
        self._stale, self._expected = 0, 1.0

    def learn(self, choice: ChoiceT, cost: float) -> None:
        known = self._known
        notable = cost < known.best * (1 - _NOTABLE)
        self._stale = 0 if notable else self._stale + 1
        known.costs[choice] = cost

    def forget(self, choice: ChoiceT) -> None:
        self._known.proposed.discard(choice)

    def expect(self) -> float:
        if self._expected >= _NOTABLE:
            return self._expected
        # Trees that see no gain are believed only after some trials without one.
        return 0.0 if self._stale >= _PATIENCE else _NOTABLE

    def propose(self, count: int) -> list[ChoiceT]:
        known = self._known
        self._model.fit(self._samples())
        found = self._first(count) if len(known.costs) < count else []
        by_chance = sum(known.random.random() < _EPSILON for _ in range(count - len(found)))
        for choice in self._ranked(self._population()):
            if len(found) >= count - by_chance:
                break
            if known.is_new(choice) and choice not in found:
                found.append(choice)
        found += [c for c in known.drawn(count - len(found)) if c not in found]
        known.proposed.update(found)
        self._expected = self._expectation(found)
        return found

    def _first(self, count: int) -> list[ChoiceT]:
        """What is measured before anything is known of this kernel: the default, hints, and those of the
        analytic model's list that a prior likes best."""
        new = self._known.new(self._seeds)
        if not self._model.knows:
            return new[:count]
        kept = [c for c in new if c == self._known.space.default]
        return (kept + [c for c in self._ranked(new) if c not in kept])[:count]

    def _samples(self) -> Samples | None:
        costs = self._known.costs
        return Samples.of([self._of(c) for c in costs], list(costs.values())) if costs else None

    def _of(self, choice: ChoiceT) -> Array:
        if choice not in self._features:
            self._features[choice] = self._known.space.features(choice)
        return self._features[choice]

    def _ranked(self, choices: Sequence[ChoiceT]) -> list[ChoiceT]:
        """By rising prediction; equals in their order."""
        predicted = self._model.predict([self._of(c) for c in choices])
        return [choices[i] for i in np.argsort(predicted, kind="stable")]

    def _population(self) -> list[ChoiceT]:
        """The most promising that a few generations from the best reach, measured ones included."""
        known = self._known
        best = sorted(known.costs, key=lambda c: known.costs[c])[:_ELITE]
        alive = list(dict.fromkeys([*best, *self._listed, *known.drawn(_POPULATION // 4)]))
        for generation in range(_GENERATIONS):
            parents = best if generation == 0 and best else alive[: 3 * _ELITE]
            bred: list[ChoiceT] = []
            for parent in parents:
                near = self._near(parent)
                bred += known.random.sample(
                    near, min(len(near), 2 * _NEIGHBOURS if parent in best[:3] else _NEIGHBOURS)
                )
            alive = self._ranked(list(dict.fromkeys([*alive, *bred])))[:_POPULATION]
        return alive

    def _near(self, choice: ChoiceT) -> list[ChoiceT]:
        """Its neighbours: the best of a round are mostly those of the next."""
        if choice not in self._neighbours:
            self._neighbours[choice] = self._known.space.neighbours(choice)
        return self._neighbours[choice]

    def _expectation(self, proposed: Sequence[ChoiceT]) -> float:
        """By how much the best of the proposals is predicted to fall below the best that was measured."""
        known = self._known
        if not proposed:
            return 0.0
        if len(known.costs) < 2 or not math.isfinite(known.best):
            return 1.0
        measured = [c for c in known.costs if math.isfinite(known.costs[c])]
        level = min(float(p) for p in self._model.predict([self._of(c) for c in measured]))
        lowest = min(float(p) for p in self._model.predict([self._of(c) for c in proposed]))
        return max(0.0, 1.0 - math.exp(lowest - level))
