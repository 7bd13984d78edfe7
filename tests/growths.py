"""Ways to grow a random graph by operators that take its values as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from compiler.ir.graph import Value
from compiler.ir.types import TensorType, quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.activation import Clip, PRelu
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.ops.edge import Requantize
from compiler.ops.elementwise import Add, Mul, Sub
from compiler.ops.extremes import Maximum, Minimum
from compiler.ops.matmul import MatMul
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean, ReduceMax
from compiler.ops.resize import ResizeBilinear, ResizeNearest
from compiler.ops.shape import Reshape, Transpose
from compiler.ops.slicing import Broadcast, Concat, Gather, Pad, PadMode, Slice
from compiler.ops.softmax import Softmax
from compiler.ops.unary import Function, Unary
from tests.growing import Growing, reach, types_reaching
from tests.op_cases import ACTIVATIONS, codes
from tests.op_cases.convolution import CLAMPS, weights

Growth = Callable[[Growing], None]


def is_image(value: Value) -> bool:
    return value.type.rank == 4


def convolution(g: Growing) -> None:
    x = g.pick(is_image)
    if x is None:
        return
    channels = x.type.shape[3]
    groups = g.draw(st.sampled_from([1, 1, channels, *(d for d in (2, 3) if channels % d == 0)]))
    depthwise = groups == channels and g.chance(2)
    out_channels = channels if depthwise else groups * g.number(1, max(1, 40 // groups))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride = g.draw(st.just((1, 1)) | pair), g.draw(st.just((1, 1)) | pair)
    dilation = g.draw(st.just((1, 1)) | pair)
    pads = g.draw(st.just((0, 0, 0, 0)) | st.just((1, 1, 1, 1)) | st.tuples(*[st.integers(0, 2)] * 4))
    types, arrays = g.draw(weights((out_channels, *kernel, channels // groups), x.type))
    op = Conv2D(stride, pads, dilation, groups, *g.draw(contraction_results(x.type, types[0])))
    if min(op.window(types[0]).output(*x.type.shape[1:3])) > 0:
        g.grow(op, x, *(g.constant(a, t) for a, t in zip(arrays, types, strict=True)))


def dense(g: Growing) -> None:
    x = g.pick(lambda v: v.type.rank >= 1)
    if x is None:
        return
    types, arrays = g.draw(weights((g.number(1, 40), x.type.shape[-1]), x.type))
    op = Dense(*g.draw(contraction_results(x.type, types[0])))
    g.grow(op, x, *(g.constant(a, t) for a, t in zip(arrays, types, strict=True)))


@st.composite
def contraction_results(
    draw: st.DrawFn, x: TensorType, weight: TensorType
) -> tuple[tuple[float, float] | None, QuantizedType | None]:
    """Clamp and result type of a contraction; raw accumulators at times."""
    if draw(st.integers(0, 9)) == 0:
        return None, None
    taps = math.prod(weight.shape[1:])
    size = weight.codes.quantization.scales[0] * weight.element.weight_limit * reach(x) * math.sqrt(taps)
    return draw(st.sampled_from(CLAMPS)), draw(types_reaching(size / 2))


def product(g: Growing) -> None:
    """x * x^T, x^T * x, or two values that happen to fit."""
    x = g.pick(lambda v: v.type.rank >= 2)
    if x is None:
        return
    transpose = g.chance(2)
    k = x.type.shape[-2 if transpose else -1]
    to = g.draw(types_reaching(reach(x.type) ** 2 * math.sqrt(k) / 2))
    g.grow(MatMul(transpose, not transpose, 1.0, g.draw(st.sampled_from(CLAMPS)), to), x, x)


def pair(g: Growing) -> None:
    """A residual join: of two values of one shape, of a value and itself, or with a broadcast constant."""
    a = g.pick()
    assert a is not None
    b = g.pick(lambda v: v.type.shape == a.type.shape)
    if g.chance(3) and a.type.rank > 0:
        type_ = quantized(a.type.shape[-1:], g.draw(types_reaching(reach(a.type))))
        b = g.constant(g.draw(codes(type_)), type_)
    if b is None:
        return
    if g.chance(2) and b.constant is None:
        a, b = b, a
    reaches = reach(a.type), reach(b.type)
    clamp = g.draw(st.sampled_from(CLAMPS))
    kind = g.number(0, 2)
    if kind == 2:
        g.grow(Mul(clamp, g.draw(types_reaching(math.prod(reaches)))), a, b)
    else:
        g.grow((Add, Sub)[kind](clamp, g.draw(types_reaching(sum(reaches)))), a, b)


def extreme(g: Growing) -> None:
    a = g.pick()
    assert a is not None
    b = g.pick(lambda v: v.type.shape == a.type.shape)
    assert b is not None
    g.grow(g.draw(st.sampled_from([Minimum(), Maximum()])), a, g.requantized(b, a.type.codes))


def pointwise(g: Growing) -> None:
    """Chains of these run in place."""
    x = g.pick()
    assert x is not None
    to = g.draw(types_reaching(reach(x.type)))
    match g.number(0, 4):
        case 0:
            g.grow(Clip(*g.draw(st.sampled_from([c for c in CLAMPS if c is not None]))), x)
        case 1:
            g.grow(Requantize(to, g.draw(st.sampled_from(CLAMPS))), x)
        case 2 if x.type.rank > 0:
            of = QuantizedType(ElementType.I16, Quantization((2.0**-12,)))
            slopes = quantized(x.type.shape[-1:], of)
            g.grow(PRelu(to), x, g.constant(g.draw(codes(slopes)), slopes))
        case _:
            to = g.draw(types_reaching(4.0))
            g.grow(Unary(g.draw(st.sampled_from(Function)), 0.5, 0.5, to), x)


def pool(g: Growing) -> None:
    x = g.pick(is_image)
    if x is None:
        return
    kernel, stride = ((g.number(1, 3), g.number(1, 3)) for _ in range(2))
    pads = g.draw(st.just((0, 0, 0, 0)) | st.tuples(*[st.integers(0, 1)] * 4))
    if g.chance(2):
        g.grow(MaxPool2D(kernel, stride, pads), x)
    else:
        counted = pads if g.chance(2) else (0, 0, 0, 0)
        g.grow(AveragePool2D(kernel, stride, pads, counted, to=g.draw(types_reaching(reach(x.type)))), x)


def reduction(g: Growing) -> None:
    x = g.pick(lambda v: v.type.rank > 0)
    if x is None:
        return
    match g.number(0, 2):
        case 0:
            g.grow(Softmax(Softmax().fixed_output(g.draw(st.sampled_from(ACTIVATIONS)))), x)
        case kind:
            axes = tuple(sorted(g.draw(st.sets(st.integers(0, x.type.rank - 1), min_size=1))))
            to = g.draw(types_reaching(reach(x.type)))
            g.grow(ReduceMax(axes) if kind == 1 else Mean(axes, 1.0, None, to), x)


def resize(g: Growing) -> None:
    x = g.pick(is_image)
    if x is None:
        return
    _, height, width, _ = x.type.shape
    rows, columns = g.number(1, 8), g.number(1, 8)
    if g.chance(2):
        places = [tuple(int(i * n / m) for i in range(m)) for n, m in ((height, rows), (width, columns))]
        g.grow(ResizeNearest(*places), x)
    else:
        real = [
            tuple(float(v) for v in np.linspace(0, n - 1, m)) for n, m in ((height, rows), (width, columns))
        ]
        g.grow(ResizeBilinear(*real), x)


def join(g: Growing) -> None:
    """A concatenation of two to four values along any axis that they allow; the same value may come twice."""
    first = g.pick(lambda v: v.type.rank > 0)
    if first is None:
        return
    axis = g.number(0, first.type.rank - 1)

    def fits(value: Value) -> bool:
        a, b = value.type.shape, first.type.shape
        return len(a) == len(b) and all(
            m == n for d, (m, n) in enumerate(zip(a, b, strict=True)) if d != axis
        )

    parts = [first]
    for _ in range(g.number(1, 3)):
        part = g.pick(fits)
        assert part is not None
        parts.append(g.requantized(part, first.type.codes))
    if g.chance(5):
        parts.append(g.constant(g.draw(codes(first.type)), first.type))
    g.grow(Concat(axis), *g.draw(st.permutations(parts)))


def cut(g: Growing) -> None:
    """A slice, or both halves."""
    x = g.pick(lambda v: v.type.rank > 0)
    if x is None:
        return
    shape = x.type.shape
    axis = g.number(0, len(shape) - 1)
    if shape[axis] > 1 and g.chance(2):
        at = g.number(1, shape[axis] - 1)
        for start, count in ((0, at), (at, shape[axis] - at)):
            begin, extent = [0] * len(shape), list(shape)
            begin[axis], extent[axis] = start, count
            g.grow(Slice(tuple(begin), tuple(extent), (1,) * len(shape)), x)
        return
    begin = [g.number(0, n - 1) if g.chance(2) else 0 for n in shape]
    step = [g.draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in shape]
    counts = [-(-(n - b) // s) for n, b, s in zip(shape, begin, step, strict=True)]
    if g.chance(4):
        begin[axis], step[axis], counts[axis] = shape[axis] - 1, -1, shape[axis]
    g.grow(Slice(tuple(begin), tuple(counts), tuple(step)), x)


def move(g: Growing) -> None:
    x = g.pick()
    assert x is not None
    shape = x.type.shape
    match g.number(0, 4):
        case 0:
            g.grow(Transpose(tuple(g.draw(st.permutations(range(len(shape)))))), x)
        case 1 if shape:
            split = (*shape[:-1], 2, shape[-1] // 2) if shape[-1] % 2 == 0 else (*shape, 1)
            merged = (math.prod(shape[:-1]), shape[-1])
            options = [(math.prod(shape),), merged, split, (1, 1, *merged), (1, *shape)]
            g.grow(Reshape(g.draw(st.sampled_from(options))), x)
        case 2:
            mode = g.draw(st.sampled_from(PadMode))
            most = [n - 1 if mode is PadMode.REFLECT else 2 for n in shape]
            before, after = (tuple(g.number(0, min(m, 2)) for m in most) for _ in range(2))
            g.grow(Pad(before, after, mode, g.draw(st.sampled_from([0.0, 0.7]))), x)
        case 3 if shape:
            axis = g.number(0, len(shape) - 1)
            indices = g.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6))
            g.grow(Gather(axis, tuple(indices)), x)
        case _:
            wide = tuple(g.number(1, 3) if n == 1 else n for n in shape)
            g.grow(Broadcast(wide), x)


# The structure of memory is made by joins and cuts, so they come more often.
GROWTHS: tuple[Growth, ...] = (
    convolution, convolution, dense, product, pair, pair, extreme, pointwise, pointwise, pool, reduction,
    resize, join, join, join, cut, cut, move, move,
)  # fmt: skip
