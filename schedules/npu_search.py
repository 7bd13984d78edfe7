"""The tiling of a layer: the best few by the analytic model, tried on the simulator.

A trial times the layer alone, without data: its first steps, and what the rest takes at the pace of the
second half of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

import numpy as np

from schedules.npu_blocks import blocks_of_core, units_of
from schedules.npu_cost import costs
from schedules.npu_emit import Address, Blob, Emitter
from schedules.npu_mechanisms import ALL, Mechanism, Mechanisms
from schedules.npu_product import Product, count_steps, emit_product
from schedules.npu_space import fits, tiling_space, with_two_engines
from schedules.npu_tiling import Fold, Shape, Tiling
from sim.config import PARAMETER_BYTES, NpuConfig
from sim.timing import Timing, time_program
from sim.tokens import Synchronised, insert_tokens

_TRIALS = 16
_ALIKE = 1  # tilings of one kind that are tried
_INSTRUCTIONS = 400  # of a trial, about
_BUDGET = 2000  # instructions of all trials of a layer
_WORTH = 1.2  # what costs more than the cheapest by this factor is not tried


def has_tiling(shape: Shape, config: NpuConfig) -> bool:
    """Whether a tile of at least one output fits the scratchpads."""
    return fits(shape, config)


def choose_tiling(shape: Shape, config: NpuConfig, mechanisms: Mechanisms = ALL) -> Tiling | None:
    """The fastest of `candidate_tilings` on the simulator, the same in every run; None: nothing fits."""
    return _choose(shape, config, mechanisms)


@lru_cache(maxsize=4096)
def _choose(shape: Shape, config: NpuConfig, mechanisms: Mechanisms) -> Tiling | None:
    found = candidate_tilings(shape, config, mechanisms=mechanisms)
    if len(found) <= 1 or Mechanism.TRIALS not in mechanisms:
        return found[0].tiling if found else None
    fastest, least, spent = found[0].tiling, inf, 0
    for candidate in found:
        found_in = trial(candidate.tiling, shape, config)
        spent += found_in.instructions
        if (cycles := max(candidate.least, found_in.cycles)) < least:
            fastest, least = candidate.tiling, cycles
        if spent >= _BUDGET:
            break
    return fastest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tiling with its cycles by the analytic model, and those of its busiest engine."""

    tiling: Tiling
    cycles: float
    least: float


def candidate_tilings(
    shape: Shape,
    config: NpuConfig,
    count: int = _TRIALS,
    alike: int = _ALIKE,
    mechanisms: Mechanisms = ALL,
) -> list[Candidate]:
    """The cheapest first: at most `count` of all that fit, at most `alike` of one kind (fold, channels,
    size of a tile, order)."""
    space = tiling_space(shape, config)
    if Mechanism.FOLDING not in mechanisms:
        space = space.where(space.fold == Fold.NONE)
    if Mechanism.ENGINES in mechanisms:
        space = with_two_engines(space, shape)
    cycles, least = costs(space, shape, config)
    kinds = Counter[tuple[int, ...]]()
    found: list[Candidate] = []
    for at in np.argsort(cycles, kind="stable").tolist():
        if len(found) == count or (found and cycles[at] > _WORTH * found[0].cycles):
            break
        t = space.tiling(at)
        kind = (t.fold, t.rows * t.columns, t.outputs, t.reduction, t.weights_first, t.blocks_shared)
        if kinds[kind] < alike:
            kinds[kind] += 1
            found.append(Candidate(t, float(cycles[at]), float(least[at])))
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """cycles: of the whole layer; instructions: how many were timed."""

    cycles: float
    instructions: int


def trial(tiling: Tiling, shape: Shape, config: NpuConfig) -> Trial:
    """The layer alone on the simulator, or an estimate from its first steps."""
    p = without_data(tiling, shape, config)
    return tried(lambda e, steps: emit_product(e, p, steps), count_steps(p, config.cores), config)


def tried(emit: Callable[[Emitter, int | None], list[int]], steps: int, config: NpuConfig) -> Trial:
    """emit: as `emit_product` (None: all steps) into any emitter; steps: how many there are."""
    e = Emitter(config, config)
    ends = emit(e, min(steps, 4))
    each = max(1, len(e.instructions) // len(ends))
    count = min(steps, max(4, _INSTRUCTIONS // each))
    if count > len(ends):
        e = Emitter(config, config)
        ends = emit(e, count)
    found, timing = _timed(e)
    if count == steps:
        # The same layer once more behind it: what neighbours of a layer overlap with is not its own cost.
        emit(e, None)
        return Trial(_timed(e)[1].cycles - timing.cycles, len(e.instructions))
    finish = np.zeros(len(e.instructions))
    for spans, origin in zip(timing.spans, found.origin, strict=True):
        at = np.array(origin)
        np.maximum.at(finish, at[at >= 0], spans.end[at >= 0])
    reached = np.maximum.accumulate(finish)
    first, middle, last = (reached[ends[n] - 1] for n in (0, count // 2 - 1, -1))
    pace = (last - middle) / (count - count // 2)
    return Trial(float(last - first + pace * (steps - count + 1)), len(e.instructions))


def _timed(e: Emitter) -> tuple[Synchronised, Timing]:
    """Instructions will be handed out in the order of their starts: queues that hold all of them show it."""
    found = insert_tokens(e.instructions, e.config)
    return found, time_program(found.program, replace(e.config, queue_depth=2 * len(e.instructions)))


def without_data(tiling: Tiling, shape: Shape, config: NpuConfig) -> Product:
    """The layer with everything somewhere."""
    f = shape.form
    at = {False: 0, True: 0}

    def place(dram: bool, size: int) -> Address:
        address = Address(dram, at[dram])
        at[dram] += -(-size // 16) * 16
        return address

    pitch = f.input.bytes_for(f.input_pitch or f.in_channels)
    image = place(shape.image_dram, f.batch * f.in_height * f.in_width * pitch)
    pitch = f.output.bytes_for(f.output_pitch or f.out_channels)
    result = place(shape.result_dram, f.batch * f.out_height * f.out_width * pitch)
    parameters = place(shape.constants_dram, f.out_channels * PARAMETER_BYTES)
    weights: dict[tuple[int, int], Blob] = {}
    for core in range(config.cores if tiling.blocks_shared else 1):
        for unit in units_of(f, tiling, blocks_of_core(f, tiling, core, config.cores), config):
            packed = int(unit.bytes * shape.weight_ratio) if shape.weight_ratio < 1 else 0
            address = place(shape.constants_dram, packed or unit.bytes)
            weights[unit.key] = Blob(address, unit.bytes, packed)
    return Product(f, tiling, image, result, weights, parameters, 0, 0, 0, 0)
