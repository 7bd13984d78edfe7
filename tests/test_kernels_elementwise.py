"""Kernels of element-wise operators and moves on this machine: every bit of the reference."""

from __future__ import annotations

import numpy as np

from compiler.ir.op import Op, Operand
from compiler.ir.types import Shape, TensorType, f32, quantized
from compiler.loops.form import LoopForm, Role
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.activation import Clip, PRelu
from compiler.ops.elementwise import Add, Div, Mul, Sub
from compiler.ops.extremes import Maximum, Minimum
from compiler.ops.slicing import Broadcast, Concat, Gather, Pad, PadMode, Slice
from compiler.ops.unary import Function, Unary
from schedules.loops import LoopsPlan, plan_loops
from schedules.machines import host_machine
from tests.loop_kernel import load_kernels, run_kernel
from tests.op_cases import OpCase

I8, I16 = ElementType.I8, ElementType.I16
RNG = np.random.default_rng(0)


def codes_of(element: ElementType, zero_point: int = 0) -> QuantizedType:
    return QuantizedType(element, Quantization((2 ** (2.3 - element.bits),), zero_point))


A8, B8, A16, B16 = codes_of(I8, 5), codes_of(I8, -128), codes_of(I16, -77), codes_of(I16, 32767)
SLOPE = QuantizedType(I16, Quantization((2.0**-14,)))


def case(op: Op, *operands: tuple[Shape, QuantizedType | None], constants: tuple[int, ...] = ()) -> OpCase:
    """The operator on random codes, or floats, of the given shapes."""
    types: list[TensorType] = []
    arrays: list[Array] = []
    for shape, of in operands:
        types.append(f32(*shape) if of is None else quantized(shape, of))
        if of is None:
            arrays.append(RNG.normal(size=shape).astype(np.float32))
        else:
            numbers = RNG.integers(of.element.low, of.element.high + 1, shape)
            arrays.append(numbers.astype(of.element.dtype))
    return OpCase(op, tuple(types), tuple(arrays), frozenset(constants))


X, ROW, PIXEL = (2, 5, 7, 37), (1, 1, 1, 37), (2, 5, 7, 1)
CASES = [
    *(
        case(op(None, to), (X, a), (X, b))
        for op in (Add, Sub, Mul)
        for a, b, to in ((A8, B8, A8), (A16, B16, A16), (A16, B8, A8))
    ),
    *(
        case(op(None, B8), (X, A8), (other, A16), constants=(1,))
        for op in (Add, Mul)
        for other in (ROW, PIXEL)
    ),
    *(case(op((0.0, 3.0), B8), (ROW, A8), (X, B8), constants=(0,)) for op in (Sub, Mul)),
    *(case(op, (X, None), (ROW, None)) for op in (Add(), Sub((-1.0, 1.0)), Mul(), Div(), Maximum())),
    *(case(op, (X, a), (PIXEL, a)) for op in (Minimum(), Maximum()) for a in (A8, A16)),
    *(case(Clip(-0.5, 2.0), (X, a)) for a in (A8, A16, None)),
    *(case(PRelu(a), (X, a), (ROW, SLOPE), constants=(1,)) for a in (A8, A16)),
    *(case(Unary(Function.TANH, to=to), (X, a)) for a, to in ((A8, A8), (A8, A16), (A16, A16), (B16, A8))),
    *(case(Unary(f, 0.2, 0.5), (X, None)) for f in (Function.ABS, Function.HARD_SWISH, Function.RECIPROCAL)),
    *(case(Concat(axis), (X, a), (X, a), (X, a), constants=(1,)) for axis in (0, 3) for a in (A8, A16)),
    *(case(Slice((1, 4, 0, 30), (1, 3, 4, n), (1, -2, 2, s)), (X, A8)) for n, s in ((5, 1), (11, -3))),
    *(case(Pad((0, 1, 2, 3), (1, 0, 2, 4), mode, 0.3), (X, a)) for mode in PadMode for a in (B8, A16)),
    case(Broadcast((2, 5, 7, 64)), ((5, 1, 64), A8)),
    case(Broadcast((2, 5, 7, 64)), ((5, 7, 1), A8)),
    *(case(Gather(axis, (1, 0, 0, 1)), (X, A8)) for axis in (0, 2, 3)),
]


def plan_of(c: OpCase) -> tuple[LoopsPlan, dict[str, Array]]:
    """The plan for this machine, and its operands by name."""
    inputs = [
        Operand(t, None, a if i in c.constants else None)
        for i, (t, a) in enumerate(zip(c.types, c.arrays, strict=True))
    ]
    lowered = c.op.lower(inputs, [Operand(t) for t in c.results])
    assert isinstance(lowered.form, LoopForm)
    names = [b.name for b in lowered.form.buffers if b.role is Role.INPUT]
    activations = {n: c.arrays[i] for n, i in zip(names, lowered.inputs, strict=True)}
    return plan_loops(lowered.form, host_machine()), {**activations, **lowered.constants}


def test_kernels_compute_the_reference_bit_for_bit() -> None:
    plans = [plan_of(c) for c in CASES]
    kernels = load_kernels(list({plan.symbol: plan for plan, _ in plans}.values()))
    for c, (plan, operands) in zip(CASES, plans, strict=True):
        function = c.op.float_reference if c.is_float else c.op.reference
        (expected,) = function(c.types, c.arrays)
        kernel, where = kernels[plan.symbol], repr((c.op, c.types))
        result = run_kernel(plan, kernel, operands)["output"]
        np.testing.assert_array_equal(result, expected, err_msg=where)
        if plan.form.in_place:
            first = plan.form.operands[0].name
            result = run_kernel(plan, kernel, operands, aliases={"output": first})["output"]
            np.testing.assert_array_equal(result, expected, err_msg=f"in place: {where}")


def test_layers_that_differ_in_numbers_only_share_a_kernel() -> None:
    for op, other in ((Add(None, A8), Add((0.0, 1.0), B8)), (Mul(None, A8), Mul((0.0, 1.0), B8))):
        first, _ = plan_of(case(op, (X, A8), (X, B8)))
        second, _ = plan_of(case(other, (X, B8), (X, B8)))
        assert first == second
    first, second = (plan_of(case(Unary(f, to=A8), (X, A8)))[0] for f in (Function.TANH, Function.EXP))
    assert first == second
