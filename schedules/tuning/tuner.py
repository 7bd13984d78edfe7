"""Tunes the kernels of a model on a device: rounds of trials, every one of them recorded as it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from schedules.tuning.allocate import Progress, next_kernel
from schedules.tuning.measure import Device, Measurement, Outcome
from schedules.tuning.records import Record, Warn, append, database_path, databases, read
from schedules.tuning.refine import Place, PlaceError, Refinement, Verdict
from schedules.tuning.search import EvolutionarySearch, Search
from schedules.tuning.space import Space
from schedules.tuning.transfer import Transfer

ChoiceT = TypeVar("ChoiceT")

_ROUND = 8
# Trials of a kernel after which its search ends, where neither --trials nor --time says how many.
TRIALS_EACH = 64
# The comparison at the end: so many of the best, so often by turns.
_FINALISTS, _TURNS = 5, 5
# A choice that is not faster than the default by this share is no better than it.
_TIE = 0.015
# Of the time that is given, what is over when kernels have been measured alone, and when the rest is for the
# comparison at the end.
_ALONE_SHARE, _REFINED_SHARE = 0.45, 0.85


class Subject(Space[ChoiceT], Protocol[ChoiceT]):
    """Something that is tuned and recorded: a kernel; choices of a whole graph are another
    (docs/tuning.md)."""

    @property
    def subject(self) -> str:
        """Digest of what it is."""
        ...

    @property
    def machine_name(self) -> str: ...

    def describe(self) -> Mapping[str, Any]:
        """`kind` and `numbers` by which similar subjects are found."""
        ...

    def key(self, choice: ChoiceT) -> str: ...
    def candidate(self, choice: ChoiceT) -> Any:
        """What a device measures."""
        ...

    def choice_json(self, choice: ChoiceT) -> dict[str, Any]: ...
    def choice_of(self, record: Mapping[str, Any]) -> ChoiceT | None:
        """None where the record's choice is no longer legal."""
        ...


@runtime_checkable
class SearchesItself(Protocol[ChoiceT]):
    """A subject whose choices are made of many, with a search that knows it."""

    def search(self, seed: int) -> LearnsParts[ChoiceT]: ...


class LearnsParts(Search[ChoiceT], Protocol[ChoiceT]):
    def learn_parts(self, choice: ChoiceT, parts: Sequence[float]) -> None:
        """parts: of the cost of a choice that `learn` was told of."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """trials: of all kernels together, those of earlier runs included. seconds: of this run. None: no limit;
    where both are, each kernel gets `TRIALS_EACH`."""

    trials: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class _Kernel:
    """placed: records of what choices cost in this model."""

    subject: Subject[Any]
    progress: Progress
    search: Search[Any]
    measured: dict[Any, float] = field(default_factory=dict[Any, float])
    placed: dict[Any, list[float]] = field(default_factory=dict[Any, list[float]])
    verdict: Record | None = None

    def learn(self, choice: Any, cost: float, parts: Sequence[float] = ()) -> None:
        self.search.learn(choice, cost)
        if parts and isinstance(self.subject, SearchesItself):
            cast(LearnsParts[Any], self.search).learn_parts(choice, parts)
        self.measured[choice] = min(cost, self.measured.get(choice, math.inf))
        if choice == self.subject.default:
            self.progress.default = cost
        self.progress.learn(cost)
        self.progress.expected = self.search.expect()


def _search(
    subject: Subject[Any], seed: int, own: Sequence[Record], siblings: Sequence[Record]
) -> Search[Any]:
    """own, siblings: records of this device and of others."""
    if isinstance(subject, SearchesItself):
        return subject.search(seed)
    transfer = Transfer.of(subject, own, siblings)
    return EvolutionarySearch(subject, seed, transfer.hints, transfer.samples)


class Tuner:
    """The kernels of a model, on one device, with its records in `folder`."""

    def __init__(
        self,
        subjects: Sequence[tuple[str, Subject[Any], int]],
        device: Device[Any],
        folder: Path,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        versions: Mapping[str, str] | None = None,
        place: Place | None = None,
        warn: Warn = lambda _text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """subjects: name, what is tuned, and how often the model runs it. place: the model itself, where the
        device can run it."""
        self.device, self.budget = device, budget or Budget()
        self._place, self._seed, self.warn = place, seed, warn
        self.refinement: Refinement | None = None
        self.path = database_path(folder, device.fingerprint)
        self._versions, self._clock, self._began = versions or {}, clock, clock()
        own = read(self.path, warn)
        siblings = [r for path in databases(folder) if path != self.path for r in read(path, warn)]
        self.kernels: list[_Kernel] = []
        for number, (name, subject, count) in enumerate(subjects):
            search = _search(subject, seed + number, own, siblings)
            self.kernels.append(_Kernel(subject, Progress(name, count), search))
        self._recall(own)
        self.recalled = self.trials

    @property
    def _digest(self) -> str:
        """Of the place; empty without one."""
        return "" if self._place is None else self._place.digest

    @property
    def trials(self) -> int:
        return sum(kernel.progress.trials for kernel in self.kernels)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def remaining_seconds(self) -> float | None:
        """Until the trials are over, by the budget and by the pace so far; None while that says nothing."""
        seconds, made = self.budget.seconds, self.trials - self.recalled
        if seconds is not None:
            return max(0.0, seconds - self.elapsed)
        if not made:
            return None
        wanted = self.budget.trials or TRIALS_EACH * len(self.kernels)
        return max(0.0, (wanted - self.trials) * self.elapsed / made)

    def _recall(self, records: Sequence[Record]) -> None:
        """Goes on where an earlier run has ended."""
        by_subject = {kernel.subject.subject: kernel for kernel in self.kernels}
        for record in records:
            kernel = by_subject.get(record.subject)
            if kernel is None or record.unit is not self.device.unit or record.outcome is Outcome.LOST:
                continue
            choice = kernel.subject.choice_of(record.choice)
            if choice is None:
                continue
            if record.verdict is not None:
                kernel.verdict = record if record.place == self._digest else None
            elif record.place:
                if record.place == self._digest and record.cost:
                    kernel.placed.setdefault(choice, []).append(record.cost)
                    kernel.verdict = None
            else:
                kernel.verdict = None
                kernel.learn(choice, math.inf if record.cost is None else record.cost, record.parts)

    def run(self) -> Iterator[Progress]:
        """Measures kernels alone until the budget is spent or nothing is to be gained; yields after each
        trial whose it was.

        Errors: OSError where records cannot be written, and what the device raises. What was recorded stays.
        """
        yield from self._measure_defaults()
        while (count := self._room()) > 0:
            chosen = next_kernel([kernel.progress for kernel in self.kernels])
            if chosen is None:
                return
            kernel = self.kernels[chosen]
            count = min(count, max(_ROUND, self.device.parallel))
            lost = kernel.subject.default not in kernel.measured
            proposed = [kernel.subject.default] if lost else kernel.search.propose(count)
            if not proposed:
                kernel.progress.spent = True
                continue
            yield from self._measure([(kernel, choice) for choice in proposed])
            kernel.progress.expected = kernel.search.expect()
            unlimited = self.budget.trials is None and self.budget.seconds is None
            spent = kernel.progress.expected <= 0 or (unlimited and kernel.progress.trials >= TRIALS_EACH)
            kernel.progress.spent = spent

    def _measure_defaults(self) -> Iterator[Progress]:
        """The default of every kernel: what it takes decides where trials go, and gains are against it."""
        new = [k for k in self.kernels if k.subject.default not in k.measured]
        batch = max(2 * _ROUND, self.device.parallel)
        while new and (room := self._room()) > 0:
            part, new = new[: min(batch, room)], new[min(batch, room) :]
            yield from self._measure([(kernel, kernel.subject.default) for kernel in part])

    def _room(self) -> int:
        """Trials that the budget has left."""
        seconds, trials = self.budget.seconds, self.budget.trials
        share = _REFINED_SHARE if self._place is None else _ALONE_SHARE
        if seconds is not None and self.elapsed >= seconds * share:
            return 0
        return _ROUND * 1000 if trials is None else trials - self.trials

    def _measure(self, trials: Sequence[tuple[_Kernel, Any]]) -> Iterator[Progress]:
        candidates = [kernel.subject.candidate(choice) for kernel, choice in trials]
        for index, measurement in self.device.measure(candidates):
            kernel, choice = trials[index]
            append(self.path, [self._record(kernel, choice, measurement)])
            if measurement.outcome is Outcome.LOST:
                kernel.search.forget(choice)
            else:
                kernel.learn(choice, measurement.cost, measurement.parts)
                kernel.verdict = None  # one of before did not know of this
            yield kernel.progress

    def refine(self) -> Iterator[Refinement]:
        """Goes on in the model, where there is one to run; yields after each round.

        Errors: OSError, and what the device raises. Where the model cannot be run, a warning says why.
        """
        if self._place is None or all(k.verdict is not None for k in self.kernels):
            return
        self.refinement = refinement = Refinement(
            self.kernels, self._place, self._check, self._keep, self._seed + len(self.kernels)
        )
        for kernel, placed in zip(self.kernels, refinement.kernels, strict=True):
            placed.recall(kernel.placed)
        began = self.elapsed
        # Without a time that is given there is a limit of trials, which new choices would pass.
        searching = self.budget.trials is None and self.budget.seconds is not None

        def may_go_on() -> bool:
            rounds, seconds = refinement.rounds, self.budget.seconds
            last = (self.elapsed - began) / rounds if rounds else 0.0
            return seconds is None or self.elapsed + last < seconds * _REFINED_SHARE

        try:
            for _ in refinement.run(searching, may_go_on):
                yield refinement
        except PlaceError as error:
            self._given_up(error)

    def _given_up(self, error: PlaceError) -> None:
        self.refinement = None
        self.warn(f"kernels are compared alone, since the model could not be run: {error}")

    def _check(self, wanted: Sequence[tuple[int, Any]]) -> None:
        for _ in self._measure([(self.kernels[index], choice) for index, choice in wanted]):
            pass

    def _keep(self, index: int, choice: Any, cost: float) -> None:
        record = self._record(self.kernels[index], choice, Measurement(Outcome.MEASURED, cost, 0.0))
        append(self.path, [replace(record, place=self._digest)])

    def _record(self, kernel: _Kernel, choice: Any, m: Measurement, verdict: float | None = None) -> Record:
        measured = m.outcome is Outcome.MEASURED
        subject = kernel.subject
        return Record(
            fingerprint=self.device.fingerprint,
            machine=subject.machine_name,
            subject=subject.subject,
            key=subject.key(choice),
            form=subject.describe(),
            choice=subject.choice_json(choice),
            unit=self.device.unit,
            outcome=m.outcome,
            cost=m.cost if measured else None,
            spread=m.spread if measured else None,
            date=datetime.now(UTC).isoformat(timespec="milliseconds"),
            versions=self._versions,
            said=m.said[:500],
            verdict=verdict,
            parts=m.parts,
        )

    def conclude(self) -> Iterator[tuple[Progress, float]]:
        """Compares the best of each kernel with its default by turns, where costs are not exact, and records
        which it shall be; yields each kernel with the cost of its choice over the default's, 1 where the
        default stays."""
        found = self._verdicts_in_place()
        for index, kernel in enumerate(self.kernels):
            if kernel.verdict is None and kernel.measured:
                kernel.verdict = self._placed(kernel, found[index]) if found else self._verdict(kernel)
                append(self.path, [kernel.verdict])
            if kernel.verdict is not None and kernel.verdict.verdict is not None:
                yield kernel.progress, kernel.verdict.verdict

    def _verdicts_in_place(self) -> Sequence[Verdict]:
        """None where the model was not run."""
        if self.refinement is None:
            return ()
        try:
            return self.refinement.conclude()
        except PlaceError as error:
            self._given_up(error)
            return ()

    def _placed(self, kernel: _Kernel, found: Verdict) -> Record:
        measurement = Measurement(Outcome.MEASURED, found.cost, found.spread)
        return replace(self._record(kernel, found.choice, measurement, found.ratio), place=self._digest)

    def close(self) -> None:
        """Ends what runs the model. The device is the caller's."""
        if self._place is not None:
            self._place.close()

    def withdraw(self) -> None:
        """The defaults shall stay, whatever was found: the model as a whole is not faster."""
        for kernel in self.kernels:
            if kernel.verdict is not None and kernel.verdict.verdict != 1.0:
                cost = kernel.measured.get(kernel.subject.default, math.inf)
                if math.isfinite(cost):
                    measurement = Measurement(Outcome.MEASURED, cost, 0.0)
                    kernel.verdict = self._record(kernel, kernel.subject.default, measurement, 1.0)
                    append(self.path, [kernel.verdict])

    def _verdict(self, kernel: _Kernel) -> Record:
        default, limit = kernel.subject.default, kernel.progress.default
        ranked = sorted(kernel.measured, key=lambda c: kernel.measured[c])
        if self.device.unit.is_exact and math.isfinite(limit):
            winner = default if kernel.measured[ranked[0]] == limit else ranked[0]
            cost = kernel.measured[winner]
            return self._record(kernel, winner, Measurement(Outcome.MEASURED, cost, 0.0), cost / limit)
        better = [c for c in ranked if c != default and kernel.measured[c] < limit * (1 - _TIE)]
        finalists = [default, *better[:_FINALISTS]]
        turns: list[dict[Any, Measurement]] = [{} for _ in range(_TURNS)]
        if len(finalists) > 1:
            candidates = [kernel.subject.candidate(c) for c in finalists]
            for index, measurement in self.device.measure(candidates * _TURNS):
                turns[index // len(finalists)][finalists[index % len(finalists)]] = measurement
        whole = [
            t for t in turns if len(t) == len(finalists) and all(math.isfinite(m.cost) for m in t.values())
        ]
        ratios = {c: median(t[c].cost / t[default].cost for t in whole) for c in finalists} if whole else {}
        winner = min(finalists, key=lambda c: ratios.get(c, 1.0))
        if ratios.get(winner, 1.0) > 1 - _TIE:
            winner = default
        measured = [t[winner] for t in whole]
        cost = median(m.cost for m in measured) if measured else kernel.measured.get(default, math.inf)
        spread = median(m.spread for m in measured) if measured else 0.0
        outcome = Outcome.MEASURED if math.isfinite(cost) else Outcome.NOT_BUILT
        ratio = 1.0 if winner == default else ratios[winner]
        return self._record(kernel, winner, Measurement(outcome, cost, spread), ratio)
