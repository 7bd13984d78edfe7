"""Cases of quantize, dequantize and requantize."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.types import f32, quantized
from compiler.ops.edge import Dequantize, Quantize, Requantize
from tests.op_cases import OpCase, activations, bipolar_types, code_types, codes, shapes, signs
from tests.op_cases.convolution import CLAMPS


@st.composite
def quantizations(draw: DrawFn) -> OpCase:
    to = draw(code_types() | bipolar_types())
    shape = draw(shapes(3))
    type_ = quantized(shape, to)
    near = (draw(codes(type_)).astype(np.float64) * 1.2 - to.zero_point) * to.scale
    return OpCase(Quantize(to), (f32(*shape),), (near.astype(np.float32),))


@st.composite
def dequantizations(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    type_, array = draw(activations(shape) | signs(shape))
    return OpCase(Dequantize(), (type_,), (array,))


@st.composite
def requantizations(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    type_, array = draw(activations(shape) | signs(shape))
    op = Requantize(draw(code_types() | bipolar_types()), draw(st.sampled_from(CLAMPS)))
    return OpCase(op, (type_,), (array,))


CASES = {"quantize": quantizations(), "dequantize": dequantizations(), "requantize": requantizations()}
