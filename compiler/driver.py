"""compile(): from a model file to an artifact. Knows targets through the `Target` protocol only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compiler.frontend import Model, import_graph, load_model
from compiler.ir.graph import Graph
from compiler.loops.form import Form
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.program import Program, lower_program
from compiler.numerics.element import Array, ElementType
from compiler.passes.base import Note, Notes, PassRecord, run_pass
from compiler.passes.pipeline import FLOAT_PASSES, INTEGER_PASSES
from compiler.quantize.calibrate import Sample, calibrate
from compiler.quantize.calibration_run import read_calibration, tensor_stream
from compiler.quantize.observers import Observer
from compiler.quantize.observers.minmax import MinMax
from compiler.quantize.quantize_graph import WeightWidths, quantize_graph
from compiler.quantize.types import activation_types

Samples = str | Path | Iterable[Array] | Iterable[Mapping[str, Array]]
Progress = Callable[[str], None]


class Target(Protocol):
    """A device family: what the driver asks of it."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """Names everything about the target that changes what is built."""
        ...

    def plan_kernel(self, form: Form) -> KernelPlan:
        """The kernel for a form. Errors: ValueError with the reason where the target has none."""
        ...

    def emit(
        self, program: Program, name: str, out: Path, facts: Mapping[str, Any], progress: Progress
    ) -> None:
        """Builds the kernels and writes the library into the new folder `out`, or nothing at all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """How a float model becomes integer."""

    weights: WeightWidths = field(default_factory=WeightWidths)
    activations: ElementType = ElementType.I8
    observer: Callable[[], Observer] = MinMax


@dataclass(slots=True)
class Compilation:
    """All stages of one model, for the library, for `inspect` and for reports.

    stages: the graph's text is taken after each pass only where a caller asks (`watch`).
    """

    model: Model
    float_graph: Graph
    graph: Graph
    notes: list[Note]
    passes: list[PassRecord]


Watch = Callable[[str, Graph], None]


def _ignore(_name: str, _graph: Graph) -> None:
    pass


def import_float(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None, notes: Notes, watch: Watch = _ignore
) -> tuple[Model, Graph, list[PassRecord]]:
    """The model as a float graph after the float passes."""
    model = load_model(path)
    graph = import_graph(model, shapes)
    watch("import", graph)
    records: list[PassRecord] = []
    for p in FLOAT_PASSES:
        records.append(run_pass(p, graph, notes))
        watch(p.name, graph)
    return model, graph, records


def quantize_model(
    path: Path,
    calibration: Samples,
    options: QuantizeOptions,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    watch: Watch = _ignore,
    progress: Progress = lambda _text: None,
) -> Compilation:
    """ONNX file -> verified quantized graph.

    Errors: BitloomError for everything wrong with the model, the shapes, or the calibration data.
    """
    notes = Notes()
    progress("import")
    model, float_graph, records = import_float(path, shapes, notes, watch)
    samples: list[Sample] = read_calibration(calibration, float_graph)
    progress(f"calibrate on {len(samples)} samples")
    ranges = calibrate(
        float_graph,
        samples,
        lambda names, data: tensor_stream(model, names, data),
        options.observer,
        options.activations,
    )
    types = activation_types(float_graph, ranges, options.activations)
    progress("quantize")
    graph = quantize_graph(float_graph, types, options.weights, notes)
    watch("quantize", graph)
    for p in INTEGER_PASSES:
        records.append(run_pass(p, graph, notes))
        watch(p.name, graph)
    return Compilation(model, float_graph, graph, notes.entries, records)


def lower_for(target: Target, graph: Graph) -> Program:
    """The program of a quantized graph on a target."""
    return lower_program(graph, target.plan_kernel)
