"""Kernels planned by the records of a device, where it has any; by the analytic model elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compiler.loops.form import Convolution, Form
from compiler.lowering.kernel import KernelPlan, Machine, structural_digest
from compiler.numerics.element import ElementType
from schedules.tuning import networks, threads
from schedules.tuning.mali_space import space_of
from schedules.tuning.measure import Outcome, Unit
from schedules.tuning.records import Record, Warn, databases, read
from schedules.tuning.space import is_widened, key_of

_NARROW = (ElementType.I4, ElementType.I2, ElementType.B1)
# A choice that was never compared by turns has to be faster than the default by this share.
_MARGIN = 0.05


@dataclass(frozen=True)
class Tuned:
    """choices: of subjects, as in records; devices: whose records they are. threads: of models, where they
    are known (`schedules.tuning.threads`)."""

    choices: Mapping[str, Mapping[str, Any]]
    devices: tuple[str, ...] = ()
    threads: Mapping[str, int] = field(default_factory=dict[str, int])

    @staticmethod
    def of(
        folder: Path,
        machines: Iterable[Machine],
        here: str | None,
        warn: Warn,
        stands_in: Callable[[str], bool] = lambda _device: False,
        *,
        packed: bool = False,
    ) -> Tuned:
        """From all databases of a folder. here: the fingerprint of this computer, whose records come first
        for its own machine; then those of real devices, and of the device that has most. stands_in: whether a
        device is another than those that the machines describe. packed: narrow weights are kept packed,
        whatever was faster."""
        names = {machine.name for machine in machines}
        by_device: dict[str, list[Record]] = {}
        for path in databases(folder):
            for record in read(path, warn):
                if record.machine in names and is_current(record):
                    by_device.setdefault(record.fingerprint, []).append(record)
        counted = {d: records[0].unit is Unit.INSTRUCTIONS for d, records in by_device.items()}
        order = sorted(
            by_device, key=lambda d: (d != here, counted[d] or stands_in(d), -len(by_device[d]), d)
        )
        choices: dict[str, Mapping[str, Any]] = {}
        counts: dict[str, int] = {}
        used: list[str] = []
        for device in order:
            records = [r for r in by_device[device] if not (packed and is_widened(r.choice))]
            new = {s: c for s, c in _chosen(records).items() if s not in choices}
            choices.update(new)
            used += [device] if new else []
            counts = _threads(by_device[device]) | counts
        return Tuned(choices, tuple(used), counts)

    @cached_property
    def digest(self) -> str:
        """Names the choices: equal ones make equal libraries."""
        return structural_digest(json.dumps([self.choices, self.threads], sort_keys=True))

    def __hash__(self) -> int:
        return hash(self.digest)

    def plan(self, form: Form, machine: Machine) -> KernelPlan:
        """The recorded choice, where there is one that is still legal. Errors: ValueError where the machine
        does not take the form."""
        plan = self._recorded(form, machine)
        return space_of(form, machine).default_plan if plan is None else plan

    def known(self, plan: KernelPlan) -> Form | None:
        """The form for which records chose a plan: its own, or one whose narrow weights it keeps as bytes."""
        forms = [plan.form]
        if isinstance(plan.form, Convolution):
            forms += [replace(plan.form, weight=element) for element in _NARROW]
        return next((f for f in forms if self._recorded(f, plan.machine) == plan), None)

    def _recorded(self, form: Form, machine: Machine) -> KernelPlan | None:
        space = space_of(form, machine)
        record = self.choices.get(space.subject)
        choice = None if record is None else space.choice_of(record)
        return None if choice is None else space.plan(choice)


def is_current(record: Record) -> bool:
    """Whether a record's template is as it was."""
    try:
        match record.choice["template"]:
            case threads.TEMPLATE:
                return record.key == threads.key_of(record.subject)
            case networks.TEMPLATE:
                return record.key == networks.key_of(record.subject, networks.version())
            case template:
                return record.key == key_of(record.subject, template)
    except KeyError:
        return False


def _threads(records: Iterable[Record]) -> dict[str, int]:
    """Of each model, the last that was found."""
    found = {r.subject: threads.threads_of(r) for r in sorted(records, key=lambda r: r.date)}
    return {subject: count for subject, count in found.items() if count is not None}


def _chosen(records: Iterable[Record]) -> dict[str, Mapping[str, Any]]:
    """By subject: the last verdict, else the best measurement where it is clearly faster than the first one,
    which is the default's."""
    verdicts: dict[str, Record] = {}
    firsts: dict[str, Record] = {}
    bests: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.date):
        is_kernel = record.choice["template"] != threads.TEMPLATE
        if record.outcome is not Outcome.MEASURED or record.cost is None or not is_kernel:
            continue
        if record.verdict is not None:
            verdicts[record.subject] = record
            continue
        if not record.is_alone:
            continue
        firsts.setdefault(record.subject, record)
        best = bests.setdefault(record.subject, record)
        if record.cost < (best.cost or 0.0):
            bests[record.subject] = record
    clear = {s: b for s, b in bests.items() if (b.cost or 0.0) < (firsts[s].cost or 0.0) * (1 - _MARGIN)}
    return {subject: record.choice for subject, record in {**clear, **verdicts}.items()}
