"""compile(): from a model file to an artifact. Knows targets through the `Target` protocol only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from compiler.frontend import Model, import_graph, load_model
from compiler.ir.graph import Graph, Value
from compiler.lowering.cache import Cache
from compiler.numerics.element import ElementType
from compiler.passes.base import Note, Notes, Pass, PassRecord, run_pass
from compiler.passes.pipeline import FLOAT_PASSES, INTEGER_PASSES
from compiler.quantize.bit_widths import BitWidthChoice
from compiler.quantize.budget import Budget
from compiler.quantize.calibrate import Sample, calibrate
from compiler.quantize.calibration_run import tensor_stream
from compiler.quantize.layers import check_layer_names
from compiler.quantize.observers.base import Observer, Range
from compiler.quantize.observers.minmax import MinMax
from compiler.quantize.quantize_graph import WeightWidths, quantize_graph
from compiler.quantize.types import activation_types
from compiler.quantize.width_choice import CountsCycles, WidthChoice


class Progress(Protocol):
    """Told what goes on. done, total: of a stage whose pieces are counted; total is 0 otherwise."""

    def __call__(self, stage: str, done: int = 0, total: int = 0, /) -> None: ...


def no_progress(_stage: str, _done: int = 0, _total: int = 0, /) -> None:
    """A `Progress` that tells nobody."""


class Target(Protocol):
    """A device family: what the driver asks of it."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str:
        """The machine and its instruction set, in a few words."""
        ...

    @property
    def runs_here(self) -> bool:
        """Whether this computer can run its libraries."""
        ...

    @property
    def digest(self) -> str:
        """Names everything about the target that changes what is built."""
        ...

    def with_variants(self, others: Sequence[Target]) -> Target:
        """This target, whose libraries carry kernels for `others` as well and choose at run time.

        Errors: BitloomError for targets that cannot be in one library.
        """
        ...

    def build(self, graph: Graph, progress: Progress) -> Build:
        """Lowers a verified quantized graph. Errors: BitloomError where the device cannot hold it."""
        ...


@runtime_checkable
class TakesRecords(Protocol):
    """A target whose kernels can be planned by records of measurements."""

    def with_records(self, folder: Path, warn: Callable[[str], None], *, packed: bool = False) -> Target:
        """This target with the records in a folder. warn: told of each line of them that is damaged. packed:
        narrow weights are not kept as bytes, whatever was faster."""
        ...


class Build(Protocol):
    """A lowered graph, before any file is written."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The manifest's account of memory and layers: at least `summary` and `layers`."""
        ...

    def emit(
        self,
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
    ) -> None:
        """Writes all files into the folder `out`, or nothing at all.

        attachments: more files by name. facts: entries of the manifest.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """How a float model becomes integer. budget: narrows the weights, from `weights` down, layer by layer."""

    weights: WeightWidths = field(default_factory=WeightWidths)
    activations: ElementType = ElementType.I8
    observer: Callable[[], Observer] = MinMax
    budget: Budget | None = None


Watch = Callable[[str, Graph], None]


def ignore_stages(_name: str, _graph: Graph) -> None:
    """A `Watch` that looks at nothing."""


@dataclass(slots=True)
class Imported:
    """A model as a float graph after the float passes."""

    model: Model
    graph: Graph
    notes: Notes
    passes: list[PassRecord]


@dataclass(slots=True)
class Compilation:
    """A model as a verified quantized graph, and what happened on the way. bit_widths: None without a
    budget."""

    imported: Imported
    graph: Graph
    ranges: Mapping[Value, Range]
    bit_widths: BitWidthChoice | None = None

    @property
    def notes(self) -> list[Note]:
        return self.imported.notes.entries


def import_float(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, watch: Watch = ignore_stages
) -> Imported:
    """Reads a model and brings it into canonical float form. watch: called after each stage.

    Errors: BitloomError for everything wrong with the file or the shapes.
    """
    model = load_model(path)
    graph = import_graph(model, shapes)
    watch("import", graph)
    imported = Imported(model, graph, Notes(), [])
    _run_passes(FLOAT_PASSES, graph, imported, watch)
    return imported


def quantize_imported(
    imported: Imported,
    samples: Sequence[Sample],
    options: QuantizeOptions,
    watch: Watch = ignore_stages,
    progress: Progress = no_progress,
    clock: CountsCycles | None = None,
) -> Compilation:
    """Calibrates on `samples` and quantizes. clock: counts what a budget of cycles is about.

    Errors: BitloomError for a budget that no choice of widths meets, for one of cycles without a clock, and
    for names of layers that the model does not have.
    """
    check_layer_names(imported.graph, options.weights)
    progress(f"calibrate on {len(samples)} samples")
    ranges = calibrate(
        imported.graph,
        samples,
        lambda names, data: tensor_stream(imported.model, names, data),
        options.observer,
        options.activations,
    )
    types = activation_types(imported.graph, ranges, options.activations)
    weights, choice = options.weights, None
    if options.budget is not None:
        widths = WidthChoice(imported.graph, types, options.weights, options.budget, clock)
        choice = widths.choose(samples, progress)
        weights = choice.widths(options.weights)
    progress("quantize")
    graph = quantize_graph(imported.graph, types, weights, imported.notes)
    watch("quantize", graph)
    _run_passes(INTEGER_PASSES, graph, imported, watch)
    return Compilation(imported, graph, ranges, choice)


def _run_passes(passes: Sequence[Pass], graph: Graph, imported: Imported, watch: Watch) -> None:
    for p in passes:
        imported.passes.append(run_pass(p, graph, imported.notes))
        watch(p.name, graph)
