"""A process that runs candidates: `python -m targets.measuring.runner FOLDER CPU THREADS`. See `child`.

Each kernel is run once and its result compared with what the form says, then timed. Weights come from behind
the first caches, as in a model where other layers have run since: calls take copies of them by turns.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from compiler.lowering.kernel import KernelPlan, cpu_of
from schedules.machines import host_features
from targets.measuring.arguments import Arguments
from targets.measuring.child import own_answers, receive, send
from targets.measuring.examples import Examples
from targets.measuring.jobs import Prepare, Run
from targets.measuring.timing import steady_seconds


class _Runner:
    def __init__(self, folder: Path, threads: int) -> None:
        self.threads = threads
        self.examples = Examples(folder)
        self.libraries: dict[Path, ctypes.CDLL] = {}

    def arguments(self, plan: KernelPlan) -> Arguments:
        return Arguments(plan, self.examples.of(plan.form), 2 * cpu_of(plan).l2_bytes)

    def function(self, run: Run) -> Callable[..., int]:
        if run.library not in self.libraries:
            self.libraries = {run.library: ctypes.CDLL(str(run.library))}
        return getattr(self.libraries[run.library], run.plan.symbol)

    def ranges(self, tiles: int) -> list[tuple[int, int]]:
        """Equal ranges of tiles, one for each thread."""
        ends = [tiles * i // self.threads for i in range(self.threads + 1)]
        return [(a, b) for a, b in pairwise(ends) if a < b]


def checked(function: Callable[..., int], arguments: Arguments, tiles: int) -> str | None:
    """Runs all tiles, the last half first. What is wrong with the result; None where nothing is."""
    for begin, end in ((tiles // 2, tiles), (0, tiles // 2)):
        status = function(*arguments.pointers[0], ctypes.c_int32(begin), ctypes.c_int32(end))
        if status != 0:
            return f"it reported failure {status}"
    return arguments.difference()


def timed(function: Callable[..., int], arguments: Arguments, tiles: tuple[int, int]) -> tuple[float, float]:
    """See `steady_seconds`."""
    begin, end = map(ctypes.c_int32, tiles)
    calls = cycle([(*pointers, begin, end) for pointers in arguments.pointers])
    return steady_seconds(lambda batch: _seconds(function, calls, batch))


def _seconds(function: Callable[..., int], calls: Iterator[tuple[Any, ...]], batch: int) -> float:
    """Of a call, in a batch that goes on through the copies of the constants."""
    start = time.perf_counter_ns()
    for _ in range(batch):
        function(*next(calls))
    return max(1, time.perf_counter_ns() - start) / batch * 1e-9


def main() -> None:
    """Answers messages from standard input until that ends."""
    runner = _Runner(Path(sys.argv[1]), int(sys.argv[3]))
    answers = own_answers()
    host_features()  # asks the system for tile registers, for this process
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[2])})
    while True:
        try:
            message = receive(sys.stdin.buffer)
        except EOFError:
            return
        if isinstance(message, Prepare):
            send(answers, runner.examples.prepare(message))
            continue
        assert isinstance(message, Run)
        arguments = runner.arguments(message.plan)
        function = runner.function(message)
        wrong = checked(function, arguments, message.plan.tiles)
        send(answers, wrong)
        if wrong is None:
            times = [timed(function, arguments, part) for part in runner.ranges(message.plan.tiles)]
            send(answers, max(times))


if __name__ == "__main__":
    main()
