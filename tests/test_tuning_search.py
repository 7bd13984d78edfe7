"""Searches on synthetic landscapes, the allocation of trials, tuners with a device that computes costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from compiler.lowering.kernel import KernelPlan
from compiler.numerics.element import Array, ElementType
from schedules.machines import machine_named
from schedules.tuning.allocate import Progress, expected_gain, next_kernel, saved
from schedules.tuning.cost_model import CostModel, Samples
from schedules.tuning.measure import Measurement, Outcome, Unit
from schedules.tuning.records import append, databases, read
from schedules.tuning.search import EvolutionarySearch, RandomSearch, Search
from schedules.tuning.space import KernelSpace
from schedules.tuning.transfer import Transfer
from schedules.tuning.tuned import Tuned
from schedules.tuning.tuner import Budget, Tuner
from tests.computed_device import FORMS, MACHINE, Computing, formula, tuner

SIDE, AXES = 12, 3
Point = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Points of a cube; the default is a corner, and the model that orders them knows nothing."""

    side: int = SIDE

    @property
    def default(self) -> Point:
        return (0,) * AXES

    def ordered(self) -> Iterator[Point]:
        yield self.default
        yield from ((i,) * AXES for i in range(1, min(4, self.side)))

    def neighbours(self, choice: Point) -> list[Point]:
        found = ((*choice[:i], choice[i] + d, *choice[i + 1 :]) for i in range(AXES) for d in (-1, 1))
        return [p for p in found if all(0 <= x < self.side for x in p)]

    def drawn(self, random: Random) -> Point:
        return tuple(random.randrange(self.side) for _ in range(AXES))

    def features(self, choice: Point) -> Array:
        return np.array(choice, np.float32)


def bowl(optimum: Point) -> Any:
    """A cost that grows away from the optimum, with ripples."""

    def cost(point: Point) -> float:
        away = sum(abs(a - b) for a, b in zip(point, optimum, strict=True))
        return 1.0 + 0.1 * away + 0.02 * (sum(point) % 3)

    return cost


def trials_until(search: Search[Point], cost: Any, target: float, most: int) -> int:
    """Trials until a cost of at most `target` is found; `most` where it is not."""
    made = 0
    while made < most:
        for choice in search.propose(8):
            made += 1
            search.learn(choice, cost(choice))
            if cost(choice) <= target:
                return made
    return most


@pytest.mark.parametrize("optimum", [(11, 11, 11), (3, 9, 6), (10, 1, 5)])
def test_a_planted_optimum_is_found_sooner_than_by_chance(optimum: Point) -> None:
    cost = bowl(optimum)
    best = min(cost((a, b, c)) for a in range(SIDE) for b in range(SIDE) for c in range(SIDE))
    target, seeds = 1.02 * best, range(5)
    learned = median(trials_until(EvolutionarySearch(Grid(), s), cost, target, 300) for s in seeds)
    chance = median(trials_until(RandomSearch(Grid(), s), cost, target, 300) for s in seeds)
    assert learned <= 120
    assert learned < 0.6 * chance


@pytest.mark.parametrize("kind", [EvolutionarySearch, RandomSearch])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), side=st.integers(1, 4), count=st.integers(1, 9), data=st.data())
def test_no_choice_is_proposed_twice_and_none_that_is_known(
    kind: Any, seed: int, side: int, count: int, data: st.DataObject
) -> None:
    search, space = kind(Grid(side), seed), Grid(side)
    known = {space.drawn(Random(seed))}
    for choice in known:
        search.learn(choice, 1.0)
    seen: list[Point] = []
    for _ in range(80):
        proposed = search.propose(count)
        assert len(proposed) <= count
        seen += proposed
        for choice in proposed:
            search.learn(choice, data.draw(st.sampled_from([1.0, 2.0, math.inf])))
        if not proposed:
            break
    assert len(set(seen)) == len(seen)
    assert not known & set(seen)
    assert len(seen) + 1 <= side**AXES


@pytest.mark.parametrize("kind", [EvolutionarySearch, RandomSearch])
def test_searches_are_deterministic_for_a_seed(kind: Any) -> None:
    def path(seed: int) -> list[Point]:
        search, found = kind(Grid(), seed), list[Point]()
        for _ in range(6):
            for choice in search.propose(8):
                search.learn(choice, bowl((4, 4, 4))(choice))
                found.append(choice)
        return found

    assert path(3) == path(3)
    assert path(3) != path(4)
    assert path(3)[0] == Grid().default


def test_a_choice_that_was_lost_may_be_proposed_again() -> None:
    search = EvolutionarySearch(Grid(1), 0)
    assert search.propose(4) == [Grid().default]
    assert search.propose(4) == []
    search.forget(Grid().default)
    assert search.propose(4) == [Grid().default]


def test_a_search_without_prospects_expects_nothing() -> None:
    search = EvolutionarySearch(Grid(), 0)
    for _ in range(12):
        for choice in search.propose(8):
            search.learn(choice, 1.0)
    assert search.expect() == 0.0
    fresh = EvolutionarySearch(Grid(), 0)
    assert fresh.expect() > 0.5


def test_hints_are_measured_first_and_a_prior_ranks_them() -> None:
    hints = [(9, 9, 9), (8, 8, 8)]
    first = EvolutionarySearch(Grid(), 0, hints).propose(3)
    assert first == [Grid().default, *hints]
    space, cost = Grid(), bowl((11, 11, 11))
    known = [space.drawn(Random(n)) for n in range(80)]
    prior = Samples.of([space.features(p) for p in known], [cost(p) for p in known])
    informed, ignorant = EvolutionarySearch(space, 0, (), prior), EvolutionarySearch(space, 0)
    best = [min(cost(p) for p in search.propose(8)) for search in (informed, ignorant)]
    assert best[0] < best[1]


def test_the_cost_model_ranks_what_it_has_seen() -> None:
    space, cost, random = Grid(), bowl((2, 7, 4)), Random(0)
    points = [space.drawn(random) for _ in range(120)]
    model = CostModel(0)
    assert not model.knows
    model.fit(Samples.of([space.features(p) for p in points], [cost(p) for p in points]))
    others = [space.drawn(random) for _ in range(60)]
    predicted, real = model.predict([space.features(p) for p in others]), [cost(p) for p in others]
    assert np.corrcoef(predicted, np.log(real))[0, 1] > 0.8


def test_failures_count_as_slow_as_can_be() -> None:
    samples = Samples.of([np.zeros(1), np.zeros(1), np.zeros(1)], [2.0, math.inf, 4.0])
    assert samples.costs[0] == 0
    assert math.isclose(samples.costs[2], math.log(2))
    assert samples.costs[1] == max(samples.costs)


def kernel(count: int, default: float, costs: Sequence[float], expected: float) -> Progress:
    progress = Progress("k", count, default)
    for cost in costs:
        progress.learn(cost)
    progress.expected = expected
    return progress


def test_trials_go_where_most_time_is_to_be_saved() -> None:
    small = kernel(1, 1.0, [1.0] * 8, 0.1)
    often = kernel(20, 1.0, [1.0] * 8, 0.1)
    large_but_done = kernel(1, 100.0, [100.0] * 8, 0.0)
    assert next_kernel([small, often, large_but_done]) == 1
    assert next_kernel([small, large_but_done]) == 0
    assert next_kernel([small, replace(often, spent=True)]) == 0
    assert next_kernel([large_but_done]) is None
    assert next_kernel([often, Progress("new", 1)]) == 1


def test_savings_are_weighted_by_how_often_a_kernel_runs() -> None:
    kernels = [kernel(3, 2.0, [2.0, 1.0], 0.0), kernel(1, 4.0, [4.0], 0.2), Progress("new", 5)]
    assert saved(kernels) == (10.0, 7.0)
    assert 0 < expected_gain(kernels[:2]) < 0.5


def test_a_tuner_measures_as_often_as_it_may_and_records_all(tmp_path: Path) -> None:
    device = Computing()
    tuned = tuner(tmp_path, device, 45)
    assert len(list(tuned.run())) == 45
    assert len(device.measured) == len(set(device.measured)) == 45
    assert len(read(tuned.path, pytest.fail)) == 45
    assert [k.progress.name for k in tuned.kernels if k.progress.trials] == ["k0", "k1"]


def test_an_interrupted_tuner_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Computing(dies_after=23)
    with pytest.raises(KeyboardInterrupt):
        list(tuner(tmp_path, first, 60).run())
    second = Computing()
    again = tuner(tmp_path, second, 60)
    assert again.recalled == 23
    list(again.run())
    assert len(second.measured) == 37
    assert not set(first.measured) & set(second.measured)
    done = Computing()
    assert list(tuner(tmp_path, done, 60).run()) == []


def test_what_a_lost_device_left_is_measured_again(tmp_path: Path) -> None:
    device = Computing(lost=5)
    tuned = tuner(tmp_path, device, 30)
    list(tuned.run())
    outcomes = [r.outcome for r in read(tuned.path, pytest.fail)]
    assert outcomes.count(Outcome.LOST) == 5
    assert outcomes.count(Outcome.MEASURED) == 30
    assert all(kernel.subject.default in kernel.measured for kernel in tuned.kernels)


def test_the_verdict_is_what_compilation_uses(tmp_path: Path) -> None:
    tuned = tuner(tmp_path, Computing(), 120)
    list(tuned.run())
    verdicts = list(tuned.conclude())
    assert all(ratio < 1 for _, ratio in verdicts)
    found = Tuned.of(tmp_path, [MACHINE], None, pytest.fail)
    assert found.devices == ("here",)
    for form in FORMS:
        space = KernelSpace(form, MACHINE)
        plan = found.plan(form, MACHINE)
        assert formula(plan) < formula(space.plan(space.default))
        assert found.known(plan) == form
    other = replace(FORMS[0], in_width=15, out_width=15)
    assert found.known(KernelSpace(other, MACHINE).default_plan) is None
    assert found.plan(other, MACHINE) == KernelSpace(other, MACHINE).plan(KernelSpace(other, MACHINE).default)


def test_the_default_wins_ties(tmp_path: Path) -> None:
    class Alike(Computing):
        def measure(self, candidates: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
            for index, _ in enumerate(candidates):
                yield index, Measurement(Outcome.MEASURED, 1e-5 * (1 - 0.001 * (index % 7)), 1e-9)

    tuned = tuner(tmp_path, Alike(), 40)
    list(tuned.run())
    assert [ratio for _, ratio in tuned.conclude()] == [1.0, 1.0]
    found = Tuned.of(tmp_path, [MACHINE], None, pytest.fail)
    for form in FORMS:
        space = KernelSpace(form, MACHINE)
        assert found.plan(form, MACHINE) == space.plan(space.default)


class Counting(Computing):
    """Exact costs, as an emulator's."""

    @property
    def unit(self) -> Unit:
        return Unit.INSTRUCTIONS


def test_exact_costs_are_compared_without_another_measurement(tmp_path: Path) -> None:
    device = Counting()
    tuned = tuner(tmp_path, device, 60)
    list(tuned.run())
    assert len(device.measured) == 60
    ratios = [ratio for _, ratio in tuned.conclude()]
    assert len(device.measured) == 60
    bests = [min(kernel.measured.values()) / kernel.progress.default for kernel in tuned.kernels]
    assert ratios == bests
    assert max(ratios) < 1


def test_one_lucky_measurement_is_found_out_in_the_end(tmp_path: Path) -> None:
    class Lucky(Computing):
        def measure(self, candidates: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
            for index, plan in enumerate(candidates):
                luck = 0.5 if plan.symbol not in self.measured and hash_of(plan) % 5 == 0 else 1.0
                self.measured.append(plan.symbol)
                yield index, Measurement(Outcome.MEASURED, 1e-5 * luck, 1e-9)

    tuned = tuner(tmp_path, Lucky(), 48)
    list(tuned.run())
    assert any(k.progress.gain > 0.4 for k in tuned.kernels)
    assert [ratio for _, ratio in tuned.conclude()] == [1.0, 1.0]


def hash_of(plan: KernelPlan) -> int:
    return int(plan.symbol[-8:], 16)


def test_siblings_and_similar_kernels_give_hints(tmp_path: Path) -> None:
    sibling = tuner(tmp_path, Computing("sibling"), 160)
    list(sibling.run())
    records = read(sibling.path, pytest.fail)
    here = KernelSpace(FORMS[0], MACHINE)
    known = {s.subject: s for s in (KernelSpace(form, MACHINE) for form in FORMS)}
    best = min((r for r in records if r.subject == here.subject), key=lambda r: r.cost or math.inf)
    transfer = Transfer.of(here, [], records)
    assert transfer.hints[0] == here.choice_of(best.choice)
    assert transfer.samples is not None and len(transfer.samples.costs) > 20
    similar = KernelSpace(replace(FORMS[0], in_channels=80), MACHINE)
    assert similar.subject not in known
    hints = Transfer.of(similar, records, []).hints
    assert hints and all(similar.is_legal(hint) for hint in hints)
    assert min(formula(similar.plan(h)) for h in hints) < formula(similar.plan(similar.default))
    i8 = ElementType.I8
    far = KernelSpace(Convolution(64, 1, 1, 4096, 1, 1, 4096, 1, 1, i8, i8, i8), MACHINE)
    assert Transfer.of(far, records, []).hints == []


def test_records_of_another_device_decide_where_there_are_no_own(tmp_path: Path) -> None:
    for fingerprint, trials in (("few", 20), ("many", 80), ("own", 24)):
        tuned = tuner(tmp_path, Computing(fingerprint), trials)
        list(tuned.run())
        list(tuned.conclude())
    assert Tuned.of(tmp_path, [MACHINE], "own", pytest.fail).devices == ("own",)
    assert Tuned.of(tmp_path, [MACHINE], None, pytest.fail).devices == ("many",)
    assert Tuned.of(tmp_path, [machine_named("avx2")], None, pytest.fail).choices == {}


def test_real_devices_decide_before_emulated_ones(tmp_path: Path) -> None:
    for device, trials in ((Counting("emulated"), 80), (Computing("real"), 20)):
        tuned = tuner(tmp_path, device, trials)
        list(tuned.run())
        list(tuned.conclude())
    assert Tuned.of(tmp_path, [MACHINE], None, pytest.fail).devices == ("real",)


def test_records_of_a_changed_template_decide_nothing(tmp_path: Path) -> None:
    tuned = tuner(tmp_path, Computing(), 60)
    list(tuned.run())
    list(tuned.conclude())
    [path] = databases(tmp_path)
    old = read(path, pytest.fail)
    path.unlink()
    append(path, [replace(r, key="0", choice={**r.choice, "version": "0"}) for r in old])
    assert Tuned.of(tmp_path, [MACHINE], None, pytest.fail).choices == {}
    device = Computing()
    again = tuner(tmp_path, device, 10)
    assert again.recalled == 0
    list(again.run())
    assert len(device.measured) == 10


def test_a_budget_of_time_ends_the_trials(tmp_path: Path) -> None:
    clock = iter(float(n) for n in range(10_000))
    subjects: list[Any] = [("k", KernelSpace(FORMS[0], MACHINE), 1)]
    budget = Budget(seconds=20.0)
    tuned = Tuner(subjects, Computing(), tmp_path, budget=budget, clock=lambda: next(clock))
    assert 0 < len(list(tuned.run())) < 200
