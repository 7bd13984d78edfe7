"""Progress on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.driver import Progress

_SECONDS_BETWEEN_LINES = 2.0
_FEWEST_TO_ESTIMATE = 3


@dataclass(slots=True)
class Stages:
    """Which stage is under way, and how long it may still take. done, total: 0 where nothing is counted."""

    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    stage: str = ""
    began: float = 0.0
    already: int = 0

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.started

    def enter(self, stage: str, done: int) -> bool:
        """Whether a new stage begins. What was done when it began (found in the cache) took no time."""
        if stage == self.stage:
            return False
        self.stage, self.began, self.already = stage, self.clock(), done
        return True

    def remaining(self, done: int, total: int) -> float | None:
        """Seconds left at the pace of this stage so far; None while that says little: workers take a while
        to start."""
        if done - self.already < _FEWEST_TO_ESTIMATE or done >= total:
            return None
        return (self.clock() - self.began) / (done - self.already) * (total - done)

    def text(self, done: int, total: int) -> str:
        """`build kernels 12/40, about 19 s left`."""
        count = f" {done}/{total}" if total else ""
        left = self.remaining(done, total)
        return f"{self.stage}{count}" + ("" if left is None else f", about {left:.0f} s left")


@contextmanager
def shown_progress(quiet: bool = False) -> Generator[Progress]:
    """A function to call with a stage's name and, where it is counted, how much is done of how much."""
    if quiet:
        from compiler.driver import no_progress

        yield no_progress
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _plain()


def _plain() -> Progress:
    stages, last = Stages(), -_SECONDS_BETWEEN_LINES

    def show(stage: str, done: int = 0, total: int = 0, /) -> None:
        nonlocal last
        new = stages.enter(stage, done)
        if new or done == total or stages.elapsed - last >= _SECONDS_BETWEEN_LINES:
            last = stages.elapsed
            print(f"[{last:5.1f} s] {stages.text(done, total)}", file=sys.stderr, flush=True)

    return show


@contextmanager
def _live() -> Generator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    stages = Stages()
    columns = (SpinnerColumn(), TimeElapsedColumn(), BarColumn(24), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int = 0, total: int = 0, /) -> None:
            stages.enter(stage, done)
            bar.update(task, description=stages.text(done, total), completed=done, total=total or None)

        yield show
