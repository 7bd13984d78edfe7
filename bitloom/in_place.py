"""A model's kernels measured where they run: libraries of the whole model, timed step by step.

`python -m bitloom.in_place FOLDER THREADS` is the process that runs them on this computer, for `InPlace`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bitloom.loading import load
from bitloom.model import Model
from bitloom.verification import random_inputs
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.lowering.cache import Cache
from compiler.lowering.kernel import structural_digest
from compiler.numerics.element import Array
from schedules.tuning.refine import PlaceError, Steps, Turn
from schedules.tuning.tuner import Subject
from targets.measuring.child import Child, ChildError, close_all, own_answers, receive, send
from targets.tunable import TunableInModel

_NAME = "model"
_INPUTS = "inputs.npz"
_LOCAL = "local"
# A turn of one library: so long, but so many runs at least and at most, of which the fastest counts for each
# step. Longer where a connection has to be made for it.
_TURN_SECONDS, _REMOTE_TURN_SECONDS = 0.03, 0.3
_LEAST_RUNS, _MOST_RUNS = 3, 1000
_START_SECONDS, _SLOWEST = 60.0, 50.0
_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Job:
    """folders: of libraries; turns: how often each is run, one after the other."""

    folders: Sequence[Path]
    turns: int


class InPlace:
    """`Place` of a model. subjects: its kernels. runner: where it runs, as `load` takes it. objects: of
    kernels that are built."""

    def __init__(
        self,
        graph: Graph,
        target: TunableInModel,
        subjects: Sequence[Subject[Any]],
        runner: str,
        threads: int,
        objects: Cache,
    ) -> None:
        self._graph, self._target, self._subjects = graph, target, tuple(subjects)
        self._where, self._threads, self._objects = runner, threads, objects
        self._folder = Path(tempfile.mkdtemp(prefix="bitloom-tune-"))
        self._inputs = next(iter(random_inputs(graph, 1, 0)))
        np.savez(self._folder / _INPUTS, **dict[str, Any](self._inputs))
        self._runner: Child | None = None
        self._libraries = 0
        self._order: tuple[str, ...] = ()  # subjects of a run's steps; symbols where they are not tuned

    @property
    def digest(self) -> str:
        return structural_digest(sorted(each.subject for each in self._subjects), self._threads)

    def measure(self, models: Sequence[Mapping[str, Mapping[str, Any]]], turns: int) -> Sequence[Turn]:
        """See `Place`. Costs are seconds."""
        if self._order:
            return self._measured(models, turns)
        return [turn[1:] for turn in self._measured([{}, *models], turns)]

    def _measured(self, models: Sequence[Mapping[str, Mapping[str, Any]]], turns: int) -> Sequence[Turn]:
        # Never a path twice: the process would find the library that it has loaded from there before.
        folders = [self._folder / str(self._libraries + number) for number in range(len(models))]
        self._libraries += len(models)
        try:
            subjects = [self._emit(choices, out) for choices, out in zip(models, folders, strict=True)]
            found = self._run(Job(folders, turns))
        except BitloomError as error:
            raise PlaceError(error.message) from error
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        if not self._order:
            # Of the defaults: elsewhere two forms may have chosen the same kernel.
            self._order = tuple(subjects[0].get(symbol, symbol) for symbol, _ in found[0][0])
        return [[self._of_subjects(steps) for steps in turn] for turn in found]

    def _of_subjects(self, steps: Steps) -> Steps:
        return [(name, cost) for name, (_, cost) in zip(self._order, steps, strict=True)]

    def close(self) -> None:
        close_all([self._runner])
        self._runner = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _emit(self, choices: Mapping[str, Mapping[str, Any]], out: Path) -> dict[str, str]:
        """Writes the library. Returns the subjects of its kernels' symbols."""
        chosen = self._target.with_choices(self._subjects, choices)
        build = chosen.target.build(self._graph, _silent)
        build.emit(_NAME, out, {}, build.facts, self._objects, _silent)
        return dict(chosen.subjects)

    def _run(self, job: Job) -> list[list[Steps]]:
        """On this computer in a process of its own, which a kernel may end."""
        if self._where != _LOCAL:
            return profiled(job, self._inputs, self._threads, self._where)
        if self._runner is None or not self._runner.alive:
            arguments = (str(self._folder), str(self._threads))
            self._runner = Child("bitloom.in_place", *arguments, memory_bytes=_MEMORY_BYTES)
        try:
            return self._runner.ask(job, _START_SECONDS + _SLOWEST * len(job.folders))
        except ChildError as error:
            raise PlaceError(f"the process that ran it {error.said}") from error


def _silent(_stage: str, _done: int = 0, _all: int = 0) -> None:
    pass


def _step_costs(model: Model, inputs: Mapping[str, Array], runs: int, threads: int) -> Steps:
    """Of each step its symbol, and the least of its runs."""
    return [(step.kernel, float(seconds.min())) for step, seconds in model.profile(inputs, runs, threads)]


def profiled(job: Job, inputs: Mapping[str, Array], threads: int, runner: str = _LOCAL) -> list[list[Steps]]:
    """Of each turn and each library, symbols and seconds. Errors: those of `load` and of the runner."""
    models: list[Model] = []
    random = Random(0)
    try:
        models += (load(folder, threads, runner) for folder in job.folders)
        once = float(models[0].time(inputs, 3).min())
        seconds = _TURN_SECONDS if runner == _LOCAL else _REMOTE_TURN_SECONDS
        runs = max(_LEAST_RUNS, min(_MOST_RUNS, int(seconds / once)))
        turns: list[list[Steps]] = []
        for _ in range(job.turns):
            # Another order in each turn: what slows down or speeds up meanwhile does so to all.
            order = random.sample(range(len(models)), len(models))
            costs = {index: _step_costs(models[index], inputs, runs, threads) for index in order}
            turns.append([costs[index] for index in range(len(models))])
        return turns
    finally:
        for model in models:
            model.close()


def main() -> None:
    """Answers every job from standard input until that ends."""
    folder, threads, answers = Path(sys.argv[1]), int(sys.argv[2]), own_answers()
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # as kernels alone are timed
    with np.load(folder / _INPUTS) as file:
        inputs = dict(file)
    while True:
        try:
            job = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, profiled(job, inputs, threads))


if __name__ == "__main__":
    main()
