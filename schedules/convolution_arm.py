"""The analytic model of convolution micro-tiles on Arm: registers, and instructions executed.

Its figures are those of the code that LLVM makes (`benchmarks.arm_static`).
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.lowering.machine import CpuMachine, DotProduct
from schedules.convolution_geometry import Geometry


@dataclass(frozen=True, slots=True)
class _Cost:
    """pixels: that share an accumulator. registers: of weights, and accumulators, per vector of channels and
    group of pixels. multiplies: instructions per accumulator and step. loads: of activations, per pixel and
    step. temporaries: registers between multiplying and accumulating. fold: instructions per pixel and vector
    that make sums of accumulators."""

    pixels: int
    registers: int
    multiplies: int
    loads: float
    temporaries: int
    fold: int


_COSTS = {
    DotProduct.SDOT: _Cost(pixels=1, registers=1, multiplies=1, loads=0.25, temporaries=0, fold=0),
    DotProduct.SMMLA: _Cost(pixels=2, registers=2, multiplies=1, loads=1, temporaries=2, fold=1),
    DotProduct.SMLAL: _Cost(pixels=1, registers=4, multiplies=3, loads=1, temporaries=8, fold=4),
    DotProduct.VMLAL: _Cost(pixels=1, registers=4, multiplies=3, loads=1, temporaries=2, fold=7),
}


def has_model(g: Geometry) -> bool:
    return g.dot.kind in _COSTS


def fits_registers(pixels: int, vectors: int, g: Geometry, machine: CpuMachine) -> bool:
    """Whether the inner loop needs no more registers than there are."""
    c = _COSTS[g.dot.kind]
    accumulators = -(-pixels // c.pixels) * vectors * c.registers
    unpacking = 0 if g.form.weight.bits == 8 else 2
    needed = accumulators + vectors * c.registers + pixels + c.temporaries + unpacking
    # To hide latencies, the scheduler of a core that issues in order holds values early.
    early = 5 if machine.in_order and g.dot.kind is DotProduct.SDOT else 0
    return needed + early <= machine.vector_registers


def micro_tile_instructions(pixels: int, vectors: int, g: Geometry) -> float:
    """Instructions of one micro-tile, from its first load to its last store."""
    c = _COSTS[g.dot.kind]
    groups = -(-pixels // c.pixels)
    weights = vectors * c.registers
    unpack = 0 if g.form.weight.bits == 8 else 2 * weights
    per_step = groups * weights * c.multiplies + 0.5 * weights / g.fields + pixels * c.loads + unpack + 1
    steps = g.steps
    if c.multiplies > 1 and 0 < g.run % g.dot.products <= g.dot.products // 2:
        steps -= 1 / c.multiplies  # the last one stops at its half
    start = groups * weights + 2 * vectors
    # Four vectors are narrowed together; neighbouring ones of a pixel are stored at once.
    narrow = 10 * -(-pixels * vectors // 4) + pixels * (vectors // 4 + 2 * (vectors % 4 > 0))
    finish = pixels * vectors * (c.fold + 2) + narrow + 2 * vectors + 14
    return g.segments * (steps * per_step + 6) + start + finish
