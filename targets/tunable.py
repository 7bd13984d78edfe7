"""What `bitloom tune` asks of a target: what is tuned, and the device that measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from compiler.ir.diagnostics import BitloomError

if TYPE_CHECKING:
    from compiler.driver import TakesRecords, Target
    from compiler.ir.graph import Graph
    from compiler.lowering.cache import Cache
    from compiler.lowering.kernel import KernelPlan
    from schedules.tuning.measure import Device
    from schedules.tuning.tuned import Tuned
    from schedules.tuning.tuner import Subject

    # Its name, what is tuned, and how often the graph runs it.
    NamedSubject = tuple[str, Subject[Any], int]


class NotTimedError(BitloomError):
    """Whole models are not timed where their kernels were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where candidates are measured: on this computer, or on boards.

    boards: their names, as `targets.measuring.choosing` takes them; none: this computer. tracker: HOST:PORT
    that knows the boards of a key. runner: of this computer, as `bitloom.load` takes it; None: the target's
    usual one. threads: that share a kernel. pause_seconds: a board rests so long behind each candidate.
    patience_seconds: a board that is lost is tried again so long.
    """

    boards: tuple[str, ...] = ()
    tracker: str | None = None
    runner: str | None = None
    threads: int = 1
    pause_seconds: float = 0.0
    patience_seconds: float = 60.0

    @property
    def is_here(self) -> bool:
        return not self.boards


@runtime_checkable
class Tunable(Protocol):
    """A target whose programs are made faster by measuring what can be chosen for them."""

    def with_records(self, folder: Path, warn: Callable[[str], None], *, packed: bool = False) -> Target:
        """See `compiler.driver.TakesRecords`."""
        ...

    def check_place(self, place: Place) -> None:
        """Refuses what can be found out at once, without a model. Errors: BitloomError."""
        ...

    def subjects(self, graph: Graph) -> list[NamedSubject]:
        """What there is to choose in a quantized graph."""
        ...

    def device(self, graph: Graph, place: Place) -> Device[Any]:
        """Measures the candidates of the graph's subjects. Errors: BitloomError."""
        ...

    def runner(self, place: Place) -> str:
        """The runner, as `bitloom.load` takes it, that times whole models there. Errors: NotTimedError."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """A target that plans by given choices. subjects: of the kernels in its libraries, by their symbols."""

    target: Target
    subjects: Mapping[str, str]


@runtime_checkable
class TunableInModel(Protocol):
    """A tunable target whose libraries are timed step by step where `runner` says, so that its choices can be
    compared in the model itself."""

    def with_choices(
        self, subjects: Sequence[Subject[Any]], choices: Mapping[str, Mapping[str, Any]]
    ) -> Chosen:
        """choices: in JSON, by subject; what is not named is the default's."""
        ...


@runtime_checkable
class KeepsObjects(Protocol):
    """A device that keeps the object files of its candidates, from which libraries are linked quickly."""

    @property
    def objects(self) -> Cache:
        """Until the device is closed."""
        ...


def tuning_facts(tuned: Tuned | None, plans: Sequence[KernelPlan]) -> dict[str, Any]:
    """For the manifest: how many kernels records decide about, how many of them keep narrow weights as bytes,
    and whose records."""
    found = [(plan, tuned.known(plan)) for plan in plans] if tuned is not None else []
    known = [(plan, form) for plan, form in found if form is not None]
    widened = sum(plan.form != form for plan, form in known)
    devices = list(tuned.devices) if tuned is not None and known else []
    return {"kernels": len(plans), "tuned": len(known), "widened": widened, "devices": devices}


if TYPE_CHECKING:

    class TunableTarget(Target, TakesRecords, Tunable, Protocol):
        """All that the tuner uses of a target."""
