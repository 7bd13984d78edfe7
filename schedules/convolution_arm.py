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


# Of 31 general registers, those that can hold addresses of weights.
_ADDRESS_REGISTERS = 24


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


def indexes_weights(vectors: int, g: Geometry, machine: CpuMachine) -> bool:
    """Whether inner loops load each vector of weights by a base of its own and one index for all.

    In LLVM's model of the A55 results come in the order of issue: SDOT takes four cycles, and so does a load
    by two registers, which therefore issues beside it. A load by an offset takes three and waits.
    """
    many = g.height * g.width > 1 and vectors <= _ADDRESS_REGISTERS // 8
    return many and machine.in_order and g.dot.kind is DotProduct.SDOT


def unrolled_steps(vectors: int, g: Geometry, machine: CpuMachine) -> int:
    """Steps in an iteration of the inner loop: those that share one load of activations, and two of SMLAL,
    which hide its latencies; more where weights are indexed, as their first loads hide behind nothing."""
    if indexes_weights(vectors, g, machine):
        return min(12, _ADDRESS_REGISTERS // vectors)
    return {DotProduct.SDOT: 4, DotProduct.SMMLA: 2, DotProduct.SMLAL: 2, DotProduct.VMLAL: 1}[g.dot.kind]


def micro_tile_instructions(pixels: int, vectors: int, g: Geometry, machine: CpuMachine) -> float:
    """Instructions of one micro-tile, from its first load to its last store; without those that issue beside
    others."""
    c = _COSTS[g.dot.kind]
    groups = -(-pixels // c.pixels)
    weights = vectors * c.registers
    unpack = 0 if g.form.weight.bits == 8 else 2 * weights
    loads = 0.0 if indexes_weights(vectors, g, machine) else 0.5 * weights / g.fields
    per_step = groups * weights * c.multiplies + loads + pixels * c.loads + unpack + 1
    steps = g.steps
    if g.ends_in_half:
        steps -= 1 / c.multiplies
    start = groups * weights + 2 * vectors
    # Four vectors are narrowed together; neighbouring ones of a pixel are stored at once.
    narrow = 10 * -(-pixels * vectors // 4) + pixels * (vectors // 4 + 2 * (vectors % 4 > 0))
    finish = pixels * vectors * (c.fold + 2) + narrow + 2 * vectors + 14
    return g.segments * (steps * per_step + 6) + start + finish
