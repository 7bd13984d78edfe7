"""Choices compared where they will run: in the whole model, each kernel after the one before it.

A kernel that is timed by itself finds its operands in other caches, and the processor in another state,
than one in a model; of its best choices some are then no better than the default, and others are better than
they seemed. Here libraries of the whole model are built, each kernel with another of its choices, and every
step is timed in its place: a few libraries compare as many choices of all kernels at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING, Any, Protocol

from schedules.tuning.cost_model import Samples
from schedules.tuning.neighbours import Windows
from schedules.tuning.search import EvolutionarySearch

if TYPE_CHECKING:
    from schedules.tuning.tuner import Subject

# Of each kernel in one round: new choices, and those that are measured again, until they were so often.
_MODELS, _AGAIN, _WELL_KNOWN = 4, 2, 3
# Of the choices that were best alone, those that are tried before new ones are searched for; and how much
# slower than the best a choice may be alone.
_FINALISTS, _HOPELESS = 8, 1.3
# A kernel that takes a smaller share of the model's time is not searched further.
_SMALL = 0.005
# A choice has to be faster than the one it replaces by this share.
_TIE = 0.01
_TURNS, _LAST_TURNS = 9, 21
# Rounds behind which it is measured what the best choices do to the steps behind theirs.
_SETTLED = 4

# Of each step of a run: the subject that it runs (something else where no space has it), and its cost.
Steps = Sequence[tuple[str, float]]
# Of each library.
Turn = Sequence[Steps]


class PlaceError(Exception):
    """Libraries could not be measured; the text says why."""


class Place(Protocol):
    """A model on a device, into which kernels can be put."""

    @property
    def digest(self) -> str:
        """Names the model, and how it is run."""
        ...

    def measure(self, models: Sequence[Mapping[str, Mapping[str, Any]]], turns: int) -> Sequence[Turn]:
        """models: of each, choices (in JSON) by subject; kernels that are not named are the default's.

        Errors: PlaceError.
        """
        ...

    def close(self) -> None: ...


class Alone(Protocol):
    """What is known of a kernel that was measured by itself. measured: costs of choices, infinite for those
    that failed."""

    subject: Subject[Any]
    measured: dict[Any, float]


@dataclass(slots=True)
class Placed:
    """A kernel in its place. seen: of choices, costs over the default's, one of each round in which they
    were measured; best: the choice that is kept so far; seconds: what the default costs, NaN before it is
    measured; waiting: choices to be tried next; exhausted: all that there are were tried."""

    alone: Alone
    search: EvolutionarySearch[Any]
    waiting: list[Any]
    best: Any
    seen: dict[Any, list[float]] = field(default_factory=dict[Any, list[float]])
    seconds: float = math.nan
    exhausted: bool = False

    @property
    def name(self) -> str:
        return self.alone.subject.subject

    @property
    def default(self) -> Any:
        return self.alone.subject.default

    def ratio(self, choice: Any) -> float:
        return fmean(self.seen[choice]) if choice in self.seen else 1.0

    def learn(self, choice: Any, cost: float) -> None:
        """What was measured once: of many the least is mostly a lucky one, so that it is measured again."""
        self.seen.setdefault(choice, []).append(cost)
        self._rank(choice)

    def settle(self, cost: float) -> None:
        """What the best costs if what it does to the next steps is its own."""
        self.seen[self.best] = [cost] * _WELL_KNOWN
        self._rank(self.best)

    def _rank(self, choice: Any) -> None:
        self.search.learn(choice, self.ratio(choice))
        first = min(self.seen, key=self.ratio)
        self.best = first if self.ratio(first) < 1 - _TIE else self.default

    @property
    def again(self) -> list[Any]:
        """What has to be measured again: the best, and the one after it, until they are known well."""
        ranked = [self.best, *sorted((c for c in self.seen if c != self.best), key=self.ratio)]
        near = [c for c in ranked[:3] if c != self.default and self.ratio(c) < 1 - _TIE]
        return [c for c in near if len(self.seen[c]) < _WELL_KNOWN][:_AGAIN]

    def recall(self, costs: Mapping[Any, Sequence[float]]) -> None:
        """What an earlier run has measured in this place."""
        if self.default not in costs:
            return
        self.seconds = costs[self.default][0]
        for choice, found in costs.items():
            for cost in found if choice != self.default else ():
                self.learn(choice, cost / self.seconds)

    def hopeful(self, choice: Any) -> bool:
        """Whether a choice was right, and not much slower than others, when it was measured alone."""
        return self.alone.measured.get(choice, math.inf) < _HOPELESS * min(self.alone.measured.values())


@dataclass(frozen=True, slots=True)
class Verdict:
    """choice: the default unless another is faster in its place. ratio: its cost over the default's. cost:
    of all steps that run it; spread: half the distance of the quartiles over turns."""

    choice: Any
    ratio: float
    cost: float
    spread: float


# Measures choices of kernels, by index, alone: whether they are right, and what they cost.
Check = Callable[[Sequence[tuple[int, Any]]], None]
# Takes a kernel's index, a choice, and its cost in its place.
Keep = Callable[[int, Any, float], None]


class Refinement:
    """Finds which choices of a model's kernels are fastest in their places."""

    def __init__(self, kernels: Sequence[Alone], place: Place, check: Check, keep: Keep, seed: int) -> None:
        self._place, self._check, self._keep = place, check, keep
        self.kernels = [_placed(kernel, seed + number) for number, kernel in enumerate(kernels)]
        self.rounds = 0
        self._order: tuple[str, ...] = ()  # of a run's steps

    @property
    def gain(self) -> float:
        """Share of the model's time that the choices kept so far save."""
        known = [k for k in self.kernels if math.isfinite(k.seconds)]
        total = sum(k.seconds for k in known)
        return sum(k.seconds * (1 - k.ratio(k.best)) for k in known) / total if total else 0.0

    def run(self, searching: bool, may_go_on: Callable[[], bool]) -> Iterator[None]:
        """Round after round, until nothing new is to be tried. searching: whether new choices are looked for
        beside the best of those that were measured alone: then it goes on as long as it may, and there are
        choices. Errors: PlaceError, and those of the check."""
        while may_go_on():
            new = [self._next(kernel) for kernel in self.kernels]
            found = self._search(new) if searching else 0
            tried = [[*k.again, *choices] for k, choices in zip(self.kernels, new, strict=True)]
            if not any(tried):
                if found:
                    continue
                return
            self._compare(tried)
            self.rounds += 1
            if self.rounds % _SETTLED == 0:
                self._settle()
            yield

    def conclude(self) -> list[Verdict]:
        """The best of each kernel beside its default once more, less those that cost the steps behind them
        more than they save. Errors: PlaceError."""
        bests = [kernel.best for kernel in self.kernels]
        settled = self._settle()
        for kernel, best in zip(self.kernels, bests, strict=True):
            # What ranks first now has not answered for anything.
            kernel.best = best if settled.get(kernel.name, math.inf) < 1 - _TIE else kernel.default
        defaults, bests = [k.default for k in self.kernels], [k.best for k in self.kernels]
        measured = self._measured([defaults, bests], _LAST_TURNS)
        turns = [[_summed(steps) for steps in turn] for turn in measured]
        return [_verdict(k, [(t[0][k.name], t[1][k.name]) for t in turns]) for k in self.kernels]

    def _settle(self) -> dict[str, float]:
        """Measures the best of each kernel beside its default once more, with what both do to the next steps.
        Returns what it costs over the default, by name; of kernels that keep their default, nothing."""
        if not self._order:  # all rounds were an earlier run's
            self._measured([[kernel.default for kernel in self.kernels]], 1)
        windows = Windows(self._order)
        changed = {k.name: k for k in self.kernels if k.best != k.default}
        groups = windows.apart(list(changed))
        if not groups:
            return {}
        models = [[k.default if k.name in group else k.best for k in self.kernels] for group in ([], *groups)]
        turns = self._measured(models, _TURNS)
        found: dict[str, float] = {}
        for number, group in enumerate(groups, 1):
            for name in group:
                kernel, window = changed[name], windows.of(name)
                saved = median(_cost(turn[number], window) - _cost(turn[0], window) for turn in turns)
                found[name] = 1 - saved / kernel.seconds
                kernel.settle(found[name])
        return found

    def _next(self, kernel: Placed) -> list[Any]:
        """Of what was measured alone."""
        new = [choice for choice in kernel.waiting if choice not in kernel.seen]
        kernel.waiting = new[_MODELS:]
        return new[:_MODELS]

    def _search(self, new: list[list[Any]]) -> int:
        """Fills up with choices that nobody has measured; those that pass alone. Gives the number of all."""
        total = sum(k.seconds for k in self.kernels if math.isfinite(k.seconds))
        found: list[tuple[int, Any]] = []
        for index, (kernel, choices) in enumerate(zip(self.kernels, new, strict=True)):
            small = not kernel.seconds * kernel.ratio(kernel.best) > _SMALL * total
            if choices or kernel.exhausted or small:
                continue
            # What a search expects does not end it: the time is there to be used.
            proposed = kernel.search.propose(_MODELS)
            kernel.exhausted = not proposed
            found += [(index, choice) for choice in proposed]
        self._check([(i, c) for i, c in found if c not in self.kernels[i].alone.measured])
        for index, choice in found:
            if self.kernels[index].hopeful(choice):
                new[index].append(choice)
            else:
                self.kernels[index].search.learn(choice, math.inf)
        return len(found)

    def _compare(self, new: Sequence[Sequence[Any]]) -> None:
        """new: choices of each kernel. In libraries that have none for it, a kernel is the best so far."""
        models = [
            [choices[n] if n < len(choices) else k.best for k, choices in zip(self.kernels, new, strict=True)]
            for n in range(max(map(len, new)))
        ]
        measured = self._measured([[kernel.default for kernel in self.kernels], *models], _TURNS)
        turns = [[_summed(steps) for steps in turn] for turn in measured]
        for index, (kernel, choices) in enumerate(zip(self.kernels, new, strict=True)):
            name = kernel.name
            if not math.isfinite(kernel.seconds):
                kernel.seconds = median(turn[0][name] for turn in turns)
                self._keep(index, kernel.default, kernel.seconds)
            for number, choice in enumerate(choices, 1):
                ratio = median(turn[number][name] / turn[0][name] for turn in turns)
                kernel.learn(choice, ratio)
                self._keep(index, choice, ratio * kernel.seconds)

    def _measured(self, models: Sequence[Sequence[Any]], turns: int) -> Sequence[Turn]:
        measured = self._place.measure(
            [
                {
                    kernel.name: kernel.alone.subject.choice_json(choice)
                    for kernel, choice in zip(self.kernels, model, strict=True)
                    if choice != kernel.default
                }
                for model in models
            ],
            turns,
        )
        self._order = tuple(name for name, _ in measured[0][0])
        return measured


def _summed(steps: Steps) -> dict[str, float]:
    """By subject."""
    costs: dict[str, float] = {}
    for name, cost in steps:
        costs[name] = costs.get(name, 0.0) + cost
    return costs


def _cost(steps: Steps, places: Iterable[int]) -> float:
    return sum(steps[place][1] for place in places)


def _placed(alone: Alone, seed: int) -> Placed:
    subject, measured = alone.subject, alone.measured
    features = [subject.features(choice) for choice in measured]
    prior = Samples.of(features, list(measured.values())) if measured else None
    search = EvolutionarySearch(subject, seed, prior=prior)
    search.learn(subject.default, 1.0)
    placed = Placed(alone, search, [], subject.default)
    ranked = sorted(measured, key=lambda choice: measured[choice])
    placed.waiting = [c for c in ranked if c != subject.default and placed.hopeful(c)][:_FINALISTS]
    return placed


def _verdict(kernel: Placed, costs: Sequence[tuple[float, float]]) -> Verdict:
    """costs: of the default and of the best, in each turn."""
    ratio = median(after / before for before, after in costs)
    kept = kernel.best != kernel.default and ratio < 1 - _TIE
    own = [pair[kept] for pair in costs]
    low, _, high = quantiles(own, n=4)
    choice = kernel.best if kept else kernel.default
    return Verdict(choice, ratio if kept else 1.0, median(own), (high - low) / 2)
