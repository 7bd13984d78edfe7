"""Blocks of any rank between a core and the memories outside of it.

Rows that lie without gaps on both sides move as bytes. Where only the outer side has such rows, their
elements are spread inside of the core, which costs time (`DmaEngines.scatter_elements`) but no bursts: this
is how axes change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, inf, prod

import numpy as np

from schedules.npu_emit import MAX_COUNT, MAX_ROW_BYTES, Address, Emitter, Run, merged
from sim.config import NpuConfig
from sim.durations import transfer_cycles
from sim.isa import Engine, Load, LocalStrides, Memory, Store, Strides

_NOWHERE = Run(1, 0, 0)


@dataclass(frozen=True, slots=True)
class Row:
    """count elements, one behind the other outside of the core and `step` bytes apart inside of it."""

    count: int
    element: int
    step: int

    @property
    def size(self) -> int:
        """Bytes outside of the core."""
        return self.count * self.element


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows and the runs that they are repeated along."""

    runs: tuple[Run, ...]
    row: Row

    @classmethod
    def of(cls, runs: Sequence[Run], size: int) -> Transfer:
        """size: bytes of an element."""
        # Nested as outside of the core; what is repeated there is no part of a row.
        left, row = merged(sorted(runs, key=lambda r: -(r.external or inf)), size)
        spread = next((r for r in left if r.external == row), None)
        if spread is None or row not in (1, 2, 4):
            return cls(tuple(left), Row(row, 1, 1))
        left.remove(spread)
        return cls(tuple(left), Row(spread.count, row, spread.local))

    @property
    def spreads(self) -> bool:
        return self.row.step != self.row.element

    @property
    def instructions(self) -> int:
        """Beside those that long rows and runs make necessary."""
        return prod(sorted(r.count for r in self.runs)[:-2])

    def cycles(self, config: NpuConfig, dram: bool, write: bool = False) -> float:
        """About, of a port that nobody shares; behind the first instruction, half of a latency is hidden."""
        port = config.dram if dram else config.sram
        latency, outstanding = (
            (port.write_latency_cycles, port.write_outstanding)
            if write
            else (port.read_latency_cycles, port.read_outstanding)
        )
        rows = prod(r.count for r in self.runs)
        bursts = np.array([rows * ceil(self.row.size / port.burst_bytes)])
        moved = float(transfer_cycles(bursts, port.burst_cycles, latency, outstanding)[0])
        spread = rows * self.row.count / config.dma.scatter_elements if self.spreads else 0.0
        return max(moved, spread) + (self.instructions - 1) * latency / 2


def move_in(
    e: Emitter,
    core: int,
    engine: Engine,
    source: Address,
    memory: Memory,
    local: int,
    runs: Sequence[Run],
    size: int,
) -> None:
    """Elements of `size` bytes, by LOAD or FETCH."""

    def add(block: _Block) -> None:
        load = Load(
            engine=engine,
            dram=source.dram,
            external=source.byte + block.outside,
            memory=memory,
            local=local + block.inside,
            row_bytes=block.row.size,
            rows=block.rows.count,
            planes=block.planes.count,
        )
        e.add(core, load)

    _each(e, core, engine, Transfer.of(runs, size), add)


def move_in_by_two(
    e: Emitter, core: int, source: Address, local: int, runs: Sequence[Run], size: int
) -> None:
    """To the activation memory, one half by LOAD and one by FETCH: an engine alone has too few requests on
    their way to make use of a port."""
    at = next((i for i, run in enumerate(runs) if run.count > 1), None)
    half = 0 if at is None else runs[at].count // 2
    for engine, first, count in ((Engine.LOAD, 0, half), (Engine.FETCH, half, None)):
        if count == 0:
            continue
        part = list(runs)
        outside, inside = source, local
        if at is not None:
            run = runs[at]
            part[at] = Run(run.count - first if count is None else count, run.external, run.local)
            outside, inside = source + first * run.external, local + first * run.local
        move_in(e, core, engine, outside, Memory.ACTIVATION, inside, part, size)


def move_out(e: Emitter, core: int, local: int, target: Address, runs: Sequence[Run], size: int) -> None:
    """As `move_in`, from the activation memory."""

    def add(block: _Block) -> None:
        store = Store(
            dram=target.dram,
            external=target.byte + block.outside,
            local=local + block.inside,
            row_bytes=block.row.size,
            rows=block.rows.count,
            planes=block.planes.count,
        )
        e.add(core, store)

    _each(e, core, Engine.STORE, Transfer.of(runs, size), add)


@dataclass(frozen=True, slots=True)
class _Block:
    """What one instruction moves, and where it begins."""

    planes: Run
    rows: Run
    row: Row
    outside: int
    inside: int


def _each(e: Emitter, core: int, engine: Engine, t: Transfer, add: Callable[[_Block], None]) -> None:
    for block in _blocks(t):
        planes, rows = block.planes, block.rows
        e.set(core, Strides(engine=engine, row=rows.external, plane=planes.external))
        local = LocalStrides(
            engine=engine,
            row=rows.local,
            plane=planes.local,
            element=block.row.step,
            element_bytes=block.row.element,
        )
        e.set(core, local)
        add(block)


def _blocks(t: Transfer) -> Iterator[_Block]:
    """The longest two runs are in one instruction."""
    runs = sorted(t.runs, key=lambda r: r.count)
    outer, (planes, rows) = runs[:-2], [_NOWHERE, _NOWHERE, *runs][-2:]
    most = MAX_ROW_BYTES // t.row.element
    parts = product(
        range(0, planes.count, MAX_COUNT), range(0, rows.count, MAX_COUNT), range(0, t.row.count, most)
    )
    for p, r, c in parts:
        outside = p * planes.external + r * rows.external + c * t.row.element
        inside = p * planes.local + r * rows.local + c * t.row.step
        inner = [Run(min(MAX_COUNT, n.count - at), n.external, n.local) for n, at in ((planes, p), (rows, r))]
        row = Row(min(most, t.row.count - c), t.row.element, t.row.step)
        for indices in product(*(range(n.count) for n in outer)):
            steps = list(zip(indices, outer, strict=True))
            yield _Block(
                inner[0],
                inner[1],
                row,
                outside + sum(i * n.external for i, n in steps),
                inside + sum(i * n.local for i, n in steps),
            )


def dense(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """Strides in bytes of C order."""
    return tuple(size * prod(shape[d + 1 :]) for d in range(len(shape)))


Extents = tuple[int, ...]


def cut(shape: Extents, fits: Callable[[Extents], bool], cost: Callable[[Extents], float]) -> Extents | None:
    """The largest tile of `halvings` that fits; None where not even one element does."""
    return next((tile for tile in halvings(shape, cost) if fits(tile)), None)


def halvings(shape: Extents, cost: Callable[[Extents], float]) -> Iterator[Extents]:
    """Extents of ever smaller tiles: halved along whichever axis makes all tiles together cheapest. cost:
    cycles of a tile."""
    tile = shape
    while True:
        yield tile
        options = [(*tile[:d], ceil(n / 2), *tile[d + 1 :]) for d, n in enumerate(tile) if n > 1]
        if not options:
            return
        tile = min(options, key=lambda t: cost(t) * count_tiles(shape, t))


def count_tiles(shape: Extents, tile: Extents) -> int:
    return prod(ceil(n / m) for n, m in zip(shape, tile, strict=True))


def tiles(shape: Extents, tile: Extents) -> Iterator[tuple[Extents, Extents]]:
    """Begin and extents of each tile; those at the ends may be smaller."""
    for begin in product(*(range(0, n, m) for n, m in zip(shape, tile, strict=True))):
        yield begin, tuple(min(m, n - b) for n, m, b in zip(shape, tile, begin, strict=True))
