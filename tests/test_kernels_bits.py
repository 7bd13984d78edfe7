"""Kernels that make bits of codes and numbers, and codes and numbers of bits, are exact."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.op import Op, Operand
from compiler.ir.types import TensorType, f32, quantized
from compiler.loops.form import LoopForm
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import Clamp
from compiler.ops.edge import Dequantize, Quantize, Requantize
from schedules.arm_machines import CORTEX_A53
from schedules.loops import LoopsConfig, LoopsPlan, plan_loops
from schedules.machines import AVX2, AVX512_VNNI_ICELAKE, X86_64, host_machine, runs_here
from tests.emulated_kernel import run_emulated
from tests.loop_kernel import load_kernels, run_kernel

SIGN = QuantizedType(ElementType.B1, Quantization((0.5,)))
WIDE = QuantizedType(ElementType.I8, Quantization((0.25,), 3))
LONG = QuantizedType(ElementType.I16, Quantization((0.25,), -300))
MACHINES = [m for m in (host_machine(), AVX512_VNNI_ICELAKE, AVX2, X86_64) if runs_here(m)]
SHAPES = [(1,), (8,), (13,), (3, 1), (2, 7), (5, 16), (3, 4, 70), (1, 6, 6, 24), (2, 1000)]
KINDS = ("quantize", "to bits", "long to bits", "from bits", "real from bits", "bits to bits")


def example(
    kind: str, shape: tuple[int, ...], seed: int, clamp: Clamp = None
) -> tuple[Op, TensorType, Array]:
    """An operator, its input's type, and an input with values on both sides of the threshold and on it."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], shape).astype(np.int8)
    match kind:
        case "quantize":
            special = np.array([0.0, -0.0, 1e-40, -1e-40, np.inf, -np.inf, np.nan, 2.0, -2.0], np.float32)
            return Quantize(SIGN), f32(*shape), rng.choice(special, shape)
        case "to bits":
            codes = rng.choice([-128, 2, 3, 4, 127], shape).astype(np.int8)
            return Requantize(SIGN, clamp), quantized(shape, WIDE), codes
        case "long to bits":
            codes = rng.choice([-(2**15), -301, -300, -299, 2**15 - 1], shape).astype(np.int16)
            return Requantize(SIGN, clamp), quantized(shape, LONG), codes
        case "from bits":
            return Requantize(WIDE, clamp), quantized(shape, SIGN), signs
        case "real from bits":
            return Dequantize(), quantized(shape, SIGN), signs
        case _:
            return Requantize(SIGN, clamp), quantized(shape, SIGN), signs


def planned(
    op: Op, x: TensorType, machine: CpuMachine, tile: int | None = None
) -> tuple[LoopsPlan, dict[str, Array]]:
    """The kernel, and its constants by name."""
    lowered = op.lower([Operand(x)], [Operand(t) for t in op.infer([x])])
    assert isinstance(lowered.form, LoopForm)
    plan = plan_loops(lowered.form, machine)
    if tile is not None:
        config = LoopsConfig(vector_bytes=plan.config.vector_bytes, tile_elements=tile)
        plan = plan_loops(lowered.form, plan.machine, config)
    return plan, dict(lowered.constants)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_is_exact(kind: str, machine: CpuMachine) -> None:
    examples = [example(kind, shape, seed) for seed, shape in enumerate(SHAPES)]
    plans = [planned(op, x, machine, tile) for op, x, _ in examples for tile in (None, 20)]
    kernels = load_kernels([plan for plan, _ in plans])
    for i, (plan, constants) in enumerate(plans):
        op, x, codes = examples[i // 2]
        got = run_kernel(plan, kernels[plan.symbol], {"input": codes, **constants})["output"]
        np.testing.assert_array_equal(got, op.reference([x], [codes])[0])


@settings(max_examples=10, deadline=None)
@given(
    kind=st.sampled_from(["to bits", "long to bits", "from bits"]),
    clamp=st.sampled_from([(0.0, float("inf")), (-1.0, 1.0), (-2.0, -1.0), (0.5, 0.6)]),
    seed=st.integers(0, 2**32),
)
def test_clamps_bound_the_real_number_before_its_sign(kind: str, clamp: Clamp, seed: int) -> None:
    op, x, codes = example(kind, (3, 21), seed, clamp)
    plan, constants = planned(op, x, MACHINES[0])
    kernel = load_kernels([plan])[plan.symbol]
    got = run_kernel(plan, kernel, {"input": codes, **constants})["output"]
    np.testing.assert_array_equal(got, op.reference([x], [codes])[0])
    if kind != "from bits":
        assert clamp is not None
        real = np.clip((codes.astype(float) - x.codes.zero_point) * x.codes.scale, *clamp)
        np.testing.assert_array_equal(got, np.where(real >= 0, 1, -1))


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_bits_are_exact_on_arm() -> None:
    examples = [example(kind, shape, 7) for kind in KINDS for shape in [(3, 1), (5, 16), (2, 45)]]
    plans = [planned(op, x, CORTEX_A53) for op, x, _ in examples]
    given_ = [{"input": c, **constants} for (_, constants), (_, _, c) in zip(plans, examples, strict=True)]
    for found, (op, x, codes) in zip(run_emulated([p for p, _ in plans], given_), examples, strict=True):
        np.testing.assert_array_equal(found["output"], op.reference([x], [codes])[0])
