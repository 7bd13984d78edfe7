"""The stages that a model goes through, and its graph after any of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.passes.base import Pass
from compiler.passes.pipeline import FLOAT_PASSES, INTEGER_PASSES


class _ReachedError(Exception):
    """Leaves the pipeline with the graph as it is."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph


def float_stages() -> list[str]:
    """Stages that need no calibration: import, then a name for each pass; `.2` marks its second run."""
    return _numbered(["import", *_names(FLOAT_PASSES)])


def all_stages() -> list[str]:
    """Every stage in order."""
    return _numbered(["import", *_names(FLOAT_PASSES), "quantize", *_names(INTEGER_PASSES)])


def graph_after(
    model: Path,
    stage: str | None,
    calibration: Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Graph:
    """The graph of `model` after `stage`; None stands for the last that can be reached.

    Errors: BitloomError for an unknown stage (it lists the known) and for one that needs calibration.
    """
    known = all_stages()
    if stage is not None and stage not in known:
        raise BitloomError(f'unknown pass "{stage}"', f"passes in order: {', '.join(known)}")
    if stage is not None and stage not in float_stages() and calibration is None:
        raise BitloomError(
            f'"{stage}" comes after quantization, which needs calibration data',
            "give typical inputs: --calibration samples.npz",
        )
    from compiler.driver import QuantizeOptions, import_float, quantize_imported
    from compiler.quantize.calibration_run import read_calibration

    names = iter(known)

    def watch(_name: str, graph: Graph) -> None:
        if next(names) == stage:
            raise _ReachedError(graph)

    try:
        imported = import_float(model, shapes, watch)
        if calibration is None:
            return imported.graph
        samples = read_calibration(calibration, imported.graph)
        return quantize_imported(imported, samples, QuantizeOptions(), watch).graph
    except _ReachedError as reached:
        return reached.graph


def _names(passes: tuple[Pass, ...]) -> list[str]:
    return [p.name for p in passes]


def _numbered(names: list[str]) -> list[str]:
    """Repeated names get `.2`, `.3`."""
    return [n if (k := names[: i + 1].count(n)) == 1 else f"{n}.{k}" for i, n in enumerate(names)]
