"""Laws of element-wise operators beyond the contract: float loops, quantization, tables of 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import TypeMismatchError
from compiler.ir.op import Op, Operand, Quantized, QuantizedOperand, Refusal
from compiler.ir.types import f32, quantized
from compiler.loops.evaluate import evaluate
from compiler.loops.form import LoopForm, Role
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import SumFactors
from compiler.numerics.quantization import (
    Quantization,
    QuantizedType,
    dequantize_array,
    from_range,
    quantize_array,
)
from compiler.ops.activation import Clip, PRelu
from compiler.ops.edge import Requantize
from compiler.ops.elementwise import Add, Div, Mul, Sub
from compiler.ops.extremes import Maximum, Minimum
from compiler.ops.slicing import Concat, Pad, Slice
from compiler.ops.unary import Function, Unary

I8, I16 = ElementType.I8, ElementType.I16
RNG = np.random.default_rng(0)


def of_range(low: float, high: float, element: ElementType = I8) -> QuantizedType:
    return QuantizedType(element, from_range(low, high, element))


def run_form(op: Op, operands: list[Operand], arrays: list[Array]) -> Array:
    (result,) = op.infer([o.type for o in operands])
    lowered = op.lower(operands, [Operand(result)])
    assert isinstance(lowered.form, LoopForm)
    names = [b.name for b in lowered.form.buffers if b.role is Role.INPUT]
    inputs = {n: arrays[i] for n, i in zip(names, lowered.inputs, strict=True)}
    return evaluate(lowered.form, {**inputs, **lowered.constants})["output"]


FLOAT_OPS: list[Op] = [
    *(Add(), Add((0.0, 1.0)), Sub(), Mul(), Mul((-0.5, 0.5)), Div(), Minimum(), Maximum(), PRelu()),
    *(Clip(-0.3, 0.7), Slice((1, 0, 4), (1, 3, 2), (1, 1, -2)), Pad((1, 0, 2), (0, 1, 0), value=0.3)),
    *(Unary(f, 0.3, 0.4) for f in (Function.ABS, Function.HARD_SIGMOID, Function.HARD_SWISH)),
    *(Unary(f, 0.3, 0.4) for f in (Function.RECIPROCAL, Function.SOFTSIGN)),
]


@pytest.mark.parametrize("op", FLOAT_OPS, ids=repr)
@pytest.mark.parametrize("constant", [False, True])
def test_float_forms_compute_the_float_reference_bit_for_bit(op: Op, constant: bool) -> None:
    arrays = [RNG.normal(size=s).astype(np.float32) for s in ((2, 3, 5), (3, 1))]
    operands = [Operand(f32(2, 3, 5)), Operand(f32(3, 1), None, arrays[1] if constant else None)]
    if not isinstance(op, Add | Sub | Mul | Div | Minimum | Maximum | PRelu):
        arrays, operands = arrays[:1], operands[:1]
    (expected,) = op.float_reference([o.type for o in operands], arrays)
    np.testing.assert_array_equal(run_form(op, operands, arrays), expected)


def test_a_transcendental_function_of_floats_has_no_kernel() -> None:
    with pytest.raises(TypeMismatchError, match="tanh of floats has no kernel"):
        Unary(Function.TANH).lower([Operand(f32(3))], [Operand(f32(3))])


@pytest.mark.parametrize("element", [I8, I16])
@pytest.mark.parametrize("op", [Add(), Sub(), Mul()])
def test_a_constant_operand_costs_no_precision(op: Op, element: ElementType) -> None:
    """Even where its channels differ a thousandfold."""
    scales = np.array([0.003, -0.1, 1.0, 2.0], np.float32)
    x_type = quantized((64, 4), of_range(-2, 2, element))
    x = RNG.integers(element.low, element.high + 1, (64, 4)).astype(element.dtype)
    real = dequantize_array(x, x_type.codes)
    (wanted,) = op.float_reference([f32(64, 4), f32(4)], [real, scales.astype(np.float64)])
    to = of_range(float(wanted.min()), float(wanted.max()), element)
    operands = [QuantizedOperand(x_type), QuantizedOperand(f32(4), scales)]
    quantization = op.quantize(operands, [to], I8)
    assert isinstance(quantization, Quantized)
    c_type, c = quantization.constants[1]
    (codes,) = quantization.op.reference([x_type, c_type], [x, c])
    error = np.abs(
        dequantize_array(codes, to)
        - np.clip(wanted, *dequantize_array(np.array([element.low, element.high]), to))
    )
    assert error.max() / to.scale < (0.6 if element is I8 else 1.6)


def test_a_result_too_fine_for_its_operands_is_refused() -> None:
    x = QuantizedOperand(quantized((4,), of_range(-1e6, 1e6)))
    for op in (Add(), Sub(), Mul()):
        refusal = op.quantize([x, x], [of_range(0, 1e-6)], I8)
        assert isinstance(refusal, Refusal) and "i8[4]" in refusal.reason


@given(st.floats(1e-6, 1e3), st.floats(-1e3, 1e3), st.sampled_from([31, 46, 63]), st.data())
@settings(max_examples=50)
def test_a_scaled_sum_never_leaves_its_width(a: float, b: float, bits: int, data: st.DataObject) -> None:
    limits = data.draw(st.tuples(st.integers(1, 65535), st.integers(1, 65535)))
    factors = SumFactors.nearest(a, b, *limits, bits)
    largest = limits[0] * abs(factors.multiplier_a) + limits[1] * abs(factors.multiplier_b)
    assert largest + (1 << (factors.shift - 1)) < 1 << bits
    assert max(abs(factors.multiplier_a), abs(factors.multiplier_b)) < 1 << 31
    exact = (limits[0] * a - limits[1] * b) if b < 0 else (limits[0] * a + limits[1] * b)
    result = factors.apply(np.array(limits[0]), np.array(limits[1] if b >= 0 else -limits[1]))
    assert abs(int(result) - exact) <= 0.501 + sum(limits) / 2 ** (factors.shift + 1)


@pytest.mark.parametrize("function", [Function.TANH, Function.SIGMOID, Function.GELU, Function.SWISH])
def test_tables_of_16_bits_are_accurate(function: Function) -> None:
    x_type = quantized((65536,), of_range(-6, 6, I16))
    x = np.arange(-32768, 32768).astype(np.int16)
    op = Unary(function)
    (wanted,) = op.float_reference([x_type], [dequantize_array(x, x_type.codes)])
    to = op.fixed_output(I16) or of_range(float(wanted.min()), float(wanted.max()), I16)
    quantization = op.quantize([QuantizedOperand(x_type)], [to], I8)
    assert isinstance(quantization, Quantized)
    (codes,) = quantization.op.reference([x_type], [x])
    assert np.abs(codes - quantize_array(wanted, to).astype(np.int32)).max() <= 4


@pytest.mark.parametrize("element", [ElementType.I2, ElementType.I4, I8, I16])
def test_bounded_functions_use_all_codes(element: ElementType) -> None:
    unit, signed = Unary(Function.SIGMOID).fixed_output(element), Unary(Function.TANH).fixed_output(element)
    assert unit is not None and signed is not None
    ends = np.array([element.low, element.high + 1])
    assert dequantize_array(ends, unit).tolist() == [0, 1]
    assert dequantize_array(ends, signed).tolist() == [-1, 1]
    assert Unary(Function.EXP).fixed_output(element) is None


@pytest.mark.parametrize("function", Function)
@pytest.mark.parametrize("element", [I8, I16])
def test_tables_are_monotone_where_functions_are_and_never_undefined(
    function: Function, element: ElementType
) -> None:
    x_type, to = quantized((4,), of_range(-3, 5, element)), of_range(-2, 2)
    table = Unary(function, 0.5, 0.5).table(x_type, to).astype(int)
    assert table.min() >= to.element.low and table.max() <= to.element.high
    if function in (Function.LOG, Function.SQRT, Function.POWER, Function.TANH, Function.ERF, Function.EXP):
        assert np.all(np.diff(table) >= 0)


def test_a_clip_that_changes_no_quantization_only_compares() -> None:
    x, to = of_range(-1, 6), of_range(0, 6)
    operand = [QuantizedOperand(quantized((4,), x))]
    assert Clip(0.0, 6.0).quantize(operand, [x], I8) == Quantized(Clip(0.0, 6.0))
    assert Clip(0.0, 6.0).quantize(operand, [to], I8) == Quantized(Requantize(to, (0.0, 6.0)))


@pytest.mark.parametrize("slope", [[0.01], [-0.25, 0.0, 3.0], [100.0]])
def test_slopes_of_any_sign_and_size(slope: list[float]) -> None:
    x_type = quantized((200, len(slope)), of_range(-1, 1))
    x = RNG.integers(-128, 128, x_type.shape).astype(np.int8)
    reals = np.array(slope, np.float32)
    (wanted,) = PRelu().float_reference([], [dequantize_array(x, x_type.codes), reals.astype(np.float64)])
    to = of_range(float(wanted.min()), float(wanted.max()))
    operands = [QuantizedOperand(x_type), QuantizedOperand(f32(len(slope)), reals)]
    quantization = PRelu().quantize(operands, [to], I8)
    assert isinstance(quantization, Quantized)
    s_type, s = quantization.constants[1]
    (codes,) = quantization.op.reference([x_type, s_type], [x, s])
    assert np.abs(dequantize_array(codes, to) - wanted).max() / to.scale < 1.01


def test_inputs_of_one_quantization_take_their_constants_along() -> None:
    to = of_range(-1, 3)
    x = QuantizedOperand(quantized((2, 3), of_range(-1, 0.5)))  # will be requantized to `to`
    real = np.array([[0.0, 1.5, 9.0]], np.float32)
    for op in (Concat(0), Minimum()):
        quantization = op.quantize([x, QuantizedOperand(f32(1, 3), real)], [to], I8)
        assert isinstance(quantization, Quantized)
        type_, codes = quantization.constants[1]
        assert type_.codes == to
        assert codes.tolist() == [[to.zero_point, quantize_array(np.array(1.5), to), 127]]


def test_unequal_quantizations_are_not_compared() -> None:
    a, b = quantized((3,), of_range(0, 1)), quantized((3,), of_range(0, 2))
    for op in (Minimum(), Maximum(), Concat(0)):
        with pytest.raises(TypeMismatchError, match="one quantization"):
            op.infer([a, b])


def test_padding_with_zero_is_the_zero_point() -> None:
    type_ = quantized((2,), QuantizedType(I8, Quantization((0.1,), -7)))
    (codes,) = Pad((1,), (1,)).reference([type_], [np.array([5, 6], np.int8)])
    assert codes.tolist() == [-7, 5, 6, -7]
    (codes,) = Pad((1,), (1,), value=-np.inf).reference([type_], [np.array([5, 6], np.int8)])
    assert codes.tolist() == [-128, 5, 6, -128]
