"""What VEC computes of codes, for `npu_map.Mapped`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.numerics.element import ElementType
from schedules.npu_emit import Address, Blob, Emitter, load_blob
from schedules.npu_finish import Codes, Finish, inputs
from schedules.npu_map import Mapped, Part, View
from sim.isa import Binary, Elementwise, Lookup, Memory, Softmax

I32 = ElementType.I32
_WITHOUT_FACTORS = (Binary.MIN, Binary.MAX, Binary.MOVE)


def elementwise(
    e: Emitter,
    core: int,
    function: Binary,
    finish: Finish,
    view: tuple[int, int],
    operands: tuple[tuple[int, Codes], tuple[int, Codes]],
    result: tuple[int, int],
) -> None:
    """view: rows and elements of a row; result: address, and bytes between rows."""
    (a, codes_a), (b, codes_b) = operands
    e.set(core, inputs(codes_a, codes_b))
    if function not in _WITHOUT_FACTORS:
        e.set(core, finish.factors())
    e.set(core, finish.output(result[1]))
    e.add(core, Elementwise(function=function, a=a, b=b, dst=result[0], rows=view[0], count=view[1]))


def _codes(m: Mapped, index: int, part: Part) -> Codes:
    operand = m.inputs[index]
    return Codes(operand.element, operand.zero, part.stride, part.scalar)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A function of one or two operands."""

    function: Binary
    finish: Finish
    temporaries: tuple[int, ...] = ()
    by_rows: bool = False

    def prepare(self, e: Emitter, core: int) -> None:
        """Nothing."""

    def emit(self, e: Emitter, core: int, m: Mapped, v: View) -> None:
        operands = [(p.at, _codes(m, i, p)) for i, p in enumerate(v.inputs)]
        finish = self.finish
        if v.inputs[0].scalar:  # only b can be: all functions of two operands commute
            operands = operands[::-1]
            if self.function is Binary.ADD:
                finish = replace(finish, multiplier_a=finish.multiplier_b, multiplier_b=finish.multiplier_a)
        if len(operands) == 1:
            operands.append((0, Codes(m.inputs[0].element)))
        result = (v.result.at, v.result.stride)
        elementwise(e, core, self.function, finish, (v.rows, v.count), (operands[0], operands[1]), result)


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of a table, which has its place in the table memory. contents: of bytes."""

    contents: Blob
    element: ElementType
    temporaries: tuple[int, ...] = ()
    by_rows: bool = False

    def prepare(self, e: Emitter, core: int) -> None:
        load_blob(e, core, self.contents, Memory.TABLE, 0)

    def emit(self, e: Emitter, core: int, m: Mapped, v: View) -> None:
        e.set(core, inputs(_codes(m, 0, v.inputs[0])))
        e.set(core, Finish(self.element).output(v.result.stride))
        e.add(core, Lookup(a=v.inputs[0].at, dst=v.result.at, rows=v.rows, count=v.count, table=0))


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Softmax of each row. contents: one table of int32, or two."""

    contents: Blob
    element: ElementType
    temporaries: tuple[int, ...] = ()
    by_rows: bool = True

    def prepare(self, e: Emitter, core: int) -> None:
        load_blob(e, core, self.contents, Memory.TABLE, 0)

    def emit(self, e: Emitter, core: int, m: Mapped, v: View) -> None:
        e.set(core, inputs(_codes(m, 0, v.inputs[0])))
        e.set(core, Finish(self.element).output(v.result.stride))
        e.add(core, Softmax(a=v.inputs[0].at, dst=v.result.at, rows=v.rows, count=v.count, table=0))


@dataclass(frozen=True, slots=True)
class Slopes:
    """max(x, 0) * one + min(x, 0) * slope, rescaled by finish's multiplier_a; slope is the second operand.

    In three exact steps of 32 bits and one that rounds: the negative part, its product, and the rest.
    """

    finish: Finish
    one: int
    temporaries: tuple[int, ...] = (2, 4, 4)
    by_rows: bool = False

    def prepare(self, e: Emitter, core: int) -> None:
        """Nothing."""

    def emit(self, e: Emitter, core: int, m: Mapped, v: View) -> None:
        x, slope = v.inputs
        view, of = (v.rows, v.count), m.inputs[0]
        negative, product, positive = v.temporary
        narrow, wide = v.count * of.size * (v.rows > 1), v.count * 4 * (v.rows > 1)
        source, below = _codes(m, 0, x), Codes(of.element, of.zero, narrow)
        nothing = (0, Codes(of.element))
        steps = Finish(of.element, high=of.zero)
        elementwise(e, core, Binary.MOVE, steps, view, ((x.at, source), nothing), (negative, narrow))
        operands = ((negative, below), (slope.at, _codes(m, 1, slope)))
        elementwise(e, core, Binary.MUL, Finish(I32), view, operands, (product, wide))
        steps = Finish(I32, self.one, -self.one)
        operands = ((x.at, source), (negative, below))
        elementwise(e, core, Binary.ADD, steps, view, operands, (positive, wide))
        finish = replace(self.finish, multiplier_b=self.finish.multiplier_a)
        operands = ((positive, Codes(I32, 0, wide)), (product, Codes(I32, 0, wide)))
        elementwise(e, core, Binary.ADD, finish, view, operands, (v.result.at, v.result.stride))


def blob(address: Address, size: int) -> Blob:
    """Constant bytes that are not compressed."""
    return Blob(address, size)
