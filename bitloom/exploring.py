"""bitloom.explore: one network on many NPUs, and which of them are worth their silicon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitloom.compiling import Samples
from bitloom.exploration import runners
from bitloom.exploration.evaluation import Result, Task, task, text_digest
from bitloom.exploration.front import pareto_front
from bitloom.exploration.plot import plot
from bitloom.exploration.records import Records
from bitloom.exploration.reporting import table_text
from bitloom.exploration.space import WEIGHTS_KEY, Point, Space, base_config, configured, parse_space
from bitloom.options import element_named, scales_named
from bitloom.refusals import check_output
from compiler.driver import Progress, QuantizeOptions, import_float, no_progress, quantize_imported
from compiler.ir.printer import graph_text
from compiler.quantize.calibration_run import read_calibration
from compiler.quantize.quantize_graph import WeightWidths
from sim.config import ConfigError, NpuConfig

RESULTS, TABLE, PLOT = "results.jsonl", "table.txt", "plot.svg"
STAGE = "explore configurations"


@dataclass(frozen=True, slots=True)
class Exploration:
    """results: in the order of the space's points. front: of each, whether it is on the Pareto front of
    cycles, energy and area. found: how many came from earlier runs."""

    base: str
    results: tuple[Result, ...]
    front: tuple[bool, ...]
    found: int
    path: Path

    def as_dict(self) -> dict[str, Any]:
        rows = [{**r.as_dict(), "front": f} for r, f in zip(self.results, self.front, strict=True)]
        return {"base": self.base, "found": self.found, "path": str(self.path), "configurations": rows}


def explore(
    model: str | Path,
    *,
    calibration: Samples,
    npu: str | Space,
    base: str = "npu-256",
    output: str | Path = "explored",
    weights: str = "int8",
    activations: str = "int8",
    weight_scales: str = "channel",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress = no_progress,
) -> Exploration:
    """Compiles `model` for every configuration of a space and times it; results are no more than times.

    npu: ranges, as "rows=8..32,cols=8|16,sram=24k..96k" (`parse_space`). base: the configuration that has the
    rest: a preset, or a TOML file. The model is quantized once for each type of weights. output: a folder for
    results.jsonl, to which each finished configuration is appended and from which the next run goes on,
    table.txt and plot.svg. jobs: processes; dask: the address of a scheduler instead.
    Errors: BitloomError for mistakes; what is wrong with one configuration stands in its row instead.
    """
    space = npu if isinstance(npu, Space) else parse_space(npu)
    machine = base_config(base)
    if dask is not None:
        runners.check_dask()
    folder = Path(output)
    check_output(folder)
    options = QuantizeOptions(
        weights=WeightWidths(element_named(weights, "weights"), {}, scales_named(weight_scales)),
        activations=element_named(activations, "activations"),
    )
    names = [str(v) for v in space.values.get(WEIGHTS_KEY, (weights,))]
    graphs = _quantized(Path(model), calibration, names, options, shapes, progress)
    digests = {name: text_digest(text) for name, text in graphs.items()}
    tasks = [_task(p, digests[str(p.get(WEIGHTS_KEY, weights))], machine) for p in space.points()]
    folder.mkdir(parents=True, exist_ok=True)
    records = Records(folder / RESULTS)
    done = records.read(tasks)
    found = len(done)
    if found:
        progress(f"found {found} of {len(tasks)} configurations in {records.path}")
    missing = list({t.key: t for t in tasks if t.key not in done}.values())
    texts = {digests[name]: text for name, text in graphs.items()}
    progress(STAGE, len(tasks) - len(missing), len(tasks))
    for finished, result in _finished(missing, texts, jobs, dask):
        records.append(finished, result)
        done[finished.key] = result
        progress(STAGE, len(tasks) - len(missing) + len(done) - found, len(tasks))
    results = tuple(replace(done[t.key], point=t.point) for t in tasks)
    return _written(Exploration(machine.name, results, tuple(pareto_front(results)), found, folder))


def _quantized(
    model: Path,
    calibration: Samples,
    names: Sequence[str],
    options: QuantizeOptions,
    shapes: Mapping[str, tuple[int, ...]] | None,
    progress: Progress,
) -> dict[str, str]:
    """The text of the quantized graph for each type of weights."""
    progress("import")
    imported = import_float(model, shapes)
    samples = read_calibration(calibration, imported.graph)
    texts: dict[str, str] = {}
    for name in names:
        weights = replace(options.weights, default=element_named(name, "weights"))
        chosen = replace(options, weights=weights)
        texts[name] = graph_text(quantize_imported(imported, samples, chosen, progress=progress).graph)
    return texts


def _task(point: Point, graph: str, base: NpuConfig) -> Task:
    try:
        return task(point, graph, configured(base, point))
    except ConfigError as error:
        return task(point, graph, None, f"no such NPU: {error}")


def _finished(
    tasks: Sequence[Task], graphs: Mapping[str, str], jobs: int, dask: str | None
) -> runners.Finished:
    if dask is not None:
        return runners.dask(tasks, graphs, dask) if tasks else iter(())
    if jobs == 1 or len(tasks) < 2:
        return runners.serial(tasks, graphs)
    return runners.processes(tasks, graphs, min(jobs, len(tasks)))


def _written(exploration: Exploration) -> Exploration:
    pairs = exploration.results, exploration.front
    (exploration.path / TABLE).write_text(table_text(*pairs) + "\n")
    (exploration.path / PLOT).write_text(plot(*pairs))
    return exploration
