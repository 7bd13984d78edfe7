"""Cases of convolution and of what is built like it."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.types import Shape, TensorType
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization
from compiler.ops.contraction import Clamp, bias_type
from compiler.ops.convolution import Conv2D
from tests.op_cases import OpCase, activations, bipolar_types, code_types, signs

WEIGHTS = (ElementType.I8, ElementType.I4, ElementType.I2, ElementType.B1)
CLAMPS: tuple[Clamp, ...] = (None, (0.0, float("inf")), (0.0, 6.0), (-1.0, 1.0))


@st.composite
def weights(draw: DrawFn, shape: Shape, x: TensorType) -> tuple[tuple[TensorType, ...], tuple[Array, ...]]:
    """Weight [O, ...] and bias [O]: types and codes."""
    element = ElementType.B1 if x.element is ElementType.B1 else draw(st.sampled_from(WEIGHTS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = tuple(float(np.float32(s)) for s in rng.uniform(2**-9, 2**-5, shape[0]))
    quantization = Quantization(scales, 0, 0) if draw(st.booleans()) else Quantization(scales[:1])
    limit = element.weight_limit
    codes = rng.integers(-limit, limit + 1, shape).astype(np.int8)
    if element is ElementType.B1:
        codes = np.where(codes < 0, -1, 1).astype(np.int8)
    weight = TensorType(shape, element, quantization)
    bias = rng.integers(-(1 << 16), 1 << 16, shape[0]).astype(np.int32)
    return (weight, bias_type(x, weight)), (codes, bias)


@st.composite
def convolutions(draw: DrawFn) -> OpCase:
    bits = draw(st.integers(0, 3)) == 0
    groups = 1 if bits else draw(st.integers(1, 3))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(st.just((1, 1)) | pair)
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    batch, height, width = draw(st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)))
    per_group = draw(st.integers(1, 3) | st.sampled_from([8, 13, 40]) if bits else st.integers(1, 3))
    out_channels = groups * draw(st.integers(1, 3) | st.just(11))
    shape = (batch, height, width, groups * per_group)
    x_type, x = draw(signs(shape) if bits else activations(shape))
    types, arrays = draw(weights((out_channels, *kernel, per_group), x_type))
    to = draw(st.none() | code_types() | bipolar_types() if groups == 1 else st.none() | code_types())
    op = Conv2D(stride, pads, dilation, groups, draw(st.sampled_from(CLAMPS)) if to else None, to)
    assume(min(op.window(types[0]).output(height, width)) > 0)
    return OpCase(op, (x_type, *types), (x, *arrays), frozenset({1, 2}))


CASES = {"conv2d": convolutions()}
