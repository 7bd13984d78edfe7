"""Cases of clips, of ReLU with slopes, and of functions by table."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from compiler.ir.types import quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.activation import Clip, PRelu
from compiler.ops.unary import Function, Unary
from tests.op_cases import OpCase, activations, code_types, codes, shapes
from tests.op_cases.convolution import CLAMPS


@st.composite
def clips(draw: DrawFn) -> OpCase:
    type_, array = draw(activations(draw(shapes(3))))
    low, high = draw(st.sampled_from([c for c in CLAMPS if c is not None]))
    return OpCase(Clip(low, high), (type_,), (array,))


@st.composite
def slopes(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    type_, array = draw(activations(shape))
    bits = draw(st.integers(10, 14))
    of = QuantizedType(ElementType.I16, Quantization((2.0**-bits,)))
    slope_type = quantized(draw(st.sampled_from([(1, 1, shape[2]), (1, 1, 1), (shape[2],)])), of)
    op = PRelu(draw(code_types()))
    return OpCase(op, (type_, slope_type), (array, draw(codes(slope_type))), frozenset({1}))


@st.composite
def functions(draw: DrawFn) -> OpCase:
    type_, array = draw(activations(draw(shapes(3))))
    function = draw(st.sampled_from(Function))
    to = draw(code_types())
    op = Unary(function, draw(st.sampled_from([0.2, 0.5, 1.0])), draw(st.sampled_from([0.5, 1.0])), to)
    return OpCase(op, (type_,), (array,))


CASES: dict[str, SearchStrategy[OpCase]] = {
    "clip": clips(),
    "prelu": slopes(),
    "unary": functions(),
}
