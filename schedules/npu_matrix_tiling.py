"""What a product of matrices can be cut into, with what it costs by an analytic model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil, prod

from schedules.npu_emit import MAX_COUNT
from schedules.npu_matrix import Matrix, MatrixProduct, Part, image_part, weight_parts
from schedules.npu_transfer import Transfer
from sim.config import NpuConfig
from sim.isa import Memory

_PARTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)
_DEPTHS = 3  # that are tried with other extents, the largest ones
_MOST_DEPTH = (1 << 16) - 1  # channels of `Operands`
_Extents = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class MatrixSlots:
    """Bytes and number of places: of images, of weights, of results; how many halves of the accumulators."""

    image: int
    images: int
    weight: int
    weights: int
    result: int
    results: int
    accumulators: int


@dataclass(frozen=True, slots=True)
class MatrixTiling:
    """m x n results from k elements of the reduction at a time. rows_first: all rows meet some columns before
    the next columns come. cycles: of the whole, about."""

    m: int
    n: int
    k: int
    rows_first: bool
    slots: MatrixSlots
    cycles: float


def matrix_tilings(p: MatrixProduct, config: NpuConfig) -> list[MatrixTiling]:
    """All that fit, in two orders each. One element of the result always fits.

    Errors: ValueError where `right` has more than 8 bits.
    """
    if p.right.element.bits != 8:
        raise ValueError(f"weights of {p.right.element.bits} bits")
    lanes = config.mac.output_lanes(p.left.element.bits, 8)
    depth = config.mac.reduction_lanes(p.left.element.bits)
    model, found = _Model(p, config), list[MatrixTiling]()
    depths = list(_extents(p.k, depth, _MOST_DEPTH))[::-1]
    for m in _extents(p.m, 1, MAX_COUNT):
        for n in _extents(p.n, lanes, MAX_COUNT):
            fitting = ((k, slots) for k in depths if (slots := _slots(p, m, n, k, config)) is not None)
            for k, slots in islice(fitting, _DEPTHS):
                found += [model.tiling((m, n, k), slots, first) for first in (False, True)]
    return found


def _extents(count: int, unit: int, most: int) -> Iterator[int]:
    """The whole, even parts of it in whole units, and one."""
    parts = {ceil(ceil(count / n) / unit) * unit for n in _PARTS} | {1, unit}
    yield from sorted({min(n, count) for n in parts if min(n, count) <= most})


def _slots(p: MatrixProduct, m: int, n: int, k: int, config: NpuConfig) -> MatrixSlots | None:
    """Banks of their own for each place; None where one of each does not fit."""
    pads = config.scratchpad
    bank, weight_bank = pads.activation_bytes // pads.activation_banks, pads.weight_bytes // pads.weight_banks
    image, result = ceil(m * k * p.left.size / bank), ceil(m * n * p.result.size / bank)
    weight = ceil(n * k / weight_bank)
    half = pads.accumulator_words // 2
    if image + result > pads.activation_banks or weight > pads.weight_banks or m * n > 2 * half:
        return None
    results = 2 if 2 * (image + result) <= pads.activation_banks else 1
    return MatrixSlots(
        image=image * bank,
        images=(pads.activation_banks - results * result) // image,
        weight=weight * weight_bank,
        weights=pads.weight_banks // weight,
        result=result * bank,
        results=results,
        accumulators=2 if m * n <= half else 1,
    )


class _Model:
    """Engines overlap, so the busiest one counts, or the busiest port; where a memory has one place only, two
    engines wait for each other. Extents: m, n, k of a tile."""

    def __init__(self, p: MatrixProduct, config: NpuConfig) -> None:
        self.p, self.config = p, config
        self.lanes = config.mac.output_lanes(p.left.element.bits, 8)
        self._moved: dict[tuple[Memory, int, int], _Moved] = {}

    def tiling(self, extents: _Extents, slots: MatrixSlots, rows_first: bool) -> MatrixTiling:
        p, s = self.p, slots
        m, n, k = extents
        images, weights, results = self._counts(extents, slots, rows_first)
        image, weight = self._part(Memory.ACTIVATION, m, k), self._part(Memory.WEIGHT, k, n)
        stored = self._part(Memory.SRAM, m, n)
        loading, fetching, storing = image.cycles * images, weight.cycles * weights, stored.cycles * results
        spread = image.spreads * loading + weight.spreads * fetching  # by LOAD alone
        moving = max(spread, (loading + fetching) / 2)
        product, vector = self._product(extents), self._vector(extents)
        multiplying, finishing = product * results * ceil(p.k / k), vector * results
        busiest = max(moving, multiplying, finishing, storing)
        busiest += min(loading, multiplying) if s.images == 1 and images > 1 else 0
        busiest += min(fetching, multiplying) if s.weights == 1 and weights > 1 else 0
        busiest += finishing if s.accumulators == 1 else 0
        busiest += min(finishing, storing) if s.results == 1 else 0
        ports = [0.0, 0.0]
        for x, cycles in (
            (p.left, image.port * images),
            (p.right, weight.port * weights),
            (p.result, stored.port * results),
        ):
            ports[x.address.dram] += cycles
        once = image.cycles + weight.cycles + product + vector + stored.cycles
        cycles = max(busiest / min(self.config.cores, results), *ports) + once
        return MatrixTiling(m, n, k, rows_first, s, cycles)

    def _counts(self, extents: _Extents, slots: MatrixSlots, rows_first: bool) -> tuple[int, int, int]:
        """Loads of images and of weights, which stay as long as their places do, and results."""
        p = self.p
        rows, columns, pieces = (ceil(a / b) for a, b in zip((p.m, p.n, p.k), extents, strict=True))
        stay = rows * pieces <= slots.images or (not rows_first and pieces <= slots.images)
        images = rows * pieces * (1 if stay else columns)
        stay = columns * pieces <= slots.weights or (rows_first and pieces <= slots.weights)
        weights = columns * pieces * (1 if stay else rows)
        batch = prod(p.batch)
        return batch * images, batch * weights, batch * rows * columns

    def _part(self, memory: Memory, rows: int, columns: int) -> _Moved:
        """Of a piece to a memory of the core, or of a result to SRAM."""
        key = memory, rows, columns
        if key not in self._moved:
            p, write = self.p, memory is Memory.SRAM
            x = p.result if write else p.right if memory is Memory.WEIGHT else p.left
            weights = memory is Memory.WEIGHT
            parts = weight_parts(x, rows, columns, self.lanes) if weights else image_part(x, rows, columns)
            self._moved[key] = _moved(parts, x, write, self.config)
        return self._moved[key]

    def _product(self, extents: _Extents) -> float:
        """Of one instruction of MAC."""
        m, n, k = extents
        mac, bits = self.config.mac, self.p.left.element.bits
        width = min(self.lanes, n)
        cycles = m * max(1, ceil(width * 32 / mac.accumulator_port_bits))
        fill = ceil(min(mac.reduction_lanes(bits), k) * width / mac.weight_port_bytes)
        folds = ceil(n / width) * ceil(k / mac.reduction_lanes(bits))
        return folds * max(cycles, fill) + fill + mac.pipeline_cycles + self.config.issue_cycles

    def _vector(self, extents: _Extents) -> float:
        vector = self.config.vec
        groups = extents[0] * ceil(extents[1] / vector.lanes) * vector.requantize_cycles
        return groups + vector.pipeline_cycles + self.config.issue_cycles


@dataclass(frozen=True, slots=True)
class _Moved:
    """Cycles of an engine and of the port; whether elements are spread."""

    cycles: float
    port: float
    spreads: bool


def _moved(parts: tuple[Part, ...], x: Matrix, write: bool, config: NpuConfig) -> _Moved:
    dram = x.address.dram
    port = config.dram if dram else config.sram
    moved = [Transfer.of(p.runs, x.size) for p in parts]
    bursts = sum(prod(r.count for r in t.runs) * ceil(t.row.size / port.burst_bytes) for t in moved)
    cycles = sum(t.cycles(config, dram, write) + config.issue_cycles for t in moved)
    return _Moved(cycles, bursts * port.burst_cycles, any(t.spreads for t in moved))
