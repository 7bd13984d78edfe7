"""Cases of operators that move elements."""

from __future__ import annotations

import math

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from compiler.ir.types import quantized
from compiler.ops.shape import Reshape, Transpose
from compiler.ops.slicing import Broadcast, Concat, Gather, Pad, PadMode, Slice
from tests.op_cases import OpCase, activations, code_types, codes, shapes, signs


@st.composite
def reshapes(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    if draw(st.integers(0, 3)) == 0:  # bits move by whole bytes
        shape = (*shape[:2], 8 * shape[2])
        type_, array = draw(signs(shape))
    else:
        type_, array = draw(activations(shape))
    wanted = draw(st.sampled_from([(math.prod(shape),), (shape[0] * shape[1], shape[2]), (1, *shape)]))
    return OpCase(Reshape(wanted), (type_,), (array,))


@st.composite
def transposes(draw: DrawFn) -> OpCase:
    type_, array = draw(activations(draw(shapes(4))))
    return OpCase(Transpose(tuple(draw(st.permutations(range(4))))), (type_,), (array,))


@st.composite
def concats(draw: DrawFn) -> OpCase:
    of, shape = draw(code_types()), draw(shapes(3))
    axis, extents = draw(st.integers(0, 2)), draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    types = tuple(quantized((*shape[:axis], n, *shape[axis + 1 :]), of) for n in extents)
    constants = frozenset(draw(st.sets(st.integers(1, 4)))) & frozenset(range(len(types)))
    return OpCase(Concat(axis), types, tuple(draw(codes(t)) for t in types), constants)


@st.composite
def slices(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3, 7))
    type_, array = draw(activations(shape))
    ranges: list[range] = []
    for extent in shape:
        begin, end = sorted(draw(st.tuples(st.integers(0, extent - 1), st.integers(0, extent - 1))))
        forward = range(begin, end + 1, draw(st.integers(1, 3)))
        ranges.append(forward if draw(st.booleans()) else forward[::-1])
    counts = tuple(len(r) for r in ranges)
    op = Slice(tuple(r.start for r in ranges), counts, tuple(r.step for r in ranges))
    return OpCase(op, (type_,), (array,))


@st.composite
def pads(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    type_, array = draw(activations(shape))
    mode = draw(st.sampled_from(PadMode))
    most = [n - 1 if mode is PadMode.REFLECT else 3 for n in shape]
    before, after = (draw(st.tuples(*(st.integers(0, m) for m in most))) for _ in range(2))
    value = draw(st.sampled_from([0.0, 0.7, -1000.0]))
    return OpCase(Pad(before, after, mode, value), (type_,), (array,))


@st.composite
def broadcasts(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    own = tuple(n if draw(st.booleans()) else 1 for n in shape)[draw(st.integers(0, 3)) :]
    type_, array = draw(activations(own))
    return OpCase(Broadcast(shape), (type_,), (array,))


@st.composite
def gathers(draw: DrawFn) -> OpCase:
    shape, axis = draw(shapes(3)), draw(st.integers(0, 2))
    type_, array = draw(activations(shape))
    indices = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6))
    return OpCase(Gather(axis, tuple(indices)), (type_,), (array,))


CASES: dict[str, SearchStrategy[OpCase]] = {
    "reshape": reshapes(),
    "transpose": transposes(),
    "concat": concats(),
    "slice": slices(),
    "pad": pads(),
    "broadcast": broadcasts(),
    "gather": gathers(),
}
