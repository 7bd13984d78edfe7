"""Cases of sums, products, quotients and extremes of two tensors."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from compiler.ir.diagnostics import TypeMismatchError
from compiler.ir.op import Op
from compiler.ir.types import Shape, f32, quantized
from compiler.ops.elementwise import Add, Div, Mul, Sub
from compiler.ops.extremes import Maximum, Minimum
from tests.op_cases import OpCase, activations, code_types, codes, shapes
from tests.op_cases.convolution import CLAMPS

# At most one operand of a node is a constant.
CONSTANTS = st.sampled_from([frozenset[int](), frozenset({0}), frozenset({1})])


@st.composite
def broadcast_shapes(draw: DrawFn) -> tuple[Shape, Shape]:
    """Two shapes that broadcast: extents fall to 1, axes in front fall away."""
    shape = draw(shapes(3))

    def part() -> Shape:
        kept = tuple(n if draw(st.booleans()) else 1 for n in shape)
        return kept[draw(st.sampled_from([0, 0, 0, 1, 2, 3])) :]

    whole = (shape, part())
    return draw(st.sampled_from([whole, (whole[1], whole[0]), (part(), part()), (shape, shape)]))


@st.composite
def arithmetic(draw: DrawFn, kind: type[Add | Sub | Mul]) -> OpCase:
    a_shape, b_shape = draw(broadcast_shapes())
    (a_type, a), (b_type, b) = draw(activations(a_shape)), draw(activations(b_shape))
    op = kind(draw(st.sampled_from(CLAMPS)), draw(code_types()))
    try:
        op.infer([a_type, b_type])
    except TypeMismatchError:
        assume(False)
    return OpCase(op, (a_type, b_type), (a, b), draw(CONSTANTS))


@st.composite
def quotients(draw: DrawFn) -> OpCase:
    a_shape, b_shape = draw(broadcast_shapes())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b = rng.normal(size=a_shape), rng.uniform(0.5, 2, b_shape) * rng.choice([-1, 1], b_shape)
    arrays = (a.astype(np.float32), b.astype(np.float32))
    return OpCase(Div(), (f32(*a_shape), f32(*b_shape)), arrays, draw(CONSTANTS))


@st.composite
def extremes(draw: DrawFn, op: Op) -> OpCase:
    of = draw(code_types())
    types = tuple(quantized(shape, of) for shape in draw(broadcast_shapes()))
    return OpCase(op, types, tuple(draw(codes(t)) for t in types), draw(CONSTANTS))


CASES: dict[str, SearchStrategy[OpCase]] = {
    "add": arithmetic(Add),
    "sub": arithmetic(Sub),
    "mul": arithmetic(Mul),
    "div": quotients(),
    "minimum": extremes(Minimum()),
    "maximum": extremes(Maximum()),
}
