"""Cases of signs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.types import f32
from compiler.ops.sign import Sign
from tests.op_cases import OpCase, shapes


@st.composite
def signs_of_floats(draw: DrawFn) -> OpCase:
    shape = draw(shapes(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.choice([-2.5, -0.0, 0.0, 1e-30, -1e-30, 3.0], shape).astype(np.float32)
    return OpCase(Sign(draw(st.sampled_from([1.0, 0.5]))), (f32(*shape),), (values,))


CASES = {"sign": signs_of_floats()}
