"""bitloom.tune: finds the fastest kernels of a model for one device, and records them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bitloom.compiling import warn
from bitloom.in_place import InPlace
from bitloom.library_files import compiled_manifest
from bitloom.loading import LoadError, RunError, load
from bitloom.refusals import tunable_target
from bitloom.verification import random_inputs, read_graph
from compiler.driver import Progress, QuantizeOptions, import_float, no_progress, quantize_imported
from compiler.ir.graph import Graph
from compiler.lowering.cache import Cache, default_folder
from compiler.numerics.element import Array
from compiler.quantize.calibration_run import read_calibration
from schedules.tuning.measure import Device
from schedules.tuning.records import append, records_folder
from schedules.tuning.threads import fewest, threads_record
from schedules.tuning.tuner import Budget, Subject, Tuner
from targets.runners import RunnerError
from targets.tunable import KeepsObjects, NotTimedError, Place, TunableInModel

if TYPE_CHECKING:
    from targets.tunable import TunableTarget


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to tune: a quantized graph for a target."""

    graph: Graph
    target: TunableTarget


def work_of(
    source: Path,
    target: str | None = None,
    calibration: Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Progress = no_progress,
) -> Work:
    """source: a model, or a folder that `compile` wrote, whose target is then the default.

    A model without calibration data is quantized by random inputs: ranges are numbers, and kernels do not
    depend on them. Errors: BitloomError.
    """
    if source.is_dir():
        manifest = compiled_manifest(source)
        chosen = tunable_target(target or manifest["target"])
        graph = read_graph(source)
    else:
        chosen = tunable_target(target or "host")
        graph = _quantized(source, calibration, shapes, progress)
    return Work(graph, chosen)


def _quantized(
    model: Path, calibration: Path | None, shapes: Mapping[str, tuple[int, ...]] | None, progress: Progress
) -> Graph:
    progress("import")
    imported = import_float(model, shapes)
    if calibration is not None:
        samples = read_calibration(calibration, imported.graph)
    else:
        rng = np.random.default_rng(0)
        inputs = imported.graph.inputs
        samples = [{v.name: rng.standard_normal(v.type.shape, np.float32) for v in inputs} for _ in range(2)]
    return quantize_imported(imported, samples, QuantizeOptions(), progress=progress).graph


def device_of(work: Work, place: Place) -> Device[Any]:
    """What measures the work's candidates there. Errors: BitloomError."""
    return work.target.device(work.graph, place)


def tuner_of(
    work: Work,
    place: Place,
    device: Device[Any],
    budget: Budget,
    seed: int,
    say: Callable[[str], None] = warn,
) -> Tuner:
    """A tuner of all that the target can choose for the graph, on the device of that place."""
    subjects = work.target.subjects(work.graph)
    return Tuner(
        subjects,
        device,
        records_folder(),
        seed=seed,
        budget=budget,
        versions=versions(),
        place=_in_place(work, place, device, [subject for _, subject, _ in subjects]),
        warn=say,
    )


def _in_place(
    work: Work, place: Place, device: Device[Any], subjects: Sequence[Subject[Any]]
) -> InPlace | None:
    """The model at the place of its kernels; None where no models are timed there."""
    target = work.target
    if not isinstance(target, TunableInModel) or not isinstance(device, KeepsObjects):
        return None
    try:
        runner = target.runner(place)
    except NotTimedError:
        return None
    return InPlace(work.graph, target, subjects, runner, place.threads, device.objects)


def versions() -> dict[str, str]:
    """Of what builds kernels."""
    packages = ("apache-tvm", "ziglang")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of a run of the whole model: the median over turns of the median run of each, as
    `benchmarks.host_latency` has them; ratio: of after to before within a turn."""

    threads: int
    before: float
    after: float
    ratio: float


# Turns, and how long the runs of each within one take; of small models, no more than so many.
_TURNS = 15
_TURN_SECONDS, _MOST_RUNS = 0.15, 1000


def compared(work: Work, place: Place, progress: Progress = no_progress) -> Iterator[Comparison]:
    """The model with the kernels of the analytic model and with those of the records, by turns.

    Errors: NotTimedError where whole models are not timed, or a board went away.
    """
    runner = work.target.runner(place)
    cache = Cache(default_folder())
    targets = {"before": work.target, "after": work.target.with_records(records_folder(), warn)}
    with TemporaryDirectory(prefix="bitloom-tune-") as name:
        folders = {key: Path(name) / key for key in targets}
        for key, target in targets.items():
            build = target.build(work.graph, progress)
            build.emit("model", folders[key], {}, build.facts, cache, progress)
        inputs = next(iter(random_inputs(work.graph, 1, 0)))
        for threads in sorted({1, place.threads}):
            progress(f"compare with {threads} threads")
            try:
                yield _compared(folders, inputs, threads, runner)
            except (RunnerError, RunError, LoadError) as error:
                if place.is_here:
                    raise
                raise NotTimedError(error.message, error.hint) from error


def threads_timed(work: Work, place: Place, progress: Progress = no_progress) -> dict[int, float]:
    """Seconds of a run of the model with the kernels of the records, by the number of threads: the median
    over turns of the median run of each. Empty where models are not timed on this computer, or with one core.
    """
    counts = thread_counts()
    try:
        is_local = work.target.runner(place) == "local"
    except NotTimedError:
        is_local = False
    if not is_local or len(counts) < 2:
        return {}
    target = work.target.with_records(records_folder(), warn)
    with TemporaryDirectory(prefix="bitloom-tune-") as name, ExitStack() as loaded:
        folder = Path(name) / "after"
        build = target.build(work.graph, progress)
        build.emit("model", folder, {}, build.facts, Cache(default_folder()), progress)
        inputs = next(iter(random_inputs(work.graph, 1, 0)))
        progress("compare numbers of threads")
        models = {n: loaded.enter_context(load(folder, n)) for n in counts}
        once = float(models[1].time(inputs, 5).min())
        runs = _runs(once)
        turns = [
            {n: median(models[n].time(inputs, runs, 1).tolist()) for n in (counts, counts[::-1])[number % 2]}
            for number in range(_TURNS)
        ]
    return {n: median(turn[n] for turn in turns) for n in counts}


def thread_counts() -> list[int]:
    """1, 2, 4, ... and all cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({cores, *(1 << n for n in range(cores.bit_length()) if 1 << n <= cores)})


def keep_threads(work: Work, tuner: Tuner, seconds: Mapping[int, float]) -> int:
    """Records with how many threads the model runs fastest; a library that is compiled from now on takes so
    many where its caller leaves it open. Errors: OSError where the record cannot be written."""
    subjects = [kernel.subject for kernel in tuner.kernels]
    machine, names = subjects[0].machine_name, [subject.subject for subject in subjects]
    append(tuner.path, [threads_record(tuner.device.fingerprint, machine, names, seconds, versions())])
    return fewest(seconds)


def _runs(seconds: float) -> int:
    """In a turn, of a model that takes so long."""
    return max(3, min(_MOST_RUNS, int(_TURN_SECONDS / seconds)))


def _compared(
    folders: Mapping[str, Path], inputs: Mapping[str, Array], threads: int, runner: str
) -> Comparison:
    with load(folders["before"], threads, runner) as before, load(folders["after"], threads, runner) as after:
        once = float(before.time(inputs, 5).min())
        after.time(inputs, 3)
        runs = _runs(once)
        turns: list[tuple[float, float]] = []
        for number in range(_TURNS):
            order = (before, after) if number % 2 == 0 else (after, before)
            times = [median(model.time(inputs, runs, 1).tolist()) for model in order]
            turns.append((times[0], times[1]) if number % 2 == 0 else (times[1], times[0]))
    return Comparison(
        threads,
        median(b for b, _ in turns),
        median(a for _, a in turns),
        median(a / b for b, a in turns),
    )
