"""The analytic model of micro-tiles of bipolar codes: registers, and vector instructions."""

from __future__ import annotations

from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import ElementType
from schedules.binary_instructions import bit_counter
from schedules.convolution_config import Tile
from schedules.convolution_geometry import Geometry
from schedules.convolution_packing import panel_vectors


def fits_registers(pixels: int, vectors: int, machine: CpuMachine) -> bool:
    """Counts, one step's weights, and what two steps in flight need between."""
    counter = bit_counter(machine)
    weights = vectors * counter.words
    return pixels * vectors * counter.registers + weights + 6 <= machine.vector_registers


def cycles(tile: Tile, g: Geometry, machine: CpuMachine) -> float:
    """Estimated cycles of the layer on two vector ports and two load ports: a micro-tile takes for each word
    the longer of its counting and its loads, and then finishes its sums."""
    counter = bit_counter(machine)
    words = g.segments * g.steps
    total = 0.0
    wide, ragged = divmod(g.width, tile.columns)
    panels = panel_vectors(g.group_outputs, tile.lanes, tile.vectors)
    for vectors in panels:
        for columns, tiles in ((tile.columns, wide), (ragged, 1)):
            if not columns:
                continue
            pixels = tile.rows * columns
            counting = pixels * vectors * counter.operations / 2
            loads = (pixels + vectors) / 2
            per_word = max(counting, loads, 2.0) + 0.1 * loads
            finish = pixels * vectors * _finish(g) + 10
            total += tiles * (words * per_word + g.segments * 3 + finish)
    return total * (g.height // tile.rows) * g.images


def _finish(g: Geometry) -> float:
    """Cycles of a vector from its counts to the store."""
    match g.form.output:
        case ElementType.B1:
            return 3.0
        case ElementType.I32:
            return 3.0
        case _:
            return 8.0
