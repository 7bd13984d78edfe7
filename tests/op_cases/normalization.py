"""Cases of normalization."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.types import f32
from compiler.ops.normalization import BatchNorm
from tests.op_cases import OpCase, shapes


@st.composite
def batch_norms(draw: DrawFn) -> OpCase:
    shape = draw(st.integers(2, 4).flatmap(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parameters = rng.uniform(0.5, 2, (4, shape[-1])).astype(np.float32)
    types = (f32(*shape), *[f32(shape[-1])] * 4)
    arrays = (rng.normal(size=shape).astype(np.float32), *parameters)
    return OpCase(BatchNorm(1e-3), types, arrays, frozenset({1, 2, 3, 4}))


CASES = {"batch_norm": batch_norms()}
