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
    return OpCase(Softmax(to), (x_type,), (x,))


CASES = {"softmax": softmaxes()}
