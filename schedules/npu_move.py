"""Instructions of layers that move elements: copies, transposes, slices, pads, repetitions, gathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from schedules.npu_emit import MAX_ROW_BYTES, Address, Emitter, Run
from schedules.npu_transfer import Extents, Transfer, count_tiles, cut, dense, move_in, move_out, tiles
from sim.config import NpuConfig
from sim.isa import Engine, Fill, LocalStrides, Memory

_LEAST_TILE = 1024  # bytes: smaller transfers are mostly latency
_TILES_PER_CORE = 4
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of the result, and where its elements come from: strides in bytes by axis of the result, 0 where
    one element is repeated."""

    begin: Extents
    shape: Extents
    source: Address
    strides: tuple[int, ...]

    def within(self, begin: Extents, shape: Extents) -> Piece | None:
        """What lies in a box of the result; `begin` is then in that box."""
        low = [max(a, b) for a, b in zip(self.begin, begin, strict=True)]
        ends = zip(self.begin, self.shape, begin, shape, strict=True)
        extents = tuple(min(a + n, b + m) - at for at, (a, n, b, m) in zip(low, ends, strict=True))
        if min(extents, default=1) <= 0:
            return None
        skipped = sum((at - a) * s for at, a, s in zip(low, self.begin, self.strides, strict=True))
        own = tuple(at - b for at, b in zip(low, begin, strict=True))
        return Piece(own, extents, self.source + skipped, self.strides)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Disjoint pieces make a result of any rank; what they leave free holds `fill`, a code. size: bytes of an
    element."""

    shape: Extents
    pieces: tuple[Piece, ...]
    target: Address
    target_strides: tuple[int, ...]
    size: int
    fill: int = 0


def emit_assembly(e: Emitter, a: Assembly) -> None:
    """Tiles of the result in turn on all cores: loads put the pieces in their places, one store each."""
    pads = e.config.scratchpad
    slot = pads.activation_banks // 2 * (pads.activation_bytes // pads.activation_banks)
    options = [_planned(a, held, slot, e.config, e.manner.grain) for held in {_NONE, _repeated(a)}]
    _, tile, held = min(options, key=lambda o: (o[0], len(o[2])))
    slots = [e.slots(core, Memory.ACTIVATION, 0, slot, 2) for core in range(e.config.cores)]
    for number, (begin, shape) in enumerate(tiles(a.shape, tile)):
        core = number % e.config.cores
        local, _ = slots[core].take(number)
        _tile(e, core, a, begin, shape, held, local)


def _repeated(a: Assembly) -> frozenset[int]:
    """Axes that the only piece repeats."""
    piece = a.pieces[0]
    if len(a.pieces) > 1 or piece.shape != a.shape:
        return _NONE
    return frozenset(d for d, s in enumerate(piece.strides) if s == 0 and a.shape[d] > 1)


def _planned(
    a: Assembly, held: frozenset[int], slot: int, config: NpuConfig, grain: float
) -> tuple[float, Extents, frozenset[int]]:
    """Cycles, tile, and the axes that a tile holds once and its store repeats."""
    largest = max(a.pieces, key=lambda p: prod(p.shape), default=None)
    whole = prod(_inside(a.shape, held)) * a.size
    most = min(slot, int(grain * max(_LEAST_TILE, whole // (_TILES_PER_CORE * config.cores))))

    def cost(tile: Extents) -> float:
        local = _local_strides(tile, held, a.size)
        out = Transfer.of(_runs(tile, a.target_strides, local), a.size)
        found = out.cycles(config, a.target.dram, write=True)
        if largest is not None:
            box = _inside(tuple(min(m, n) for m, n in zip(tile, largest.shape, strict=True)), held)
            into = Transfer.of(_runs(box, largest.strides, local), a.size)
            found = max(found, into.cycles(config, largest.source.dram))
        return found

    tile = cut(a.shape, lambda t: prod(_inside(t, held)) * a.size <= most, cost)
    assert tile is not None  # one element fits
    return cost(tile) * count_tiles(a.shape, tile), tile, held


def _inside(tile: Extents, held: frozenset[int]) -> Extents:
    return tuple(1 if d in held else n for d, n in enumerate(tile))


def _local_strides(tile: Extents, held: frozenset[int], size: int) -> tuple[int, ...]:
    return tuple(0 if d in held else s for d, s in enumerate(dense(_inside(tile, held), size)))


def _runs(shape: Sequence[int], outside: Sequence[int], inside: Sequence[int]) -> list[Run]:
    return [Run(*t) for t in zip(shape, outside, inside, strict=True)]


def _tile(
    e: Emitter,
    core: int,
    a: Assembly,
    begin: Extents,
    shape: Extents,
    held: frozenset[int],
    at: int,
) -> None:
    local = _local_strides(shape, held, a.size)
    pieces = [inside for p in a.pieces if (inside := p.within(begin, shape)) is not None]
    if sum(prod(p.shape) for p in pieces) < prod(shape):
        fill(e, core, at, prod(shape) * a.size, a.fill, a.size)
    for p in pieces:
        where = at + sum(b * s for b, s in zip(p.begin, local, strict=True))
        move_in(
            e,
            core,
            Engine.LOAD,
            p.source,
            Memory.ACTIVATION,
            where,
            _runs(_inside(p.shape, held), p.strides, local),
            a.size,
        )
    target = a.target + sum(b * s for b, s in zip(begin, a.target_strides, strict=True))
    move_out(e, core, at, target, _runs(shape, a.target_strides, local), a.size)


def fill(e: Emitter, core: int, local: int, count: int, code: int, size: int) -> None:
    """count bytes of one code of one or two bytes, or of zeros."""
    pattern = (code & 255) * 257 if size == 1 else code & 65535
    e.set(core, LocalStrides(engine=Engine.LOAD, row=0, plane=0, element=1, element_bytes=1))
    for begin in range(0, count, MAX_ROW_BYTES):
        fill = Fill(
            engine=Engine.LOAD,
            memory=Memory.ACTIVATION,
            local=local + begin,
            row_bytes=min(MAX_ROW_BYTES, count - begin),
            rows=1,
            planes=1,
            pattern=pattern,
        )
        e.add(core, fill)
