"""How far a code may lie from the real result of an operator on its dequantized inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.op import Op, Types
from compiler.ir.types import TensorType
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType, dequantize_array
from compiler.ops.elementwise import Add, Sub
from compiler.ops.matmul import MatMul
from compiler.ops.operands import largest_difference
from compiler.ops.resize import ResizeBilinear
from compiler.ops.softmax import Softmax
from compiler.ops.unary import Function, Unary

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
# Log, roots and powers mean something else on codes outside of their domain.
PARTIAL = (Function.LOG, Function.POWER, Function.SQRT, Function.RECIPROCAL)


def slack(op: Op, types: Types) -> float | None:
    """In steps of the output's scale; rounding alone takes half a step. None where there is no such bound."""
    match op:
        case Add() | Sub():
            # Each multiplier is off by at most half a unit of 2**-shift.
            assert op.to is not None
            a, b = types
            shift = op.factors(a, b, op.to).shift
            return 0.501 + (largest_difference(a) + largest_difference(b)) / 2 ** (shift + 1)
        case MatMul():
            return 0.51 + _dropped(op, types)
        case Softmax():
            # Every exponential of a narrow result is off by up to 2**-17: 2**-9 steps.
            return 0.51 + (types[0].shape[-1] + 1) * 2**-9
        case ResizeBilinear():
            # Two weights are off by up to half a unit: 2**-12 of 255 steps, or 2**-21 of 65535.
            return 0.51 + 2 * 2**-4
        case Unary():
            assert op.to is not None
            return _table_slack(op, types[0], op.to)
        case _:
            return 0.51


def assert_rounded(op: Op, types: Types, arrays: Sequence[Array], results: Sequence[Array]) -> None:
    """Checks the results of an operator on codes against its float meaning on the dequantized inputs."""
    bound = slack(op, types)
    if bound is None:
        return
    real = [dequantized(a, t) for a, t in zip(arrays, types, strict=True)]
    expected = op.float_reference(types, real)
    for codes, wanted, type_ in zip(results, expected, op.infer(types), strict=True):
        if not type_.is_quantized:
            np.testing.assert_allclose(dequantized(codes, type_), wanted, rtol=1e-5, atol=1e-5)
            continue
        if type_.element is ElementType.B1:
            decided = np.abs(wanted) > 1e-9 * max(1.0, float(np.abs(wanted).max(initial=0.0)))
            np.testing.assert_array_equal(codes[decided], np.where(wanted < 0, -1, 1)[decided])
            continue
        step = type_.codes.quantization.scale_array(type_.rank)
        low, high = (dequantized(np.array(e), type_) for e in (type_.element.low, type_.element.high))
        error = np.abs(dequantized(codes, type_) - np.clip(wanted, low, high)) / step
        error = error[~np.isnan(wanted)]  # 0 / 0 in a float layer means nothing; its code is defined
        assert error.max(initial=0.0) <= bound, (
            f"{op} of {[str(t) for t in types]} errs by {error.max(initial=0.0)} steps"
        )


def dequantized(array: Array, type_: TensorType) -> Array:
    """Real values in float64 of codes, or of floats."""
    if type_.element is ElementType.F32:
        return array.astype(np.float64)
    return dequantize_array(array, type_.codes)


def _dropped(op: MatMul, types: Types) -> float:
    """i16 by i16: the sum is cut to 31 bits of its possible range, k * 2**32."""
    a, b = types
    assert op.to is not None
    if (a.element, b.element) != (ElementType.I16, ElementType.I16):
        return 0
    k = a.shape[-2 if op.transpose_a else -1]
    return a.codes.scale * b.codes.scale * op.alpha * 2 * k / op.to.scale


def _table_slack(op: Unary, x: TensorType, to: QuantizedType) -> float | None:
    """Exact for 8 bits; for 16 bits, half of what a function can climb between two knots."""
    if op.function in PARTIAL:
        return None
    if x.element is not ElementType.I16:
        return 0.501
    return 1.01 + 1.2 * 64 * x.codes.scale / to.scale if op.function in GENTLE else None
