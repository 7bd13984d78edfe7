"""Resizing images: nearest neighbour and bilinear. Where each output pixel looks is settled at import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.op import Arrays, Lowered, Op, Operand, Types, expect
from compiler.ir.types import TensorType
from compiler.loops.expression import Expression
from compiler.loops.form import Buffer, LoopForm, Role, Stage
from compiler.numerics.element import Array, ElementType
from compiler.ops.shape import activation_buffers

I32, I64 = ElementType.I32, ElementType.I64
# Weights of one axis are in Q11 for 8-bit codes: 8 + 2 * 11 bits fit int32. 16-bit codes take int64 and Q20.
WEIGHT_BITS = {ElementType.I8: 11, ElementType.I16: 20}


@dataclass(frozen=True, slots=True)
class ResizeNearest(Op):
    """[N, H, W, C] -> [N, OH, OW, C]: output pixel (i, j) is input pixel (rows[i], columns[j])."""

    mnemonic: ClassVar[str] = "resize_nearest"
    keeps_quantization: ClassVar[bool] = True
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        return (_resized(inputs[0], self.rows, self.columns),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return (arrays[0][:, np.array(self.rows)[:, None], np.array(self.columns)],)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        return self.float_reference(inputs, arrays)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        x, y = activation_buffers(inputs, outputs)
        rows = Buffer("rows", (len(self.rows),), I32, Role.CONSTANT)
        columns = Buffer("columns", (len(self.columns),), I32, Role.CONSTANT)
        axes = n, i, j, c = y.axes()
        stage = Stage("output", axes, x.load(n, rows.load(i), columns.load(j), c))
        constants = {"rows": np.array(self.rows, np.int32), "columns": np.array(self.columns, np.int32)}
        return Lowered(LoopForm("resize_nearest", (x, rows, columns, y), (stage,)), (0,), constants)


@dataclass(frozen=True, slots=True)
class ResizeBilinear(Op):
    """[N, H, W, C] -> [N, OH, OW, C]: linear between the two rows and two columns around real places.

    rows, columns: where each output row and column lies, in [0, extent - 1] of the input.
    Codes: the part of a place behind the point is rounded half up to w / 2**F (F by `WEIGHT_BITS`), and
    floor(sum of code * w_row * w_column / 2**(2 F) + 1/2) over the four pixels, whose weights sum to
    2**(2 F): one rounding, and the quantization stays.
    """

    mnemonic: ClassVar[str] = "resize_bilinear"
    keeps_quantization: ClassVar[bool] = True
    rows: tuple[float, ...]
    columns: tuple[float, ...]

    def infer(self, inputs: Types) -> tuple[TensorType, ...]:
        x = inputs[0]
        expect(x.element in (*WEIGHT_BITS, ElementType.F32), f"resize_bilinear takes i8, i16 or f32, not {x}")
        return (_resized(x, self.rows, self.columns),)

    def float_reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        x = arrays[0]
        for axis, places in ((1, self.rows), (2, self.columns)):
            first, second = _neighbours(places, x.shape[axis])
            weight = (np.array(places) - first).astype(x.dtype)
            weight = weight.reshape([-1 if d == axis else 1 for d in range(4)])
            x = x.take(first, axis) * (1 - weight) + x.take(second, axis) * weight
        return (x,)

    def reference(self, inputs: Types, arrays: Arrays) -> tuple[Array, ...]:
        bits = WEIGHT_BITS[inputs[0].element]
        total = arrays[0].astype(np.int64)
        for axis, places in ((1, self.rows), (2, self.columns)):
            first, second, weight = _taps(places, total.shape[axis], bits)
            weight = weight.astype(np.int64).reshape([-1 if d == axis else 1 for d in range(4)])
            total = total.take(first, axis) * ((1 << bits) - weight) + total.take(second, axis) * weight
        return (((total + (1 << (2 * bits - 1))) >> (2 * bits)).astype(arrays[0].dtype),)

    def lower(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Lowered:
        """rows, columns: [3, extent], the first and second neighbour and the weight of the second."""
        x, y = activation_buffers(inputs, outputs)
        bits = WEIGHT_BITS[x.element]
        wide = I32 if x.element is ElementType.I8 else I64
        rows = Buffer("rows", (3, len(self.rows)), I32, Role.CONSTANT)
        columns = Buffer("columns", (3, len(self.columns)), I32, Role.CONSTANT)
        axes = n, i, j, c = y.axes()

        def mixed(table: Buffer, at: Expression, first: Expression, second: Expression) -> Expression:
            weight = table.load(2, at).cast(wide)
            return first * ((1 << bits) - weight) + second * weight

        def row(which: int) -> Expression:
            pixels = [x.load(n, rows.load(which, i), columns.load(k, j), c).cast(wide) for k in (0, 1)]
            return mixed(columns, j, pixels[0], pixels[1])

        total = mixed(rows, i, row(0), row(1))
        value = ((total + (1 << (2 * bits - 1))) >> (2 * bits)).cast(y.element)
        form = LoopForm("resize_bilinear", (x, rows, columns, y), (Stage("output", axes, value),))
        constants = {
            "rows": np.stack(_taps(self.rows, x.shape[1], bits)),
            "columns": np.stack(_taps(self.columns, x.shape[2], bits)),
        }
        return Lowered(form, (0,), constants)


def _resized(x: TensorType, rows: Sequence[float], columns: Sequence[float]) -> TensorType:
    expect(x.rank == 4, f"resizing takes [N, H, W, C], not {x}")
    for name, places, extent in (("rows", rows, x.shape[1]), ("columns", columns, x.shape[2])):
        known = len(places) > 0 and min(places) >= 0 and max(places) <= extent - 1
        expect(known, f"{name} {list(places[:4])}… lie outside of {x}")
    return x.with_shape((x.shape[0], len(rows), len(columns), x.shape[3]))


def _neighbours(places: Sequence[float], extent: int) -> tuple[Array, Array]:
    """The last pixel at or before each place, and the one behind it (the last again at the edge)."""
    first = np.floor(np.array(places)).astype(np.int32)
    return first, np.minimum(first + 1, extent - 1).astype(np.int32)


def _taps(places: Sequence[float], extent: int, bits: int) -> tuple[Array, Array, Array]:
    """Both neighbours, and the weight of the second in units of 2**-bits, int32."""
    first, second = _neighbours(places, extent)
    weight = np.floor(np.ldexp(np.array(places) - first, bits) + 0.5).astype(np.int32)
    return first, second, weight
