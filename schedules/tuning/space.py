"""What can be chosen for a kernel: a template that takes its form, and a legal configuration of it.

These are spaces of our own and no MetaSchedule ones: templates emit configured TIR directly, so that a
configuration is all that a schedule needs for being written down and made again (docs/decisions.md).
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, product, zip_longest
from random import Random
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from compiler.loops.form import Convolution, Form, Role
from compiler.loops.nest import span_of
from compiler.lowering.kernel import KernelConfig, KernelPlan, Machine, structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from schedules.cpu import plan_kernel
from schedules.tuning.contractions import AmxTemplate, BinaryTemplate, ConvolutionTemplate
from schedules.tuning.mali_templates import MALI_TEMPLATES
from schedules.tuning.shares import evenness
from schedules.tuning.templates import (
    DepthwiseTemplate,
    LoopsTemplate,
    SumsTemplate,
    Template,
    WinogradTemplate,
)
from schedules.tuning.versions import source_version

TEMPLATES: tuple[Template[CpuMachine], ...] = (
    ConvolutionTemplate(),
    AmxTemplate(),
    WinogradTemplate(),
    DepthwiseTemplate(),
    BinaryTemplate(),
    LoopsTemplate(),
    SumsTemplate(),
)
# Of all families, as records name them.
_BY_NAME: Mapping[str, Template[Any]] = {t.name: t for t in (*TEMPLATES, *MALI_TEMPLATES)}

ChoiceT = TypeVar("ChoiceT")
MachineT = TypeVar("MachineT", bound=Machine)


class Space(Protocol[ChoiceT]):
    """What a search walks. Choices are values: equal ones are the same candidate."""

    @property
    def default(self) -> ChoiceT: ...

    def ordered(self) -> Iterator[ChoiceT]:
        """Legal choices, the most promising by an analytic model first; the default is among the first."""
        ...

    def neighbours(self, choice: ChoiceT) -> list[ChoiceT]:
        """Legal choices that differ in one decision."""
        ...

    def drawn(self, random: Random) -> ChoiceT:
        """A legal choice at random."""
        ...

    def features(self, choice: ChoiceT) -> Array:
        """float32, of the same length for every choice of every space that shares a cost model."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """template: its name. widened: whether weights of fewer bits are kept as bytes, which takes more memory
    and saves their unpacking."""

    template: str
    config: KernelConfig
    widened: bool = False

    def as_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = dataclasses.asdict(self.config)  # type: ignore[call-overload]
        choice = {"template": self.template, "version": version_of(self.template), "config": fields}
        return {**choice, "widened": True} if self.widened else choice

    @staticmethod
    def of_json(record: Mapping[str, Any]) -> Choice:
        """Errors: ValueError for an unknown template, another version of it, and fields that it lacks."""
        template = _BY_NAME.get(record.get("template", ""))
        if template is None:
            raise ValueError(f"unknown template {record.get('template')!r}; known: {', '.join(_BY_NAME)}")
        if record.get("version") != version_of(template.name):
            raise ValueError(f"template {template.name} has changed since")
        try:
            return Choice(template.name, template.config(**record["config"]), is_widened(record))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no configuration of {template.name}: {error}") from None


def is_widened(record: Mapping[str, Any]) -> bool:
    """Of a choice in JSON."""
    return record.get("widened", False) is True


def widened(form: Form) -> Form | None:
    """The form whose kernels keep narrow weights as bytes; None where they are not narrow, or activations
    are bits, which are counted together."""
    if not isinstance(form, Convolution) or form.weight.bits >= 8 or form.input.bits < 8:
        return None
    return replace(form, weight=ElementType.I8)


def version_of(template: str) -> str:
    """Digest of the sources of a template."""
    return source_version(_BY_NAME[template].module)


def choice_of(plan: KernelPlan) -> Choice:
    """The choice behind a plan. Errors: ValueError for a plan of another template than those known."""
    module = type(plan).__module__
    for template in _BY_NAME.values():
        if template.module == module and isinstance(plan.config, template.config):
            return Choice(template.name, plan.config)
    raise ValueError(f"{type(plan).__name__} is of no template that can be tuned")


# Draws that may fail in a row; most spaces have at least one legal draw in twenty.
_DRAWS = 400
# Neighbours of choices that use the cores clearly less evenly than the default are left out.
_UNEVENNESS = 0.05


@dataclass(frozen=True)
class FormSpace(ABC, Generic[MachineT]):
    """The choices for one form on one machine of a family."""

    form: Form
    machine: MachineT

    @property
    @abstractmethod
    def family(self) -> Sequence[Template[MachineT]]:
        """All templates for such machines."""
        ...

    @abstractmethod
    def planned(self, form: Form) -> KernelPlan:
        """By the analytic model. Errors: ValueError where the machine does not take the form."""
        ...

    @property
    @abstractmethod
    def feature_names(self) -> Sequence[str]: ...

    def check(self, plan: KernelPlan) -> None:
        """Errors: ValueError where a template's plan is no choice for another reason."""

    def more_features(self, plan: KernelPlan) -> Mapping[str, float]:
        return {}

    @property
    def subject(self) -> str:
        """Digest of form and machine."""
        return structural_digest(self.form, self.machine)

    @property
    def machine_name(self) -> str:
        return self.machine.name

    def key(self, choice: Choice) -> str:
        return key_of(self.subject, choice.template)

    def describe(self) -> dict[str, Any]:
        return describe_form(self.form)

    def candidate(self, choice: Choice) -> KernelPlan:
        return self.plan(choice)

    def choice_json(self, choice: Choice) -> dict[str, Any]:
        return choice.as_json()

    def choice_of(self, record: Mapping[str, Any]) -> Choice | None:
        """None where template or legality have changed since."""
        try:
            choice = Choice.of_json(record)
            self.plan(choice)
        except ValueError:
            return None
        return choice

    @cached_property
    def default_plan(self) -> KernelPlan:
        """See `planned`."""
        return self.planned(self.form)

    @cached_property
    def forms(self) -> Mapping[bool, Form]:
        """What kernels compute, by whether weights are widened."""
        wide = widened(self.form)
        return {False: self.form} if wide is None else {False: self.form, True: wide}

    @cached_property
    def templates(self) -> Sequence[tuple[bool, Template[MachineT]]]:
        """Those that take the form, by whether weights are widened."""
        pairs = product(self.forms.items(), self.family)
        return tuple((wide, t) for (wide, form), t in pairs if t.takes(form, self.machine))

    @property
    def default(self) -> Choice:
        return choice_of(self.default_plan)

    @cached_property
    def defaults(self) -> Sequence[Choice]:
        """By the analytic model: the default, and the one with widened weights."""
        wide = self.forms.get(True)
        found = None if wide is None else replace(choice_of(self.planned(wide)), widened=True)
        return [self.default] if found is None or not self.is_legal(found) else [self.default, found]

    def plan(self, choice: Choice) -> KernelPlan:
        """Errors: ValueError with the reason where the choice is not legal."""
        if choice == self.default:
            return self.default_plan
        template = _BY_NAME[choice.template]
        if (choice.widened, template) not in self.templates:
            raise ValueError(f"template {choice.template} does not take {self.form}")
        plan = template.plan(self.forms[choice.widened], self.machine, choice.config)
        self.check(plan)
        return plan

    def is_legal(self, choice: Choice) -> bool:
        try:
            self.plan(choice)
        except ValueError:
            return False
        return True

    def ordered(self) -> Iterator[Choice]:
        """The defaults, then the templates' lists by turns."""
        lists = [
            self._choices(t, wide, t.ordered(self.forms[wide], self.machine)) for wide, t in self.templates
        ]
        turns = (c for turn in zip_longest(*lists) for c in turn if c is not None)
        yield from dict.fromkeys(chain(self.defaults, turns))

    def neighbours(self, choice: Choice) -> list[Choice]:
        template, form = _BY_NAME[choice.template], self.forms[choice.widened]
        found = self._choices(template, choice.widened, template.variants(form, self.machine, choice.config))
        other = self._carried(choice, not choice.widened)
        return [c for c in dict.fromkeys(chain(found, [] if other is None else [other])) if c != choice]

    def drawn(self, random: Random) -> Choice:
        for _ in range(_DRAWS):
            wide, template = random.choice(self.templates)
            choice = Choice(template.name, template.drawn(self.forms[wide], self.machine, random), wide)
            if self.is_legal(choice):
                return choice
        return random.choice(list(islice(self.ordered(), 24)))

    def adapted(self, choice: Choice) -> Choice | None:
        """The choice for another form carried over to this one, where that is legal."""
        return self._carried(choice, choice.widened and True in self.forms)

    def _carried(self, choice: Choice, wide: bool) -> Choice | None:
        template = _BY_NAME[choice.template]
        if (wide, template) not in self.templates:
            return None
        config = template.adapted(self.forms[wide], self.machine, choice.config)
        found = Choice(choice.template, config, wide)
        return found if self.is_legal(found) else None

    def features(self, choice: Choice) -> Array:
        template, form = _BY_NAME[choice.template], self.forms[choice.widened]
        plan = self.plan(choice)
        fields: dict[str, Any] = dataclasses.asdict(choice.config)  # type: ignore[call-overload]
        known: dict[str, float] = {
            **{f"form.{name}": value for name, value in form_numbers(form).items()},
            **{name: float(value) for name, value in fields.items()},
            **template.features(form, self.machine, choice.config),
            "template": self.family.index(template),
            **self.more_features(plan),
        }
        return np.array([_scaled(name, known.get(name)) for name in self.feature_names], np.float32)

    def _choices(
        self, template: Template[MachineT], wide: bool, configs: Iterator[KernelConfig]
    ) -> Iterator[Choice]:
        choices = (Choice(template.name, config, wide) for config in configs)
        return (choice for choice in choices if self.is_legal(choice))


class KernelSpace(FormSpace[CpuMachine]):
    """On a CPU. Kernels are timed by one thread, and a choice of fewer shares would cost others their work:
    what is less even for two or four threads than the default is not legal."""

    @property
    def family(self) -> Sequence[Template[CpuMachine]]:
        return TEMPLATES

    @property
    def feature_names(self) -> Sequence[str]:
        return FEATURES

    def planned(self, form: Form) -> KernelPlan:
        return plan_kernel(form, self.machine)

    def check(self, plan: KernelPlan) -> None:
        default = self.planned(plan.form)
        for threads in (2, 4):
            if evenness(plan.tiles, threads) < evenness(default.tiles, threads) - _UNEVENNESS:
                raise ValueError(f"{plan.tiles} shares keep {threads} threads less busy than the default's")

    def more_features(self, plan: KernelPlan) -> Mapping[str, float]:
        return {"tiles": plan.tiles, "scratch": plan.scratch_bytes / self.machine.l2_bytes}


def key_of(subject: str, template: str) -> str:
    """Of records: what was tuned, and the template as it is now."""
    return structural_digest(subject, template, version_of(template))


_FORM_NUMBERS = (
    "batch",
    "height",
    "width",
    "inputs",
    "outputs",
    "taps",
    "bits",
    "stride",
    "elements",
    "work",
)
_DERIVED = (
    *("estimate", "sums", "ragged", "ragged_rows", "ragged_panels", "near", "near_weights", "panel_weights"),
    *("panels", "loads", "block", "template", "tiles", "scratch"),
)
_FIELDS = sorted({f.name for t in TEMPLATES for f in dataclasses.fields(t.config)})
FORM_FEATURES = tuple(f"form.{name}" for name in _FORM_NUMBERS)
FEATURES = (*FORM_FEATURES, *_FIELDS, *_DERIVED)
# Not sizes, whose ratios count, but shares and kinds.
_PLAIN = {"ragged", "ragged_rows", "ragged_panels", "template", "panels_inner", "overlaps", "prefetches"}


def _scaled(name: str, value: float | None) -> float:
    if value is None:
        return math.nan
    return value if name in _PLAIN else math.log2(max(value, 1e-6))


def form_numbers(form: Form) -> dict[str, float]:
    """Extents by which forms are compared."""
    if isinstance(form, Convolution):
        return {
            "batch": form.batch,
            "height": form.out_height,
            "width": form.out_width,
            "inputs": form.in_channels // form.groups,
            "outputs": form.out_channels,
            "taps": form.kernel_height * form.kernel_width,
            "bits": form.input.bits * form.weight.bits,
            "stride": form.stride[0],
        }
    moved = [b for b in form.operands if b.role is not Role.CONSTANT]
    work = sum(math.prod(a.extent for a in (*s.axes, *s.over)) for s in form.stages)
    return {"elements": sum(span_of(b) for b in moved), "work": work}


def describe_form(form: Form) -> dict[str, Any]:
    """A form for records: its kind, its extents, and for a convolution all of it."""
    if isinstance(form, Convolution):
        fields = {name: getattr(value, "value", value) for name, value in dataclasses.asdict(form).items()}
        return {"kind": "convolution", "numbers": form_numbers(form), "form": fields}
    return {"kind": form.name, "numbers": form_numbers(form)}


def distance(numbers: Mapping[str, float], others: Mapping[str, float]) -> float:
    """Of two forms' extents: the sum of how many times each is larger, in powers of two."""
    if numbers.keys() != others.keys():
        return math.inf
    return sum(abs(math.log2(max(numbers[n], 1) / max(others[n], 1))) for n in numbers)
