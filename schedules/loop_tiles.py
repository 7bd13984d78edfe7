"""Which axis of a part becomes vectors, and how large a tile is: the decisions of the loop template."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from compiler.loops.expression import Axis, Expression, Load, Rescale, Select
from compiler.loops.nest import Nest, Part
from compiler.loops.rewrite import Linear, children, code_of_lookup, depends_on, loads
from compiler.lowering.machine import CpuMachine
from compiler.lowering.tiling import BLOCK, TiledPart, Vectors
from compiler.numerics.element import ElementType

# Up to this many interleaved elements are stored by one shuffle.
_INTERLEAVED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopsConfig:
    """Decisions of the loop template.

    vector_bytes: of the widest intermediate values of the elements that are computed together.
    tile_elements: values that the stages compute in one tile, roughly.
    """

    vector_bytes: int
    tile_elements: int


def tiled(part: Part, machine: CpuMachine, config: LoopsConfig) -> TiledPart:
    """The walk of a part: its last shared axis in vectors where all stages can, else each stage by itself."""
    return _Template(machine, config).tiled(part)


@dataclass(frozen=True, slots=True)
class _Template:
    machine: CpuMachine
    config: LoopsConfig

    def tiled(self, part: Part) -> TiledPart:
        inner = self._inner_axis(part)
        if inner is None:
            vectors = tuple(self._own_vectors(n) for n in part.nests)
            whole = TiledPart(part, None, 1, 1, vectors)
            work = sum(prod(a.extent for a in n.axes + n.over) for n in part.nests)
            return replace(whole, rows=self._share(work, whole))
        across = self._across(part, inner)
        regular = across is None and all(self._vectorizable(n, inner) for n in part.nests)
        lanes = min(self._lanes(n, inner) for n in part.nests) if regular else 1
        whole = TiledPart(part, inner, 1, inner.extent, (Vectors(inner, lanes),) * len(part.nests), across)
        return self._split(whole, BLOCK if across else lanes)

    def _split(self, whole: TiledPart, step: int) -> TiledPart:
        """Rows in tiles; the inner axis only where a single row is a tile's worth."""
        inner = whole.inner
        assert inner is not None
        per_element = sum(prod(a.extent for a in n.over) for n in whole.part.nests)
        if whole.across is not None:
            per_element *= BLOCK
        wanted = max(self.config.tile_elements // per_element, 1)
        if whole.row_count == 1 and wanted < inner.extent:
            return replace(whole, chunk=-(-wanted // step) * step)
        return replace(whole, rows=self._share(per_element * inner.extent, whole))

    def _share(self, work: int, whole: TiledPart) -> int:
        """Rows per tile for so much work per row: whole turns of the last row axis if it can be."""
        rows = max(1, min(whole.row_count, self.config.tile_elements // max(work, 1)))
        turn = whole.row_axes[-1].extent if whole.row_axes else 1
        return rows - rows % turn if rows >= turn else rows

    def _inner_axis(self, part: Part) -> Axis | None:
        """The last shared axis, where the stages have no axes of their own."""
        if not part.shared or any(n.axes for n in part.nests) or any(count != 1 for _, count in part.scratch):
            return None
        inner = part.shared[-1]
        if all(self._vectorizable(n, inner) for n in part.nests):
            return inner
        return inner if len(part.nests) == 1 and self._reduction_axis(part.nests[0]) is None else None

    def _across(self, part: Part, inner: Axis) -> Axis | None:
        """A shared axis along which all is loaded, where the inner one is only stored: transpose blocks."""
        nest = part.nests[0]
        if (
            len(part.nests) > 1
            or nest.over
            or nest.address.step(inner) != 1
            or self._vectorizable(nest, inner)
        ):
            return None
        for axis in part.shared[:-1]:
            gap = nest.address.step(axis)
            fits = inner.extent >= BLOCK or (inner.extent <= _INTERLEAVED and gap == inner.extent)
            if axis.extent >= BLOCK and gap and fits and self._reads_in_steps(nest.value, axis):
                return axis
        return None

    def _lanes(self, nest: Nest, axis: Axis) -> int:
        """A power of two that leaves at least one full vector."""
        width = max(_widest(e, axis, self.machine) for e in nest.expressions)
        most = 1 << (axis.extent.bit_length() - 1)
        if nest.packed:  # whole bytes, or what is left of one
            most = max(most, 8)
        return max(1, min(self.config.vector_bytes // width, most))

    def _own_vectors(self, nest: Nest) -> Vectors | None:
        """Along the last axis of the nest itself, else along a reduced one."""
        along = nest.axes and self._vectorizable(nest, nest.axes[-1])
        axis = nest.axes[-1] if along else self._reduction_axis(nest)
        return None if axis is None else Vectors(axis, self._lanes(nest, axis))

    def _reduction_axis(self, nest: Nest) -> Axis | None:
        """The last reduced axis where it can be taken in vectors: any order gives the same integer."""
        if not nest.over or not nest.value.element.is_integer:
            return None
        return nest.over[-1] if self._reads_in_steps(nest.value, nest.over[-1]) else None

    def _vectorizable(self, nest: Nest, axis: Axis) -> bool:
        """A store that does not move with the axis is one to a private buffer, which has a slot per lane."""
        return nest.address.step(axis) in (0, 1) and all(
            self._reads_in_steps(e, axis) for e in nest.expressions
        )

    def _reads_in_steps(self, e: Expression, axis: Axis) -> bool:
        """Whether neighbouring indices of `axis` load the same or neighbouring elements, unconditionally."""
        if isinstance(e, Load):
            code = code_of_lookup(e) if self.machine.permutes_bytes else None
            if code is not None:
                return self._reads_in_steps(code, axis)
            return Linear.of(e.indices[0]).step(axis) in (0, 1)
        if isinstance(e, Select) and depends_on(e.condition, axis):
            return not any(True for x in children(e)[1:] for _ in loads(x))
        return all(self._reads_in_steps(x, axis) for x in children(e))


def _widest(e: Expression, axis: Axis, machine: CpuMachine) -> int:
    """Bytes of the widest value on the way to `e` that is computed for every index of `axis`."""
    match e:
        case Load():
            return e.element.dtype.itemsize
        case Rescale() if not machine.is_aarch64:
            return ElementType.I64.dtype.itemsize
        case Select() if not depends_on(e.condition, axis):
            return max(_widest(x, axis, machine) for x in (e.when_true, e.when_false))
        case _:
            return max([e.element.dtype.itemsize, *(_widest(x, axis, machine) for x in children(e))])
