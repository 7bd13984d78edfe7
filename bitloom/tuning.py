"""bitloom.tune: finds the fastest kernels of a model for one device, and records them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from bitloom.compiling import warn
from bitloom.in_place import InPlace
from bitloom.library_files import compiled_manifest
from bitloom.loading import load
from bitloom.refusals import tunable_target
from bitloom.verification import random_inputs, read_graph
from compiler.driver import Progress, QuantizeOptions, import_float, no_progress, quantize_imported
from compiler.ir.graph import Graph
from compiler.loops.form import Form
from compiler.lowering.cache import Cache, default_folder
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import kernel_calls
from compiler.lowering.storage import place_values
from compiler.numerics.element import Array
from compiler.quantize.calibration_run import read_calibration
from schedules.cpu import plan_kernel
from schedules.tuning.records import records_folder
from schedules.tuning.space import KernelSpace
from schedules.tuning.tuner import Budget, Subject, Tuner
from targets.cpu import CpuTarget
from targets.measuring.host import HostDevice

Constants = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to tune: the graph, and each form of its kernels with its constants and how often it
    runs."""

    graph: Graph
    target: CpuTarget
    forms: Mapping[Form, tuple[Constants, int]]

    def subjects(self, machine: CpuMachine) -> list[tuple[str, Subject[object], int]]:
        """Name, space and count of each kernel."""
        spaces = [(KernelSpace(form, machine), count) for form, (_, count) in self.forms.items()]
        return [(plan_kernel(s.form, machine).symbol, s, count) for s, count in spaces]  # type: ignore[misc]


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
    return Work(graph, chosen, _forms(graph))


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


def _forms(graph: Graph) -> dict[Form, tuple[Constants, int]]:
    found: dict[Form, tuple[Constants, int]] = {}
    for call in kernel_calls(graph, place_values(graph)):
        form = call.lowered.form
        constants, count = found.get(form, (call.lowered.constants, 0))
        found[form] = (constants, count + 1)
    return found


def tuner_of(
    work: Work, device: HostDevice, budget: Budget, seed: int, say: Callable[[str], None] = warn
) -> Tuner:
    """A tuner of all kernels of the work on this computer."""
    subjects = work.subjects(work.target.machine)
    place = InPlace(work.graph, work.target, tuple(work.forms), device.threads, device.objects)
    return Tuner(
        subjects,
        device,
        records_folder(),
        seed=seed,
        budget=budget,
        versions=versions(),
        place=place,
        warn=say,
    )


def device_of(work: Work, threads: int) -> HostDevice:
    """This computer, with the constants of the model."""
    return HostDevice({form: constants for form, (constants, _) in work.forms.items()}, threads=threads)


def versions() -> dict[str, str]:
    """Of what builds kernels."""
    packages = ("apache-tvm", "ziglang")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of a run of the whole model: the median over turns of the least run of each, since others may
    use the processor; ratio: of after to before within a turn."""

    threads: int
    before: float
    after: float
    ratio: float


# Turns, and runs of each within one.
_TURNS = 15
_TURN_SECONDS = 0.15


def compared(
    work: Work, thread_counts: tuple[int, ...], progress: Progress = no_progress
) -> Iterator[Comparison]:
    """The model with the kernels of the analytic model and with those of the records, by turns."""
    cache = Cache(default_folder())
    plain = replace(work.target, tuned=None)
    targets = {"before": plain, "after": plain.with_records(records_folder(), warn)}
    with TemporaryDirectory(prefix="bitloom-tune-") as name:
        folders = {key: Path(name) / key for key in targets}
        for key, target in targets.items():
            build = target.build(work.graph, progress)
            build.emit("model", folders[key], {}, build.facts, cache, progress)
        inputs = next(iter(random_inputs(work.graph, 1, 0)))
        for threads in thread_counts:
            progress(f"compare with {threads} threads")
            yield _compared(folders, inputs, threads)


def _compared(folders: Mapping[str, Path], inputs: Mapping[str, Array], threads: int) -> Comparison:
    with load(folders["before"], threads) as before, load(folders["after"], threads) as after:
        once = float(before.time(inputs, 5).min())
        after.time(inputs, 3)
        runs = max(3, int(_TURN_SECONDS / once))
        turns: list[tuple[float, float]] = []
        for number in range(_TURNS):
            order = (before, after) if number % 2 == 0 else (after, before)
            times = [float(model.time(inputs, runs, 1).min()) for model in order]
            turns.append((times[0], times[1]) if number % 2 == 0 else (times[1], times[0]))
    return Comparison(
        threads,
        median(b for b, _ in turns),
        median(a for _, a in turns),
        median(a / b for b, a in turns),
    )
