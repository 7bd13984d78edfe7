"""What records of similar kernels and of other devices say about a kernel that has none, or few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.tuning.cost_model import Samples
from schedules.tuning.measure import Outcome
from schedules.tuning.records import Record
from schedules.tuning.space import Choice, FormSpace, distance

if TYPE_CHECKING:
    from schedules.tuning.tuner import Subject

# Subjects further away than this (in powers of two over all extents) are another kind of work.
_FARTHEST = 8.0
_SUBJECTS, _ROWS, _HINTS = 6, 40, 6


@dataclass(frozen=True, slots=True)
class Transfer:
    """hints: legal choices, the best of the most similar first. samples: for the cost model."""

    hints: list[Any]
    samples: Samples | None

    @staticmethod
    def of(subject: Subject[Any], own: Sequence[Record], siblings: Sequence[Record]) -> Transfer:
        """own: of the same device, where other kernels count; siblings: of other devices, where this does."""
        if not isinstance(subject, FormSpace):
            return Transfer([], None)
        groups = _similar(subject, own, siblings)
        hints: dict[Any, None] = {}
        parts: list[Samples] = []
        for group in groups:
            space = _space_of(group[0], subject)
            choices = [(c, r) for r in group if space is not None and (c := _choice(space, r))]
            choices.sort(key=lambda pair: pair[1].cost or np.inf)
            for choice, _ in choices[:2]:
                carried = choice if space == subject else subject.adapted(choice)
                if carried is not None and subject.is_legal(carried):
                    hints[carried] = None
            if len(choices) > 1 and space is not None:
                costs = [np.inf if r.cost is None else r.cost for _, r in choices[:_ROWS]]
                parts.append(Samples.of([space.features(c) for c, _ in choices[:_ROWS]], costs))
        if not parts:
            return Transfer(list(hints)[:_HINTS], None)
        features = np.concatenate([part.features for part in parts])
        costs = np.concatenate([part.costs for part in parts])
        return Transfer(list(hints)[:_HINTS], Samples(features, costs))


def _similar(space: FormSpace[Any], own: Sequence[Record], siblings: Sequence[Record]) -> list[list[Record]]:
    """Measurements of one subject on one device each, the most similar first."""
    wanted = space.describe()
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in (*(r for r in own if r.subject != space.subject), *siblings):
        known = record.outcome not in (Outcome.LOST, Outcome.NOT_BUILT) and record.is_alone
        if known and record.form.get("kind") == wanted["kind"]:
            groups.setdefault((record.fingerprint, record.subject), []).append(record)
    near = {key: distance(wanted["numbers"], group[0].form["numbers"]) for key, group in groups.items()}
    order = sorted((d, key) for key, d in near.items() if d <= _FARTHEST)
    return [groups[key] for _, key in order[:_SUBJECTS]]


def _space_of(record: Record, like: FormSpace[Any]) -> FormSpace[Any] | None:
    """The space of a record's form, seen by the machine at hand; None for another loop form."""
    fields: Mapping[str, Any] | None = record.form.get("form")
    if fields is None:
        same = record.form == like.describe()
        return like if same else None
    return replace(like, form=form_of(fields))


def form_of(fields: Mapping[str, Any]) -> Convolution:
    """A convolution as records describe it."""
    typed: dict[str, Any] = dict(fields)
    for name in ("input", "weight", "output"):
        typed[name] = ElementType(fields[name])
    for name in ("stride", "dilation", "pad"):
        typed[name] = tuple(fields[name])
    return Convolution(**typed)


def _choice(space: FormSpace[Any], record: Record) -> Choice | None:
    return space.choice_of(record.choice)
