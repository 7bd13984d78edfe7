"""Cases of softmax."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ops.softmax import Softmax
from tests.op_cases import ACTIVATIONS, OpCase, activations, shapes


@st.composite
def softmaxes(draw: DrawFn) -> OpCase:
    x_type, x = draw(activations(draw(st.integers(1, 4).flatmap(shapes))))
    to = Softmax().fixed_output(draw(st.sampled_from(ACTIVATIONS)))
    # Every exponential of a narrow result is off by up to 2**-17: 2**-9 steps.
    return OpCase(Softmax(to), (x_type,), (x,), slack=0.51 + (x.shape[-1] + 1) * 2**-9)


CASES = {"softmax": softmaxes()}
