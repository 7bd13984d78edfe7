"""Cases of clips, of ReLU with slopes, and of functions by table."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from compiler.ir.types import TensorType, quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.activation import Clip, PRelu
from compiler.ops.unary import Function, Unary
from tests.op_cases import OpCase, activations, code_types, codes, shapes
from tests.op_cases.convolution import CLAMPS

# Their slope is at most 1.2 everywhere (for alpha <= 1 and beta <= 1).
GENTLE = (
    Function.ABS,
    Function.COS,
    Function.ELU,
    Function.ERF,
    Function.GELU,
    Function.GELU_TANH,
    Function.HARD_SIGMOID,
    Function.MISH,
    Function.SIGMOID,
    Function.SIN,
    Function.SOFTPLUS,
    Function.SOFTSIGN,
    Function.SWISH,
    Function.TANH,
)
# log, roots and powers mean something else on codes outside of their domain.
PARTIAL = (Function.LOG, Function.POWER, Function.SQRT)


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
    return OpCase(op, (type_,), (array,), slack=_table_slack(op, type_, to))


def _table_slack(op: Unary, x: TensorType, to: QuantizedType) -> float | None:
    """Exact for 8 bits; for 16 bits, half of what a function can climb between two knots."""
    if op.function in PARTIAL or op.function is Function.RECIPROCAL:
        return None
    if x.element is not ElementType.I16:
        return 0.501
    return 1.01 + 1.2 * 64 * x.codes.scale / to.scale if op.function in GENTLE else None


CASES: dict[str, SearchStrategy[OpCase]] = {
    "clip": clips(),
    "prelu": slopes(),
    "unary": functions(),
}
