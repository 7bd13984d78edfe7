"""Cases of pooling and of reductions."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.diagnostics import TypeMismatchError
from compiler.ir.op import Op
from compiler.ir.types import Shape, TensorType
from compiler.numerics.convolve import Window
from compiler.ops.pooling import AveragePool2D, MaxPool2D
from compiler.ops.reduction import Mean, ReduceMax
from tests.op_cases import OpCase, activations, code_types, shapes
from tests.op_cases.convolution import CLAMPS

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def windows(draw: DrawFn) -> Window:
    pads = draw(st.just((0, 0, 0, 0)) | st.tuples(*[st.integers(0, 2)] * 4))
    return Window(draw(PAIRS), draw(PAIRS), draw(st.just((1, 1)) | PAIRS), pads)


def assume_valid(op: Op, x: TensorType) -> None:
    try:
        op.infer([x])
    except TypeMismatchError:
        assume(False)


@st.composite
def max_pools(draw: DrawFn) -> OpCase:
    window = draw(windows())
    x_type, x = draw(activations(draw(shapes(4, 7))))
    op = MaxPool2D(window.kernel, window.stride, window.pads, window.dilation)
    assume_valid(op, x_type)
    return OpCase(op, (x_type,), (x,))


@st.composite
def average_pools(draw: DrawFn) -> OpCase:
    window = draw(windows())
    top, left, bottom, right = (draw(st.integers(0, p)) for p in window.pads)
    x_type, x = draw(activations(draw(shapes(4, 7))))
    op = AveragePool2D(
        window.kernel,
        window.stride,
        window.pads,
        (top, left, bottom, right),
        window.dilation,
        draw(st.sampled_from(CLAMPS)),
        draw(code_types()),
    )
    assume_valid(op, x_type)
    return OpCase(op, (x_type,), (x,))


@st.composite
def reduced_shapes(draw: DrawFn) -> tuple[Shape, tuple[int, ...]]:
    shape = draw(st.integers(1, 4).flatmap(shapes))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return shape, tuple(sorted(axes))


@st.composite
def means(draw: DrawFn) -> OpCase:
    shape, axes = draw(reduced_shapes())
    x_type, x = draw(activations(shape))
    factor = draw(st.sampled_from([1.0, 3.0, 12.0]))
    op = Mean(axes, factor, draw(st.sampled_from(CLAMPS)), draw(code_types()))
    return OpCase(op, (x_type,), (x,))


@st.composite
def maxima(draw: DrawFn) -> OpCase:
    shape, axes = draw(reduced_shapes())
    x_type, x = draw(activations(shape))
    return OpCase(ReduceMax(axes), (x_type,), (x,))


CASES = {
    "max_pool2d": max_pools(),
    "average_pool2d": average_pools(),
    "mean": means(),
    "reduce_max": maxima(),
}
