"""Instructions of layers that compute each element of a result from elements at its place: sums, products,
extremes, tables, and softmax, which computes each row of the last axis from itself. Operands of one bit are
packed along that axis, so their rows stay whole too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Protocol

from compiler.numerics.element import ElementType
from schedules.npu_emit import Address, Emitter, Run
from schedules.npu_transfer import Extents, Transfer, cut, dense, move_in, move_out, tiles
from sim.config import NpuConfig
from sim.isa import Engine, Memory

_LEAST_TILE = 256  # elements: smaller tiles are mostly latency
_TILES_PER_CORE = 4
_MOST_COUNT = (1 << 16) - 1  # rows and elements of one instruction


@dataclass(frozen=True, slots=True)
class Operand:
    """strides: bytes by axis of the result, 0 where one element is repeated; of bits, the last one is between
    the bytes that hold them."""

    address: Address
    element: ElementType
    strides: tuple[int, ...]
    zero: int = 0

    @property
    def size(self) -> int:
        return self.element.dtype.itemsize

    def held(self, shape: Extents) -> Extents:
        """Extents of what there is of it for a part of the result."""
        own = tuple(n if s else 1 for n, s in zip(shape, self.strides, strict=True))
        return self.element.stored_shape(own)


@dataclass(frozen=True, slots=True)
class Part:
    """Where an operand of a view lies inside of the core. stride: bytes between rows; scalar: one element is
    repeated along a row."""

    at: int
    stride: int
    scalar: bool


@dataclass(frozen=True, slots=True)
class View:
    """rows x count elements. temporary: where each of the function's temporaries lies."""

    rows: int
    count: int
    inputs: tuple[Part, ...]
    result: Part
    temporary: tuple[int, ...]


class Function(Protocol):
    """What VEC computes of a view."""

    @property
    def temporaries(self) -> tuple[int, ...]:
        """Bytes of an element of each intermediate result."""
        ...

    @property
    def by_rows(self) -> bool:
        """Whether all elements of the last axis are needed at once."""
        ...

    def prepare(self, e: Emitter, core: int) -> None:
        """Before the first view of a core."""
        ...

    def emit(self, e: Emitter, core: int, m: Mapped, v: View) -> None: ...


@dataclass(frozen=True, slots=True)
class Mapped:
    """result[i] = function(inputs[i]) for all i of a shape."""

    function: Function
    shape: Extents
    inputs: tuple[Operand, ...]
    result: Operand

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (*self.inputs, self.result)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where tiles of so many elements lie: two places for each operand, one for each temporary."""

    elements: int
    operands: tuple[tuple[int, int], ...]  # begin and size of a slot
    temporaries: tuple[int, ...]


def fits(m: Mapped, config: NpuConfig) -> bool:
    """Whether the core holds a tile of the smallest kind."""
    least = m.shape[-1] if m.function.by_rows else 1
    return _places(_sizes(m), config).elements >= least and least <= _MOST_COUNT


def emit_mapped(e: Emitter, m: Mapped) -> None:
    """Tiles in turn on all cores."""
    m = _merged(m)
    manner = e.manner
    tile, places = _tile(m, e.config, manner.grain)
    engines = (Engine.LOAD, Engine.LOAD if manner.alone else Engine.FETCH)
    slots = [
        [e.slots(core, Memory.ACTIVATION, at, size, 2) for at, size in places.operands]
        for core in range(e.config.cores)
    ]
    for number, (begin, shape) in enumerate(tiles(m.shape, tile)):
        core = number % e.config.cores
        if number < e.config.cores:
            m.function.prepare(e, core)
        local: list[int] = []
        for engine, o, of in zip(engines, m.inputs, slots[core], strict=False):
            # What is repeated from tile to tile is still there.
            held = tuple(b for b, s in zip(begin, o.strides, strict=True) if s)
            where, fresh = of.take((held, shape))
            local.append(where)
            if fresh:
                move_in(e, core, engine, _at(o, begin), Memory.ACTIVATION, where, _runs(o, shape), o.size)
        where, _ = slots[core][-1].take(number)
        for view in _views(m, shape, [*local, where], places.temporaries):
            m.function.emit(e, core, m, view)
        move_out(e, core, where, _at(m.result, begin), _runs(m.result, shape), m.result.size)


def _merged(m: Mapped) -> Mapped:
    """Axes that all operands see as one are one; the last stays by itself where rows count."""
    axes = _merge_axes(m.shape, [o.strides for o in m.operands], m.function.by_rows)
    axes = axes or [(1, *(o.size for o in m.operands))]
    operands = [
        Operand(o.address, o.element, tuple(a[i + 1] for a in axes), o.zero) for i, o in enumerate(m.operands)
    ]
    return Mapped(m.function, tuple(a[0] for a in axes), tuple(operands[:-1]), operands[-1])


def _merge_axes(shape: Extents, strides: Sequence[tuple[int, ...]], keep_last: bool) -> list[tuple[int, ...]]:
    """Extent and the operands' strides of each axis that is left."""
    axes = list(zip(shape, *strides, strict=True))
    last = axes[-1:] if keep_last else []
    found: list[tuple[int, ...]] = []
    for n, *steps in axes[: len(axes) - len(last)]:
        if n == 1:
            continue
        if found and all(s == n * t for s, t in zip(found[-1][1:], steps, strict=True)):
            found[-1] = (found[-1][0] * n, *steps)
        else:
            found.append((n, *steps))
    return found + last


def _tile(m: Mapped, config: NpuConfig, grain: float) -> tuple[Extents, _Places]:
    places = _places(_sizes(m), config)
    last = m.shape[-1:] if m.function.by_rows else ()
    enough = grain * max(_LEAST_TILE, ceil(prod(m.shape) / (_TILES_PER_CORE * config.cores)))
    most = min(places.elements, max(int(enough), *last, 1))

    def cost(outer: Extents) -> float:
        tile = (*outer, *last)
        reads = [_transfer(o, tile).cycles(config, o.address.dram) for o in m.inputs]
        writes = _transfer(m.result, tile).cycles(config, m.result.address.dram, write=True)
        groups = prod(tile[:-1]) * ceil(tile[-1] / config.vec.lanes)
        return max(*reads, writes) + groups

    tile = cut(m.shape[: len(m.shape) - len(last)], lambda t: prod((*t, *last)) <= most, cost)
    assert tile is not None  # `fits` holds
    return (*tile, *last), places


def _transfer(o: Operand, tile: Extents) -> Transfer:
    return Transfer.of(_runs(o, tile), o.size)


def _sizes(m: Mapped) -> list[tuple[int, int]]:
    """Bytes of an element and places of each operand, then of each temporary."""
    return [*((o.size, 2) for o in m.operands), *((n, 1) for n in m.function.temporaries)]


def _places(sizes: list[tuple[int, int]], config: NpuConfig) -> _Places:
    """Banks of its own for each place where there are so many."""
    pads = config.scratchpad
    bank = pads.activation_bytes // pads.activation_banks
    tried = {bank * q // size for q in range(1, pads.activation_banks) for size, _ in sizes}
    for elements in sorted(tried - {0}, reverse=True):
        slots = [ceil(elements * size / bank) for size, _ in sizes]
        if sum(n * count for n, (_, count) in zip(slots, sizes, strict=True)) <= pads.activation_banks:
            return _layout(elements, [n * bank for n in slots], sizes)
    elements = pads.activation_bytes // sum(size * count for size, count in sizes)
    return _layout(elements, [elements * size for size, _ in sizes], sizes)


def _layout(elements: int, slots: list[int], sizes: list[tuple[int, int]]) -> _Places:
    begins: list[int] = []
    at = 0
    for slot, (_, count) in zip(slots, sizes, strict=True):
        begins.append(at)
        at += slot * count
    operands = tuple((b, s) for b, s, (_, n) in zip(begins, slots, sizes, strict=True) if n == 2)
    return _Places(min(elements, _MOST_COUNT), operands, tuple(begins[len(operands) :]))


def _at(o: Operand, begin: Extents) -> Address:
    return o.address + sum(b * s for b, s in zip(begin, o.strides, strict=True))


def _runs(o: Operand, shape: Extents) -> list[Run]:
    return [
        Run(n, outside, inside)
        for n, outside, inside in zip(o.held(shape), o.strides, _local_strides(o, shape), strict=True)
    ]


def _local_strides(o: Operand, shape: Extents) -> tuple[int, ...]:
    return tuple(s if own else 0 for s, own in zip(dense(o.held(shape), o.size), o.strides, strict=True))


def _views(m: Mapped, shape: Extents, local: Sequence[int], temporary: tuple[int, ...]) -> Iterator[View]:
    """As few as make a tile: its last two axes, for each index of the others."""
    strides = [_local_strides(o, shape) for o in m.operands]
    axes = _merge_axes(shape, strides, m.function.by_rows)
    whole = [(1, *(0 for _ in strides)), (1, *(o.size for o in m.operands))]
    rows, count = [*whole[: max(0, 2 - len(axes))], *axes][-2:]
    outer = axes[:-2]
    for indices in product(*(range(a[0]) for a in outer)):
        parts = [
            Part(
                at + sum(i * a[k] for i, a in zip(indices, outer, strict=True)),
                rows[k] if rows[0] > 1 else 0,
                count[k] == 0,
            )
            for k, at in enumerate(local, start=1)
        ]
        yield View(rows[0], count[0], tuple(parts[:-1]), parts[-1], temporary)
