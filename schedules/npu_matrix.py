"""Products of two matrices that are both computed at run time, batch by batch: what they are, and how a
core holds their operands.

One operand lies in the activation memory as an image of one row, whose pixels are the result's rows. The
other one takes the place of weights: transfers bring it into the weight memory in the array's order, and the
array subtracts its zero point. Either may play either part, where its codes have no more than 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.numerics.element import ElementType
from schedules.npu_emit import Address, Run
from schedules.npu_transfer import Extents


@dataclass(frozen=True, slots=True)
class Matrix:
    """Matrices of an operand or of the result. Strides in bytes, of batch axes 0 where one is repeated."""

    address: Address
    element: ElementType
    batch: tuple[int, ...]
    row: int
    column: int
    zero: int = 0

    @property
    def size(self) -> int:
        return self.element.dtype.itemsize

    @property
    def transposed(self) -> Matrix:
        return replace(self, row=self.column, column=self.row)


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """result [m, n] = left [m, k] by right [k, n] for each index of `batch`. parameters: of one channel, for
    all of them; zero_out of the result stands in `result`; low, high: bounds of its codes."""

    batch: Extents
    m: int
    k: int
    n: int
    left: Matrix
    right: Matrix
    result: Matrix
    parameters: Address
    low: int
    high: int

    @property
    def exchanged(self) -> MatrixProduct:
        """The same result, with `right` as the image."""
        return replace(
            self,
            m=self.n,
            n=self.m,
            left=self.right.transposed,
            right=self.left.transposed,
            result=self.result.transposed,
        )

    @property
    def merged(self) -> MatrixProduct:
        """With more rows instead of a batch, where all matrices have one operand `right`."""
        p = self
        while p.batch:
            count, sides = p.batch[-1], (p.left, p.result)
            together = p.right.batch[-1] == 0 and all(s.batch[-1] == p.m * s.row for s in sides)
            if count > 1 and not together:
                break
            shorter = [replace(x, batch=x.batch[:-1]) for x in (p.left, p.right, p.result)]
            p = replace(
                p,
                batch=p.batch[:-1],
                m=p.m * count,
                left=shorter[0],
                right=shorter[1],
                result=shorter[2],
            )
        return p


@dataclass(frozen=True, slots=True)
class Part:
    """What transfers bring at once. outside, inside: bytes from the begin of the piece that it is part of."""

    outside: int
    inside: int
    runs: tuple[Run, ...]


def image_part(x: Matrix, rows: int, columns: int) -> tuple[Part, ...]:
    """A matrix row by row."""
    return (Part(0, 0, (Run(rows, x.row, columns * x.size), Run(columns, x.column, x.size))),)


def weight_parts(x: Matrix, rows: int, columns: int, lanes: int) -> tuple[Part, ...]:
    """A matrix [k, n] of 8 bits as weights: blocks of `lanes` columns, and what is left of them."""
    whole, rest = divmod(columns, lanes)
    begin = whole * lanes
    block = Run(rows, x.row, lanes), Run(lanes, x.column, 1)
    parts = [Part(0, 0, (Run(whole, lanes * x.column, rows * lanes), *block))] if whole else []
    if rest:
        parts.append(Part(begin * x.column, begin * rows, (Run(rows, x.row, rest), Run(rest, x.column, 1))))
    return tuple(parts)
