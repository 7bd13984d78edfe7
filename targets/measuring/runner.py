"""A process that runs candidates: `python -m targets.measuring.runner FOLDER CPU THREADS`. See `child`.

Each kernel is run once and its result compared with what the form says, then timed. Weights come from behind
the first caches, as in a model where other layers have run since: calls take copies of them by turns.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Form
from compiler.lowering.kernel import KernelPlan, cpu_of, structural_digest
from schedules.machines import host_features
from targets.measuring.arguments import Arguments
from targets.measuring.child import own_answers, receive, send
from targets.measuring.jobs import Prepare, Run
from targets.measuring.operands import Example, example_of

# Of one repetition, against the clock's own time; of all repetitions of a candidate.
_LEAST_SECONDS, _ALL_SECONDS = 20e-6, 25e-3
_LEAST_REPETITIONS, _MOST_REPETITIONS = 5, 60
# A repetition is the least of so many batches of calls: an interruption hits few of them.
_BATCHES = 3
# A spread above this share of the cost is measured again.
_CALM, _TRIES = 0.03, 3
# Forms whose examples stay in memory; those of the others are in files.
_MOST_EXAMPLES = 8


class _Runner:
    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.examples: dict[Form, Example] = {}
        self.libraries: dict[Path, ctypes.CDLL] = {}

    def prepare(self, wanted: Prepare) -> str | None:
        if wanted.form in self.examples:
            return None
        try:
            self.examples[wanted.form] = self._example(wanted)
        except (BitloomError, ValueError, IndexError, KeyError) as error:
            return f"no operands: {error}"
        while len(self.examples) > _MOST_EXAMPLES:
            del self.examples[next(iter(self.examples))]
        return None

    def _example(self, wanted: Prepare) -> Example:
        """What a form makes of its operands is kept for the process that follows a crash."""
        path = self.folder / f"{structural_digest(wanted.form)}.example"
        if path.exists():
            return pickle.loads(path.read_bytes())
        example = example_of(wanted.form, wanted.constants)
        partial = path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(example))
        partial.replace(path)
        return example

    def arguments(self, plan: KernelPlan) -> Arguments:
        return Arguments(plan, self.examples[plan.form], 2 * cpu_of(plan).l2_bytes)

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
    """Seconds of a call: the median of the repetitions, and half the distance of their quartiles."""
    begin, end = map(ctypes.c_int32, tiles)
    calls = cycle([(*pointers, begin, end) for pointers in arguments.pointers])
    once = min(_seconds(function, calls, 1) for _ in range(3))
    batch = max(1, round(_LEAST_SECONDS / once))
    wanted = int(_ALL_SECONDS / (batch * once * _BATCHES))
    repetitions = max(_LEAST_REPETITIONS, min(_MOST_REPETITIONS, wanted))
    found: list[tuple[float, float]] = []
    for _ in range(_TRIES):
        times = [min(_seconds(function, calls, batch) for _ in range(_BATCHES)) for _ in range(repetitions)]
        quartiles = np.quantile(times, (0.25, 0.75))
        found.append((median(times), float(quartiles[1] - quartiles[0]) / 2))
        if found[-1][1] <= _CALM * found[-1][0]:
            break
    return min(found, key=lambda f: f[1] / f[0])


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
            send(answers, runner.prepare(message))
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
