"""How all layers of a network on an NPU are cut: tuned as one, since they overlap.

A trial is the whole network. Its layers end one after the other, so that one trial tells of many tilings:
those of layers that are no neighbours are changed together, and what each change gains is seen where it
stands.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from compiler.lowering.kernel import structural_digest
from compiler.numerics.element import Array
from schedules.npu_choices import Choices, Manner
from schedules.npu_room import PLAIN, Staging
from schedules.npu_tiling import Tiling
from schedules.tuning.manners import MannerSpace, manner_json, manner_of
from schedules.tuning.search import EvolutionarySearch
from schedules.tuning.tilings import TilingSpace, tiling_json, tiling_of
from schedules.tuning.versions import source_version

TEMPLATE = "npu tilings"
Rows = tuple[int, ...]
LayerSpace = TilingSpace | MannerSpace
STAGINGS = tuple(
    Staging(idle, window, margin, even, shares, pauses)
    for idle in (0.3, 0.4, 0.5, 0.6, 0.8, 1.2)
    for window in (1000.0, 3000.0, 10000.0)
    for margin in (0.0, 0.1, 0.3, 1.0)
    for even in (False, True)
    for shares in (False, True)
    for pauses in (False, True)
)
_PLAIN = STAGINGS.index(PLAIN)
# Tilings of a layer that its own search proposes at once.
_QUEUE = 8
# The share of new tilings that are one of so many neighbours of the one before.
_NEAR, _NEIGHBOURS = 0.5, 12
# Networks that new ones are made from.
_ELITE = 8
# Layers that get a new tiling in one trial, by turns: few, which may be faster at once, or many, to learn of.
_TOGETHER = (1, 2, 4, 1 << 10, 2)
# Of each round's trials, those that put together what was found.
_COMBINED = 2


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """rows: one of each layer's space; staging: of `STAGINGS`."""

    rows: Rows
    staging: int = _PLAIN


@dataclass(frozen=True)
class NetworkSpace:
    """Implements `schedules.tuning.tuner.Subject`.

    subject: digest of the network on its machine. layers: by the numbers of their calls. staged: the first
    calls of programs with copies of constants. version: of what writes and times streams.
    """

    subject: str
    machine_name: str
    layers: Mapping[int, LayerSpace]
    staged: tuple[int, ...]
    version: str

    @cached_property
    def spaces(self) -> tuple[LayerSpace, ...]:
        return tuple(self.layers.values())

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self.layers)

    @cached_property
    def default(self) -> NetworkChoice:
        return NetworkChoice(tuple(space.default for space in self.spaces))

    def ordered(self) -> Iterator[NetworkChoice]:
        yield self.default

    def neighbours(self, choice: NetworkChoice) -> list[NetworkChoice]:
        found = [replace(choice, staging=n) for n in range(len(STAGINGS)) if n != choice.staging]
        for at, space in enumerate(self.spaces):
            before, behind = choice.rows[:at], choice.rows[at + 1 :]
            near = space.neighbours(choice.rows[at])
            found += [replace(choice, rows=(*before, row, *behind)) for row in near]
        return found

    def drawn(self, random: Random) -> NetworkChoice:
        rows = tuple(space.drawn(random) for space in self.spaces)
        return NetworkChoice(rows, random.randrange(len(STAGINGS)))

    def features(self, choice: NetworkChoice) -> Array:
        """Those of all layers."""
        pairs = zip(self.spaces, choice.rows, strict=True)
        return np.concatenate([space.features(row) for space, row in pairs])

    def search(self, seed: int) -> NetworkSearch:
        return NetworkSearch(self, seed)

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "npu network", "numbers": {"layers": len(self.layers)}}

    def key(self, choice: NetworkChoice) -> str:
        return key_of(self.subject, self.version)

    def candidate(self, choice: NetworkChoice) -> Choices:
        tilings, manners = dict[int, Tiling](), dict[int, Manner]()
        for (number, space), row in zip(self.layers.items(), choice.rows, strict=True):
            if isinstance(space, TilingSpace):
                tilings[number] = space.tiling(row)
            else:
                manners[number] = space.manner(row)
        return Choices(tilings, manners, dict.fromkeys(self.staged, STAGINGS[choice.staging]))

    def choice_json(self, choice: NetworkChoice) -> dict[str, Any]:
        """All tilings, the default's too: weights that compress otherwise may have another default."""
        given = self.candidate(choice)
        tilings = {str(number): tiling_json(tiling) for number, tiling in given.tilings.items()}
        return {
            "template": TEMPLATE,
            "version": self.version,
            "tilings": tilings,
            "manners": {str(number): manner_json(manner) for number, manner in given.manners.items()},
            "staging": asdict(STAGINGS[choice.staging]),
            "staged": list(self.staged),
        }

    def choice_of(self, record: Mapping[str, Any]) -> NetworkChoice | None:
        read = choices_of(record, self.version)
        if read is None or {*read.tilings, *read.manners} != set(self.layers):
            return None
        staging = Staging(**record["staging"])
        if staging not in STAGINGS or tuple(read.stagings) != self.staged:
            return None
        rows = [_row(space, n, read) for n, space in self.layers.items()]
        found = tuple(row for row in rows if row is not None)
        return NetworkChoice(found, STAGINGS.index(staging)) if len(found) == len(rows) else None


def _row(space: LayerSpace, number: int, given: Choices) -> int | None:
    """What is given for a call, in its space."""
    if isinstance(space, MannerSpace):
        return space.choice_of(given.manners[number]) if number in given.manners else None
    return space.choice_of(given.tilings[number]) if number in given.tilings else None


def choices_of(record: Mapping[str, Any], version: str) -> Choices | None:
    """What a record's choice says; None where it is of another version, or nothing that can be read."""
    if record.get("template") != TEMPLATE or record.get("version") != version:
        return None
    try:
        tilings = {int(n): tiling_of(t) for n, t in record["tilings"].items()}
        manners = {int(n): manner_of(m) for n, m in record["manners"].items()}
        staging = Staging(**record["staging"])
        return Choices(tilings, manners, dict.fromkeys(map(int, record["staged"]), staging))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def version() -> str:
    """Of all that writes and times streams, and of no more: not of the tuner."""
    return source_version("targets.streams.lowering", "sim.timing")


def key_of(subject: str, version: str) -> str:
    """Of records: what was tuned, and what it was written and timed by."""
    return structural_digest(subject, TEMPLATE, version)


class NetworkSearch:
    """Implements `schedules.tuning.search.Search`, and is told of parts.

    For each layer an evolutionary search of its own proposes tilings. A trial is the best network so far with
    one new tiling in each of many layers whose neighbours stay, and a tiling costs what its layer's then
    takes with those beside it. What was found better is put together, in trials that decide.
    """

    def __init__(self, space: NetworkSpace, seed: int) -> None:
        self.space, self.random = space, Random(seed)
        kinds = enumerate(dict.fromkeys(space.spaces))
        searches = {s: EvolutionarySearch(s, seed + number) for number, s in kinds}
        self.inner = [searches[s] for s in space.spaces]  # equal layers learn together
        self.over = {s: dict[int, float]() for s in searches}  # cycles of rows by those of the default
        self.waiting = {s: deque[int]() for s in searches}
        self.tried = [0] * len(space.spaces)
        self.handed = [set[int]() for _ in space.spaces]
        self.scores: list[dict[int, float]] = [{} for _ in space.spaces]
        self.costs: dict[NetworkChoice, float] = {}
        self.proposed: set[NetworkChoice] = set()
        self.known: list[tuple[NetworkChoice, Array]] = []  # what was measured, and its parts

    def learn(self, choice: NetworkChoice, cost: float) -> None:
        self.costs[choice] = cost
        self.proposed.discard(choice)

    def forget(self, choice: NetworkChoice) -> None:
        self.proposed.discard(choice)

    def learn_parts(self, choice: NetworkChoice, parts: Sequence[float]) -> None:
        """parts: cycles of each call, from the end of those before it to its own; of a choice that was
        measured."""
        cycles = np.array(parts)
        if not self.known:
            for at, row in enumerate(choice.rows):
                self._learn_score(at, row, self._around(cycles, at))
        else:
            self._attribute(choice, cycles)
        self.known.append((choice, cycles))

    def _attribute(self, choice: NetworkChoice, cycles: Array) -> None:
        """What layers gain over the most similar network that was measured, where their neighbours are as
        they were there. What the whole gains beyond that is shared by all layers that differ: it shows
        elsewhere, where constants come later for example."""
        alike = [(c, parts) for c, parts in self.known if c.staging == choice.staging]
        if not alike:
            return
        rows = np.array(choice.rows)
        different = (np.array([c.rows for c, _ in alike]) != rows).sum(axis=1)
        other, before = alike[int(np.argmin(different))]
        changed = [at for at, (a, b) in enumerate(zip(choice.rows, other.rows, strict=True)) if a != b]
        gained: dict[int, float] = {}
        for at in changed:
            known, own = self.scores[at].get(other.rows[at]), self.scores[at].get(choice.rows[at])
            if own is not None and known is not None:
                gained[at] = own - known
            elif known is not None and all(self._apart(at, o) for o in changed if o != at):
                gained[at] = self._around(cycles, at) - self._around(before, at)
        rest = float(cycles.sum() - before.sum()) - sum(gained.values())
        for at, cost in gained.items():
            score = self.scores[at][other.rows[at]] + cost + rest / len(changed)
            self._learn_score(at, choice.rows[at], max(1.0, score))

    def _learn_score(self, at: int, row: int, score: float) -> None:
        space = self.space.spaces[at]
        self.scores[at][row] = score
        self.tried[at] += 1
        over = score / self.scores[at].get(space.default, score)
        self.over[space][row] = min(over, self.over[space].get(row, over))
        self.inner[at].learn(row, self.over[space][row])

    def _around(self, cycles: Array, at: int) -> float:
        """Of a layer and those beside it."""
        number = self.space.numbers[at]
        return float(cycles[max(0, number - 1) : number + 2].sum())

    def _apart(self, one: int, other: int) -> bool:
        """Whether no call is one of two layers' or beside both."""
        return abs(self.space.numbers[one] - self.space.numbers[other]) > 2

    @property
    def best(self) -> NetworkChoice:
        return min(self.costs, key=lambda c: self.costs[c], default=self.space.default)

    def propose(self, count: int) -> list[NetworkChoice]:
        base = self.best
        if base not in self.costs:
            return [base] if base not in self.proposed else []
        found: dict[NetworkChoice, None] = {}
        for choice in self._combined(base):
            if len(found) < min(count, _COMBINED) and self._is_new(choice):
                found[choice] = None
        if len(found) < count:
            other = replace(base, staging=self.random.randrange(len(STAGINGS)))
            found |= {other: None} if self._is_new(other) else {}
        elite = sorted(self.costs, key=lambda c: self.costs[c])[:_ELITE]
        for number in range(2 * count):
            parent = elite[min(int(self.random.expovariate(0.7)), len(elite) - 1)]
            if number == 0:
                choice = self._crossed(parent, self.random.choice(elite))
            else:
                choice = self._changed(parent, _TOGETHER[number % len(_TOGETHER)])
            if len(found) < count and self._is_new(choice):
                found[choice] = None
        self.proposed.update(found)
        return list(found)

    def _is_new(self, choice: NetworkChoice) -> bool:
        return choice not in self.costs and choice not in self.proposed

    def _combined(self, base: NetworkChoice) -> Iterator[NetworkChoice]:
        """The best tiling of every layer; then of some of them."""
        gains = self._gains(base)
        ranked = sorted(gains, key=lambda at: -gains[at][0])
        yield self._with(base, ranked, gains)
        for part in range(1, 5):
            yield self._with(base, ranked[: math.ceil(len(ranked) / 2**part)], gains)
        for _ in range(4):
            yield self._with(base, [at for at in ranked if self.random.random() < 0.5], gains)

    def _gains(self, base: NetworkChoice) -> dict[int, tuple[float, int]]:
        """Of each layer with a better tiling than the base's: cycles that it gains, and its row."""
        found: dict[int, tuple[float, int]] = {}
        for at, (own, scores) in enumerate(zip(base.rows, self.scores, strict=True)):
            if own in scores:
                row = min(scores, key=lambda r: scores[r])
                if scores[row] < scores[own]:
                    found[at] = (scores[own] - scores[row], row)
        return found

    def _with(
        self, base: NetworkChoice, layers: Sequence[int], gains: Mapping[int, tuple[float, int]]
    ) -> NetworkChoice:
        rows = list(base.rows)
        for at in layers:
            rows[at] = gains[at][1]
        return replace(base, rows=tuple(rows))

    def _crossed(self, one: NetworkChoice, other: NetworkChoice) -> NetworkChoice:
        """Some consecutive layers of the other."""
        first, last = sorted(self.random.randrange(len(one.rows) + 1) for _ in range(2))
        return replace(one, rows=(*one.rows[:first], *other.rows[first:last], *one.rows[last:]))

    def _changed(self, base: NetworkChoice, most: int) -> NetworkChoice:
        """New tilings in up to so many layers that are no neighbours, mostly where most may be gained."""
        rows = list(base.rows)
        worth = [
            self.random.random() * self.scores[at].get(row, 0.0) / (1 + self.tried[at])
            for at, row in enumerate(rows)
        ]
        chosen: list[int] = []
        for at in sorted(range(len(rows)), key=lambda at: -worth[at]):
            if len(chosen) < most and all(self._apart(at, other) for other in chosen):
                row = self._near(at, rows[at]) if self.random.random() < _NEAR else self._next(at)
                if row is not None and row != rows[at]:
                    chosen.append(at)
                    rows[at] = row
                    self.tried[at] += 1
        return replace(base, rows=tuple(rows))

    def _near(self, at: int, row: int) -> int | None:
        near = [r for r in self.space.spaces[at].neighbours(row) if r not in self.scores[at]]
        return self.random.choice(near[:_NEIGHBOURS]) if near else None

    def _next(self, at: int) -> int | None:
        """What was good for an equal layer, else what the layers' search proposes."""
        space, scores = self.space.spaces[at], self.scores[at]
        over = self.over[space]
        best = min(over, key=lambda row: over[row], default=None)
        if best is not None and best not in scores and best not in self.handed[at]:
            self.handed[at].add(best)
            return best
        waiting = self.waiting[space]
        if not waiting:
            waiting.extend(self.inner[at].propose(_QUEUE))
        return waiting.popleft() if waiting else None

    def expect(self) -> float:
        base = self.best
        own = [scores.get(row, 0.0) for scores, row in zip(self.scores, base.rows, strict=True)]
        if not sum(own):
            return 1.0
        hoped = sum(o * min(1.0, search.expect()) for o, search in zip(own, self.inner, strict=True))
        return (hoped + sum(gain for gain, _ in self._gains(base).values())) / sum(own)
