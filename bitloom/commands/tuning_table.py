"""What `bitloom tune` shows while it measures: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from schedules.tuning.allocate import Progress
    from schedules.tuning.measure import Unit
    from schedules.tuning.tuner import Tuner

_SHOWN_KERNELS = 16
_SECONDS_BETWEEN_LINES = 5.0


class ShowsTuning(Protocol):
    """Told of each trial: whose it was, and which stage is under way."""

    def __call__(self, tuner: Tuner, last: Progress | None, stage: str, /) -> None: ...


@contextmanager
def shown_tuning(quiet: bool) -> Generator[ShowsTuning]:
    """A function to call after each trial."""
    if quiet:
        yield lambda _tuner, _last, _stage: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _plain()


def status(tuner: Tuner, stage: str) -> str:
    """`measure: 120 trials, 3.1 % gained, about 1.2 % to gain, 64 s`."""
    from schedules.tuning.allocate import expected_gain, saved

    kernels = [kernel.progress for kernel in tuner.kernels]
    before, after = saved(kernels)
    gained = 1 - after / before if before else 0.0
    left = tuner.remaining_seconds
    return (
        f"{stage}: {tuner.trials} trials, {gained:.1%} gained, about {expected_gain(kernels):.1%} to gain, "
        f"{tuner.elapsed:.0f} s" + ("" if left is None else f", about {left:.0f} s left")
    )


def _plain() -> ShowsTuning:
    last = -_SECONDS_BETWEEN_LINES

    def show(tuner: Tuner, _kernel: Progress | None, stage: str, /) -> None:
        nonlocal last
        if tuner.elapsed - last >= _SECONDS_BETWEEN_LINES:
            last = tuner.elapsed
            print(status(tuner, stage), file=sys.stderr, flush=True)

    return show


@contextmanager
def _live() -> Generator[ShowsTuning]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:

        def show(tuner: Tuner, last: Progress | None, stage: str, /) -> None:
            shown = Table(box=None, pad_edge=False)
            unit = tuner.device.unit
            for column in columns(unit):
                shown.add_column(column, justify="left" if column == "kernel" else "right")
            rows = ranked([kernel.progress for kernel in tuner.kernels])
            for progress in rows[:_SHOWN_KERNELS]:
                shown.add_row(*cells(progress, unit), style="bold" if progress is last else "")
            more = len(rows) - _SHOWN_KERNELS
            parts = [shown, f"and {more} more" if more > 0 else "", status(tuner, stage)]
            live.update(Group(*(p for p in parts if p)))

        yield show


def columns(unit: Unit) -> Sequence[str]:
    """The table's heads."""
    default = f"default, {unit.value}" if unit.is_exact else "default"
    return "kernel", "runs", "trials", default, "best", "gain", "to gain"


def ranked(kernels: Iterable[Progress]) -> list[Progress]:
    """Those that take most of the model's time first."""
    return sorted(kernels, key=lambda k: -k.count * k.best if k.trials else 0.0)


def cells(progress: Progress, unit: Unit) -> Sequence[str]:
    """A row of the table."""
    return (
        progress.name,
        str(progress.count),
        str(progress.trials),
        unit.text(progress.default),
        unit.text(progress.best),
        f"{progress.gain:.1%}",
        f"{progress.remaining:.1%}",
    )
