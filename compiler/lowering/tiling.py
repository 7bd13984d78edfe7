"""How a part of a loop form is split into tiles and walked: what a schedule decides, without TVM."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from compiler.loops.expression import Axis
from compiler.loops.nest import Part

# Lanes and rows of the square blocks that transposing walks in.
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Vectors:
    """Consecutive indices of one axis are computed together, in vectors of `lanes` (a power of two)."""

    axis: Axis
    lanes: int


@dataclass(frozen=True, slots=True)
class TiledPart:
    """A part and its walk.

    The shared axes before `inner` are rows, numbered in C order; a tile is `rows` of them, times `chunk`
    indices of `inner`. Where `inner` is None all shared axes are rows and the stages have axes of their
    own; else every stage is computed for a vector of inner indices at a time.
    vectors: how each nest walks: of axis `inner` where there is one, else of an axis of its own; None:
        one element at a time.
    across: a shared axis that is loaded in vectors where `inner` is only stored in them. Blocks of it
        are rows too, the last of all; each is transposed in registers.
    """

    part: Part
    inner: Axis | None
    rows: int
    chunk: int
    vectors: tuple[Vectors | None, ...]
    across: Axis | None = None

    @property
    def row_axes(self) -> tuple[Axis, ...]:
        axes = tuple(a for a in self.part.shared if a not in (self.inner, self.across))
        return axes if self.across is None else (*axes, Axis("block", -(-self.across.extent // BLOCK)))

    @property
    def row_count(self) -> int:
        return prod(a.extent for a in self.row_axes)

    @property
    def row_tiles(self) -> int:
        return -(-self.row_count // self.rows)

    @property
    def chunks(self) -> int:
        return 1 if self.inner is None else -(-self.inner.extent // self.chunk)

    @property
    def tiles(self) -> int:
        return self.row_tiles * self.chunks


def pieces(count: int, lanes: int) -> tuple[int, ...]:
    """Powers of two below `lanes` that sum to count % lanes, largest first: the vectors of a tail."""
    rest = count % lanes
    return tuple(1 << b for b in reversed(range(lanes.bit_length())) if rest >> b & 1)
