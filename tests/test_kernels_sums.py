"""Sums of codes by multiplications of pairs: every bit of the reference, on all x86 that this computer is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.op import Operand
from compiler.ir.types import quantized
from compiler.loops.form import LoopForm
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import Clamp
from compiler.ops.elementwise import Add, Mul, Sub
from schedules.cpu import plan_kernel
from schedules.loops import LoopsPlan
from schedules.machines import AVX2, MACHINES, X86_64, machine_named, runs_here
from schedules.sums import SumsConfig, SumsPlan, packed_constants, plan_sum, takes_sum
from tests.loop_kernel import Kernel, load_kernels, run_kernel

I8, I16 = ElementType.I8, ElementType.I16
HERE = [m for m in MACHINES if m.is_x86 and m.vector_bits >= 256 and runs_here(m)]
# Blocks, and blocks of a tile.
EXTENTS = ((1, 1), (3, 2), (8, 3))


def codes(scale: float, zero_point: int, element: ElementType = I8) -> QuantizedType:
    return QuantizedType(element, Quantization((scale,), zero_point))


def lowered(op: Add | Sub | Mul, shape: tuple[int, ...], *of: QuantizedType) -> tuple[LoopForm, Array]:
    """The form, and its parameters."""
    types = [quantized(shape, each) for each in of]
    found = op.lower([Operand(t) for t in types], [Operand(t) for t in op.infer(types)])
    assert isinstance(found.form, LoopForm)
    return found.form, found.constants["parameters"]


A, B, TO = codes(1 / 64, 5), codes(1 / 48, -128), codes(1 / 32, 0)


def shape_of(machine: CpuMachine, blocks: int) -> tuple[int, ...]:
    return (1, blocks, 2, machine.vector_bits // 16)


@cache
def kernels() -> dict[str, Kernel]:
    plans: list[SumsPlan] = []
    for machine in HERE:
        for blocks, tile in EXTENTS:
            for op in (Add, Sub):
                form, _ = lowered(op(None, TO), shape_of(machine, blocks), A, B)
                plans.append(plan_sum(form, machine, SumsConfig(tile)))
    return load_kernels(plans)


zero_points = st.tuples(*(st.integers(-128, 127) for _ in range(3)))
scales = st.tuples(*(st.floats(2.0**-12, 2.0**5) for _ in range(3)))
clamps = st.one_of(st.none(), st.tuples(st.floats(-4, 0), st.floats(0, 4)))


@pytest.mark.skipif(not HERE, reason="this computer is no x86 with AVX2")
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([m.name for m in HERE] or [""]),
    st.sampled_from(EXTENTS),
    st.booleans(),
    zero_points,
    scales,
    clamps,
    st.integers(0, 1 << 30),
)
def test_every_bit_of_the_reference(
    name: str,
    extents: tuple[int, int],
    subtracts: bool,
    zeros: tuple[int, ...],
    sizes: tuple[float, ...],
    clamp: Clamp,
    seed: int,
) -> None:
    machine, (blocks, tile) = machine_named(name), extents
    a, b, to = map(codes, sizes, zeros)
    op, shape = (Sub if subtracts else Add)(clamp, to), shape_of(machine, blocks)
    types = (quantized(shape, a), quantized(shape, b))
    try:
        op.infer(types)
    except TypeError:
        return  # the scale of the result is too fine for the operands
    form, parameters = lowered(op, shape, a, b)
    plan = plan_sum(form, machine, SumsConfig(tile))
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(-128, 128, shape).astype(np.int8) for _ in range(2))
    (expected,) = op.reference(types, (x, y))
    operands = {"a": x, "b": y, "parameters": parameters}
    for aliases in (None, {"output": "a"}):
        found = run_kernel(plan, kernels()[plan.symbol], operands, aliases=aliases)["output"]
        np.testing.assert_array_equal(found, expected)


def test_sums_and_differences_are_taken_and_products_are_not() -> None:
    shape = shape_of(AVX2, 2)
    plans = [plan_kernel(lowered(op(None, TO), shape, A, B)[0], AVX2) for op in (Add, Sub, Mul)]
    assert [type(plan) for plan in plans] == [SumsPlan, SumsPlan, LoopsPlan]


@pytest.mark.parametrize(
    ("machine", "shape", "of"),
    [
        (X86_64, (1, 64), (A, B)),  # no registers of 256 bits
        (AVX2, (1, 31), (A, B)),  # no whole register
        (AVX2, (1, 32), (codes(1, 0, I16), B)),
        (machine_named("apple_m1"), (1, 64), (A, B)),
    ],
)
def test_other_sums_are_left_to_loops(
    machine: CpuMachine, shape: tuple[int, ...], of: tuple[QuantizedType, QuantizedType]
) -> None:
    form, _ = lowered(Add(None, TO), shape, *of)
    assert not takes_sum(form, machine)
    assert isinstance(plan_kernel(form, machine), LoopsPlan)
    with pytest.raises(ValueError, match="add is no sum of dense 8-bit codes"):
        plan_sum(form, machine)


def test_a_broadcast_operand_is_left_to_loops() -> None:
    op = Add(None, TO)
    types = [quantized((4, 64), A), quantized((1, 64), B)]
    found = op.lower([Operand(t) for t in types], [Operand(t) for t in op.infer(types)])
    assert not takes_sum(found.form, AVX2)


def test_factors_beyond_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="take more than 31 bits"):
        packed_constants(np.array([0, 0, 1 << 30, 1, 4, 0, -128, 127], np.int32), 128)
