"""Loop forms of the main families of operators, for tests and benchmarks."""

from __future__ import annotations

from math import prod

import numpy as np

from compiler.loops.expression import (
    Axis,
    Constant,
    Expression,
    Floor,
    Rescale,
    Select,
    clamp,
    maximum,
    minimum,
)
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.numerics.element import Array, ElementType

I8, I16, I32, I64, F32 = (
    ElementType.I8,
    ElementType.I16,
    ElementType.I32,
    ElementType.I64,
    ElementType.F32,
)
Shape = tuple[int, ...]


def given(name: str, shape: Shape, element: ElementType = I8, strides: Shape | None = None) -> Buffer:
    return Buffer(name, shape, element, Role.INPUT, strides)


def made(name: str, shape: Shape, element: ElementType = I8, strides: Shape | None = None) -> Buffer:
    return Buffer(name, shape, element, Role.OUTPUT, strides)


def constant(name: str, *shape: int, element: ElementType = I32) -> Buffer:
    return Buffer(name, shape, element, Role.CONSTANT)


def add(shape: Shape, in_place: bool = False) -> LoopForm:
    """parameters: zero points a, b; multipliers a, b; half; shift; zero point out; low; high."""
    a, b, y, p = given("a", shape), given("b", shape), made("y", shape), constant("parameters", 9)
    i = y.axes()
    left = (a.load(*i).cast(I32) - p.load(0)) * p.load(2)
    right = (b.load(*i).cast(I32) - p.load(1)) * p.load(3)
    value = clamp(((left + right + p.load(4)) >> p.load(5)) + p.load(6), p.load(7), p.load(8))
    return LoopForm("add", (a, b, p, y), (Stage("y", i, value.cast(I8)),), in_place)


def add_parameters() -> Array:
    shift = 20
    return np.array([-3, 100, 620000, -1500000, 1 << (shift - 1), shift, -20, -100, 120], np.int32)


def multiply_channels(shape: Shape) -> LoopForm:
    """x[..., c] * gate[c], requantized."""
    x, g, y, p = given("x", shape), given("gate", (shape[-1],)), made("y", shape), constant("parameters", 4)
    i = y.axes()
    product = (x.load(*i).cast(I32) - p.load(2)) * (g.load(i[-1]).cast(I32) - p.load(2))
    value = clamp(Rescale(product, p.load(0), p.load(1)) + p.load(3), -128, 127).cast(I8)
    return LoopForm("mul", (x, g, p, y), (Stage("y", i, value),))


def requantize(shape: Shape) -> LoopForm:
    x, y, p = given("x", shape), made("y", shape), constant("parameters", 4)
    i = y.axes()
    scaled = Rescale(x.load(*i).cast(I32) - p.load(2), p.load(0), p.load(1))
    return LoopForm("requantize", (x, p, y), (Stage("y", i, clamp(scaled + p.load(3), -128, 127).cast(I8)),))


def requantize_parameters() -> Array:
    return np.array([1518500250, 32, -7, 5], np.int32)


def relu(shape: Shape) -> LoopForm:
    x, y, p = given("x", shape), made("y", shape), constant("bounds", 2, element=I8)
    value = clamp(x.load(*y.axes()), p.load(0), p.load(1))
    return LoopForm("clip", (x, p, y), (Stage("y", y.axes(), value),))


def table(shape: Shape) -> LoopForm:
    x, y, t = given("x", shape), made("y", shape), constant("table", 256, element=I8)
    value = t.load(x.load(*y.axes()).cast(I32) + 128)
    return LoopForm("lookup", (x, t, y), (Stage("y", y.axes(), value),))


def max_pool(
    height: int, width: int, channels: int, kernel: int = 3, stride: int = 2, pad: int = 1
) -> LoopForm:
    out = ((height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1)
    x, y = given("x", (1, height, width, channels)), made("y", (1, *out, channels))
    n, h, w, c = y.axes()
    kh, kw = Axis("kh", kernel), Axis("kw", kernel)
    ih, iw = h * stride + kh - pad, w * stride + kw - pad
    inside = ih.within(0, height).both(iw.within(0, width))
    value = Select(inside, x.load(n, ih, iw, c), Constant(-128, I8))
    stage = Stage("y", (n, h, w, c), value, (kh, kw), Reduction.MAX, Constant(-128, I8))
    return LoopForm("max_pool", (x, y), (stage,))


def average_pool(height: int, width: int, channels: int, kernel: int = 2) -> LoopForm:
    out = (height // kernel, width // kernel)
    x, y, p = (
        given("x", (1, height, width, channels)),
        made("y", (1, *out, channels)),
        constant("parameters", 4),
    )
    n, h, w, c = y.axes()
    kh, kw = Axis("kh", kernel), Axis("kw", kernel)
    total = Buffer("total", y.shape, I32, Role.SCRATCH)
    value = x.load(n, h * kernel + kh, w * kernel + kw, c).cast(I32) - p.load(2)
    scaled = Rescale(total.load(n, h, w, c), p.load(0), p.load(1)) + p.load(3)
    stages = (
        Stage("total", (n, h, w, c), value, (kh, kw), Reduction.SUM, Constant(0)),
        Stage("y", (n, h, w, c), clamp(scaled, -128, 127).cast(I8)),
    )
    return LoopForm("average_pool", (x, p, y, total), stages)


def global_average_pool(batch: int, height: int, width: int, channels: int) -> LoopForm:
    x, y, p = (
        given("x", (batch, height, width, channels)),
        made("y", (batch, channels)),
        constant("parameters", 4),
    )
    total = Buffer("total", y.shape, I32, Role.SCRATCH)
    n, c = y.axes()
    h, w = Axis("h", height), Axis("w", width)
    scaled = Rescale(total.load(n, c), p.load(0), p.load(1)) + p.load(3)
    stages = (
        Stage("total", (n, c), x.load(n, h, w, c).cast(I32) - p.load(2), (h, w), Reduction.SUM, Constant(0)),
        Stage("y", (n, c), clamp(scaled, -128, 127).cast(I8)),
    )
    return LoopForm("global_average_pool", (x, p, y, total), stages)


def softmax(rows: int, classes: int) -> LoopForm:
    x, y, t = given("x", (rows, classes)), made("y", (rows, classes)), constant("table", 256)
    largest = Buffer("largest", (rows,), I8, Role.SCRATCH)
    powers = Buffer("powers", (rows, classes), I32, Role.SCRATCH)
    total = Buffer("total", (rows,), I64, Role.SCRATCH)
    i, c = Axis("row", rows), Axis("class", classes)
    power = t.load(largest.load(i).cast(I32) - x.load(i, c).cast(I32))
    scaled = (powers.load(i, c).cast(I64) * 256 + (total.load(i) >> 1)) // total.load(i)
    stages = (
        Stage("largest", (i,), x.load(i, c), (c,), Reduction.MAX, Constant(-128, I8)),
        Stage("powers", (i, c), power),
        Stage("total", (i,), powers.load(i, c).cast(I64), (c,), Reduction.SUM, Constant(0, I64)),
        Stage("y", (i, c), (minimum(scaled, 255) - 128).cast(I8)),
    )
    return LoopForm("softmax", (x, t, y, largest, powers, total), stages)


def softmax_table() -> Array:
    return np.floor(65536 * np.exp(-np.arange(256) / 20) + 0.5).astype(np.int32)


def transpose(shape: Shape, order: Shape) -> LoopForm:
    """y = x transposed as numpy does it: axis d of y is axis order[d] of x."""
    x, y = given("x", shape), made("y", tuple(shape[d] for d in order))
    i = y.axes()
    value = x.load(*(i[order.index(d)] for d in range(len(shape))))
    return LoopForm("transpose", (x, y), (Stage("y", i, value),))


def quantize(channels: int, height: int, width: int) -> LoopForm:
    """float32 NCHW -> codes NHWC. parameters: reciprocal scale, low - zero point, high - zero point."""
    x, y = given("x", (1, channels, height, width), F32), made("y", (1, height, width, channels))
    p, z = constant("parameters", 3, element=F32), constant("zero_point", 1)
    n, h, w, c = y.axes()
    value: Expression = Floor(x.load(n, c, h, w) * p.load(0) + 0.5)
    value = maximum(minimum(value, p.load(2)), p.load(1))
    return LoopForm(
        "quantize", (x, p, z, y), (Stage("y", (n, h, w, c), (value.cast(I32) + z.load(0)).cast(I8)),)
    )


def dequantize(height: int, width: int, channels: int) -> LoopForm:
    """codes NHWC -> float32 NCHW."""
    x, y = given("x", (1, height, width, channels)), made("y", (1, channels, height, width), F32)
    p, z = constant("scale", 1, element=F32), constant("zero_point", 1)
    n, c, h, w = y.axes()
    value = (x.load(n, h, w, c).cast(I32) - z.load(0)).cast(F32) * p.load(0)
    return LoopForm("dequantize", (x, p, z, y), (Stage("y", (n, c, h, w), value),))


def concatenate(rows: int, widths: Shape) -> LoopForm:
    parts = [given(f"x{i}", (rows, width)) for i, width in enumerate(widths)]
    y = made("y", (rows, sum(widths)))
    stages = tuple(
        Stage("y", x.axes(), x.load(*x.axes()), origin=(0, sum(widths[:i]))) for i, x in enumerate(parts)
    )
    return LoopForm("concat", (*parts, y), stages)


def pad(height: int, width: int, channels: int, by: int = 1) -> LoopForm:
    x, z = given("x", (height, width, channels)), constant("zero_point", 1, element=I8)
    y = made("y", (height + 2 * by, width + 2 * by, channels))
    h, w, c = y.axes()
    inside = (h - by).within(0, height).both((w - by).within(0, width))
    return LoopForm(
        "pad", (x, z, y), (Stage("y", (h, w, c), Select(inside, x.load(h - by, w - by, c), z.load(0))),)
    )


def resize_nearest(height: int, width: int, channels: int, factor: int = 2) -> LoopForm:
    x, y = given("x", (height, width, channels)), made("y", (height * factor, width * factor, channels))
    h, w, c = y.axes()
    return LoopForm("resize_nearest", (x, y), (Stage("y", (h, w, c), x.load(h // factor, w // factor, c)),))


def resize_bilinear(height: int, width: int, channels: int, out_height: int, out_width: int) -> LoopForm:
    """Tables of left indices and of weights in 1/2048 for rows and columns."""
    x, y = given("x", (height, width, channels)), made("y", (out_height, out_width, channels))
    rows, columns = constant("rows", out_height, 2), constant("columns", out_width, 2)
    h, w, c = y.axes()
    top, left = rows.load(h, 0), columns.load(w, 0)
    bottom, right = minimum(top + 1, height - 1), minimum(left + 1, width - 1)
    down, along = rows.load(h, 1), columns.load(w, 1)

    def between(a: Expression, b: Expression, weight: Expression) -> Expression:
        return a * (Constant(2048) - weight) + b * weight

    def row(index: Expression) -> Expression:
        a, b = (x.load(index, i, c).cast(I32) for i in (left, right))
        return (between(a, b, along) + 64) >> 7

    value = (between(row(top), row(bottom), down) + (1 << 14)) >> 15
    return LoopForm("resize_bilinear", (x, rows, columns, y), (Stage("y", (h, w, c), value.cast(I8)),))


def interpolation_table(inputs: int, outputs: int) -> Array:
    position = np.maximum((np.arange(outputs) + 0.5) * inputs / outputs - 0.5, 0)
    left = np.minimum(np.floor(position), inputs - 1)
    return np.stack([left, np.minimum((position - left) * 2048, 2048)], 1).astype(np.int32)


def elements(form: LoopForm) -> int:
    return sum(prod(b.shape) for b in form.operands if b.role is Role.OUTPUT)
