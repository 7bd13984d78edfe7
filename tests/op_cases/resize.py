"""Cases of resizing."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ops.resize import ResizeBilinear, ResizeNearest
from tests.op_cases import OpCase, activations, shapes


@st.composite
def nearest(draw: DrawFn) -> OpCase:
    x_type, x = draw(activations(draw(shapes(4))))
    rows, columns = (
        tuple(draw(st.lists(st.integers(0, extent - 1), min_size=1, max_size=6))) for extent in x.shape[1:3]
    )
    return OpCase(ResizeNearest(rows, columns), (x_type,), (x,))


@st.composite
def bilinear(draw: DrawFn) -> OpCase:
    x_type, x = draw(activations(draw(shapes(4))))
    rows, columns = (
        tuple(draw(st.lists(st.floats(0, extent - 1, width=32), min_size=1, max_size=6)))
        for extent in x.shape[1:3]
    )
    return OpCase(ResizeBilinear(rows, columns), (x_type,), (x,))


CASES = {"resize_nearest": nearest(), "resize_bilinear": bilinear()}
