"""Cases of dense layers and matrix products."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ops.dense import Dense
from compiler.ops.matmul import MatMul
from tests.op_cases import OpCase, activations, bipolar_types, code_types, shapes, signs
from tests.op_cases.convolution import CLAMPS, weights


@st.composite
def dense_layers(draw: DrawFn) -> OpCase:
    shape = draw(st.integers(1, 3).flatmap(shapes))
    x_type, x = draw(activations(shape) | signs((*shape[:-1], 5 * shape[-1])))
    types, arrays = draw(weights((draw(st.integers(1, 5)), x_type.shape[-1]), x_type))
    to = draw(st.none() | code_types() | bipolar_types())
    op = Dense(draw(st.sampled_from(CLAMPS)) if to else None, to)
    return OpCase(op, (x_type, *types), (x, *arrays), frozenset({1, 2}))


@st.composite
def products(draw: DrawFn) -> OpCase:
    m, k, n = draw(shapes(3, 6))
    batch = draw(shapes(draw(st.integers(0, 2)), 3))
    transpose_a, transpose_b = draw(st.tuples(st.booleans(), st.booleans()))

    def leading() -> tuple[int, ...]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return tuple(1 if draw(st.integers(0, 3)) == 0 else d for d in kept)

    a_type, a = draw(activations((*leading(), *((k, m) if transpose_a else (m, k)))))
    b_type, b = draw(activations((*leading(), *((n, k) if transpose_b else (k, n)))))
    to = draw(code_types())
    alpha = draw(st.sampled_from([1.0, 0.125, 3.0]))
    op = MatMul(transpose_a, transpose_b, alpha, draw(st.sampled_from(CLAMPS)), to)
    constants = draw(st.sampled_from([frozenset[int](), frozenset({0}), frozenset({1})]))
    return OpCase(op, (a_type, b_type), (a, b), constants)


CASES = {"dense": dense_layers(), "matmul": products()}
