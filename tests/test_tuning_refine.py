"""Choices compared in the model: a place whose costs differ from those of kernels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.lowering.kernel import KernelPlan
from schedules.tuning.neighbours import Windows
from schedules.tuning.records import read
from schedules.tuning.refine import PlaceError, Turn
from schedules.tuning.space import Choice
from schedules.tuning.tuned import Tuned
from schedules.tuning.tuner import Tuner
from tests.computed_device import FORMS, MACHINE, SPACES, Computing, formula, tuner


def elsewhere(plan: KernelPlan) -> float:
    """Half of what was good alone is not, beside other kernels."""
    disturbed = plan.symbol[-1] in "02468ace"  # the end of its digest
    return formula(plan) * (1.5 if disturbed else 1.0)


def as_default(plan: KernelPlan) -> float:
    """The default is best in the model, whatever was found alone."""
    return 1e-5 if plan in [space.plan(space.default) for space in SPACES] else 1.2e-5


class Computed:
    """A place whose costs are those of a formula, and noise. fails_after: measurements."""

    def __init__(self, cost: Any, noise: float = 0.0, fails_after: int | None = None) -> None:
        self.cost, self.noise, self.fails_after = cost, noise, fails_after
        self.random, self.models, self.closed = Random(0), 0, False

    @property
    def digest(self) -> str:
        return "net"

    def measure(self, models: Sequence[Mapping[str, Mapping[str, Any]]], turns: int) -> Sequence[Turn]:
        if self.fails_after is not None and self.models >= self.fails_after:
            raise PlaceError("it ended by SIGSEGV")
        self.models += len(models)
        return [[self._costs(model) for model in models] for _ in range(turns)]

    def _costs(self, model: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for space in SPACES:
            choice = Choice.of_json(model[space.subject]) if space.subject in model else space.default
            cost = self.cost(space.plan(choice)) * self.random.uniform(1, 1 + self.noise)
            found.append((space.subject, cost + self.behind(found, model)))
        return found

    def behind(self, before: Sequence[tuple[str, float]], model: Mapping[str, Any]) -> float:
        """What the steps before add to one."""
        return 0.0

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_model_decides(tmp_path: Path, noise: float) -> None:
    place = Computed(elsewhere, noise)
    tuned = tuner(tmp_path, Computing(), None, place=place)
    list(tuned.run())
    finalists = [sorted(k.measured, key=lambda c: k.measured[c])[:8] for k in tuned.kernels]
    rounds = list(tuned.refine())
    assert rounds and rounds[-1].gain > 0
    ratios = [ratio for _, ratio in tuned.conclude()]
    found = Tuned.of(tmp_path, [MACHINE], None, pytest.fail)
    for form, space, best, ratio in zip(FORMS, SPACES, finalists, ratios, strict=True):
        chosen, before = elsewhere(found.plan(form, MACHINE)), elsewhere(space.plan(space.default))
        assert ratio == pytest.approx(chosen / before, rel=max(noise, 1e-9))
        assert chosen <= min(elsewhere(space.plan(choice)) for choice in best) * (1 + noise)


def test_what_is_no_better_in_the_model_is_not_chosen(tmp_path: Path) -> None:
    tuned = tuner(tmp_path, Computing(), 60, place=Computed(as_default, 0.02))
    list(tuned.run())
    assert any(
        formula(s.plan(min(k.measured, key=lambda c: k.measured[c]))) < formula(s.plan(s.default))
        for s, k in zip(SPACES, tuned.kernels, strict=True)
    )
    list(tuned.refine())
    assert [ratio for _, ratio in tuned.conclude()] == [1.0, 1.0]


class Trampled(Computed):
    """What is best for the first kernel costs the second one more than it saves."""

    def behind(self, before: Sequence[tuple[str, float]], model: Mapping[str, Any]) -> float:
        first = SPACES[0]
        if not before or first.subject not in model:
            return 0.0
        usual = formula(first.plan(first.default))
        return 2 * usual if before[0][1] < 0.9 * usual else 0.0


def test_a_choice_that_costs_the_next_step_more_than_it_saves_is_given_up(tmp_path: Path) -> None:
    tuned = tuner(tmp_path, Computing(), 60, place=Trampled(formula))
    list(tuned.run())
    usual = formula(SPACES[0].default_plan)
    assert any(cost < 0.9 * usual for cost in tuned.kernels[0].measured.values())
    list(tuned.refine())
    (_, ratio), _ = tuned.conclude()
    assert 0.9 <= ratio <= 1


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30))
def test_kernels_that_are_changed_at_once_share_no_step(order: list[str]) -> None:
    windows = Windows(tuple(order))
    groups = windows.apart(sorted(set(order)))
    assert sorted(name for group in groups for name in group) == sorted(set(order))
    for group in groups:
        steps = [step for name in group for step in windows.of(name)]
        assert len(steps) == len(set(steps))
        assert all(order.index(name) in windows.of(name) for name in group)


def test_new_choices_are_measured_alone_first(tmp_path: Path) -> None:
    device = Computing()
    tuned = tuner(tmp_path, device, None, place=Computed(elsewhere))
    list(tuned.run())
    before = len(device.measured)
    list(tuned.refine())
    assert len(device.measured) > before
    placed = [r for r in read(tuned.path, pytest.fail) if r.place]
    alone = {(r.subject, str(r.choice)) for r in read(tuned.path, pytest.fail) if r.is_alone}
    assert placed and {(r.subject, str(r.choice)) for r in placed} <= alone


def test_the_time_that_is_given_is_used(tmp_path: Path) -> None:
    """Searches that expect nothing go on until the comparison at the end; one whose choices are all known
    holds nobody up."""
    tuned = tuner(tmp_path, Computing(), None, place=Computed(elsewhere))
    list(tuned.run())
    list(tuned.refine())
    assert tuned.refinement is not None and tuned.refinement.kernels
    assert any(kernel.search.expect() <= 0 for kernel in tuned.refinement.kernels)
    assert tuned.budget.seconds is not None and tuned.elapsed > 0.7 * tuned.budget.seconds


def test_a_given_number_of_trials_is_kept(tmp_path: Path) -> None:
    device = Computing()
    tuned = tuner(tmp_path, device, 40, place=Computed(elsewhere))
    list(tuned.run())
    list(tuned.refine())
    assert len(device.measured) == 40


def test_without_a_budget_kernels_get_no_more_trials_than_each_may_have(tmp_path: Path) -> None:
    device = Computing()
    subjects: list[Any] = [(f"k{i}", space, 1) for i, space in enumerate(SPACES)]
    tuned = Tuner(subjects, device, tmp_path, place=Computed(elsewhere))
    list(tuned.run())
    alone = len(device.measured)
    assert list(tuned.refine())
    assert len(device.measured) == alone


def test_an_interrupted_refinement_goes_on(tmp_path: Path) -> None:
    first = tuner(tmp_path, Computing(), 60, place=Computed(elsewhere))
    list(first.run())
    next(first.refine())
    known = [r for r in read(first.path, pytest.fail) if r.place]
    again = tuner(tmp_path, Computing(), 60, place=Computed(elsewhere))
    list(again.run())
    list(again.refine())
    assert again.refinement is not None
    for kernel, placed in zip(again.kernels, again.refinement.kernels, strict=True):
        old = [r for r in known if r.subject == kernel.subject.subject]
        assert all(kernel.subject.choice_of(r.choice) in {*placed.seen, placed.default} for r in old)
    list(again.conclude())
    done = Computed(elsewhere)
    last = tuner(tmp_path, Computing(), 60, place=done)
    assert list(last.run()) == list(last.refine()) == [] and done.models == 0


def test_what_an_earlier_run_found_in_the_model_is_kept(tmp_path: Path) -> None:
    first = tuner(tmp_path, Computing(), 60, place=Computed(formula))
    list(first.run())
    list(first.refine())
    again = tuner(tmp_path, Computing(), 60, place=Computed(formula))
    list(again.run())
    assert list(again.refine()) == []
    assert all(ratio < 1 for _, ratio in again.conclude())


@pytest.mark.parametrize("fails_after", [0, 6])
def test_where_the_model_cannot_be_run_kernels_are_compared_alone(tmp_path: Path, fails_after: int) -> None:
    told: list[str] = []
    tuned = tuner(tmp_path, Computing(), 60, place=Computed(elsewhere, fails_after=fails_after))
    tuned.warn = told.append
    list(tuned.run())
    list(tuned.refine())
    verdicts = list(tuned.conclude())
    assert all(ratio < 1 for _, ratio in verdicts)
    assert told == ["kernels are compared alone, since the model could not be run: it ended by SIGSEGV"]
    found = Tuned.of(tmp_path, [MACHINE], None, pytest.fail)
    assert all(
        formula(found.plan(f, MACHINE)) < formula(s.plan(s.default))
        for f, s in zip(FORMS, SPACES, strict=True)
    )


def test_withdrawn_verdicts_leave_the_defaults(tmp_path: Path) -> None:
    place = Computed(elsewhere)
    tuned = tuner(tmp_path, Computing(), 60, place=place)
    list(tuned.run())
    list(tuned.refine())
    verdicts = list(tuned.conclude())
    assert any(ratio < 1 for _, ratio in verdicts)
    tuned.withdraw()
    tuned.close()
    found = Tuned.of(tmp_path, [MACHINE], None, pytest.fail)
    assert [found.plan(f, MACHINE) for f in FORMS] == [s.plan(s.default) for s in SPACES]
    assert place.closed
