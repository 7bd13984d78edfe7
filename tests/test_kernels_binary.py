"""Kernels of bipolar codes compute the form's definition bit for bit: shapes, borders, machines, splits."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compiler.loops.contraction import evaluate_convolution
from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from schedules.arm_machines import CORTEX_A7, CORTEX_A53, CORTEX_A76, NEOVERSE_N2
from schedules.binary import BinaryPlan, binary_configs, plan_binary
from schedules.binary_packing import borders
from schedules.bits import pack_bits, packed_bytes, unpack_bits
from schedules.cpu import plan_kernel
from schedules.machines import (
    AVX2,
    AVX512_VNNI,
    AVX512_VNNI_CASCADELAKE,
    AVX512_VNNI_ICELAKE,
    AVX_VNNI,
    X86_64,
    runs_here,
)
from tests.built_kernel import call, call_on_arm, guarded, load

B1, I8, I16, I32 = ElementType.B1, ElementType.I8, ElementType.I16, ElementType.I32
X86_MACHINES = (AVX512_VNNI_ICELAKE, AVX512_VNNI, AVX512_VNNI_CASCADELAKE, AVX_VNNI, AVX2, X86_64)
ARM_MACHINES = (CORTEX_A7, CORTEX_A53, CORTEX_A76, NEOVERSE_N2)
# Only what a kernel may use counts: LLVM's model of a CPU brings more than /proc/cpuinfo must show.
HOST_MACHINES = [m for m in X86_MACHINES if runs_here(m)]
GARBAGE = 0x5A
needs_host = pytest.mark.skipif(not HOST_MACHINES, reason="no x86 kernels run on this computer")
needs_emulation = pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("qemu-arm")), reason="qemu-user is not installed"
)
SLOW_DRAWS = (HealthCheck.too_slow, HealthCheck.filter_too_much)


def draw_constants(form: Convolution, rng: np.random.Generator, kind: str) -> dict[str, Array]:
    """kind "random"; "aligned": every product of the right image is +1; "opposed": -1. Biases lie where
    the sums do, so that signs and roundings differ."""
    outputs = form.out_channels
    shape = (outputs, form.kernel_height, form.kernel_width, form.in_channels)
    weight = rng.choice([-1, 1], shape) if kind == "random" else np.ones(shape)
    reach = int(np.sqrt(form.taps)) + 1 if kind == "random" else form.taps + 1
    low, high = (form.output.low, form.output.high) if form.output is not I32 else (0, 0)
    return {
        "weight": weight.astype(np.int8),
        "bias": rng.integers(-reach, reach + 1, outputs).astype(np.int32),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs).astype(np.int32),
        "shift": rng.integers(29, 36, outputs).astype(np.int32),
        "parameters": np.array([0, 0 if form.output is B1 else 5, low, high], np.int32),
    }


def draw_image(form: Convolution, rng: np.random.Generator, kind: str) -> Array:
    shape = (form.batch, form.in_height, form.in_width, form.in_channels)
    codes = {"random": rng.choice([-1, 1], shape), "aligned": np.ones(shape), "opposed": -np.ones(shape)}
    return codes[kind].astype(np.int8)


def operands_of(plan: BinaryPlan, image: Array, constants: dict[str, Array]) -> dict[str, Array]:
    """The kernel's operands by name. Activations end at an unreadable page: no byte behind them is read."""
    arrays = plan.pack(constants)
    arrays["input"] = pack_bits(image).reshape(-1)
    count, dtype = plan.operand_type("output")
    arrays["output"] = np.full(count, GARBAGE, np.uint8).astype(dtype)
    for name, array in arrays.items():
        assert (array.size, str(array.dtype)) == plan.operand_type(name), name
    if "scratch" in plan.operands:
        arrays["scratch"] = np.full(plan.scratch_bytes, GARBAGE, np.uint8)
    placed: dict[str, Array] = {}
    for name in plan.operands:
        moving = name in ("input", "output")
        alignment = arrays[name].itemsize if moving else 64
        placed[name] = guarded(arrays[name], alignment, 0 if moving or name == "scratch" else 64)
    return placed


def codes_of(plan: BinaryPlan, output: Array) -> Array:
    """Codes in the output operand; bits behind a pixel's last channel must be 0."""
    form = plan.form
    pixels = output.reshape(form.batch, form.out_height, form.out_width, -1)
    if form.output is B1:
        codes = unpack_bits(pixels, form.out_channels)
        np.testing.assert_array_equal(pack_bits(codes), pixels)
        return codes
    offset = plan.machine.activation_offset if form.output is I8 else 0
    return pixels[..., : form.out_channels].astype(np.int64) - offset


def check(plan: BinaryPlan, seed: int, kind: str = "random") -> None:
    """The kernel equals the form's definition, its tiles run in pieces and backwards."""
    rng = np.random.default_rng(seed)
    constants, image = draw_constants(plan.form, rng, kind), draw_image(plan.form, rng, kind)
    operands = operands_of(plan, image, constants)
    cuts = sorted({0, plan.tiles, *(int(c) for c in rng.integers(0, plan.tiles + 1, 3))})
    call(load([plan])[plan.symbol], list(operands.values()), list(itertools.pairwise(cuts))[::-1])
    expected = evaluate_convolution(plan.form, image, constants)
    np.testing.assert_array_equal(codes_of(plan, operands["output"]), expected)


def conv(
    size: int, channels: int, outputs: int, kernel: int = 1, stride: int = 1, output: ElementType = B1
) -> Convolution:
    pad = (kernel - 1) // 2
    out = (size + 2 * pad - kernel) // stride + 1
    return Convolution(
        *(1, size, size, channels, out, out, outputs, kernel, kernel, B1, B1, output),
        stride=(stride, stride),
        pad=(pad, pad),
    )


@st.composite
def forms(draw: st.DrawFn) -> Convolution:
    """Small convolutions of every kind; paddings that reach beyond the kernel included."""
    size = lambda high: draw(st.integers(1, high))  # noqa: E731
    kernel, stride, dilation = (size(3), size(4)), (size(2), size(3)), (size(2), size(2))
    channels = draw(st.sampled_from([1, 3, 8, 20, 32, 40, 64, 67, 200]))
    height, width = draw(st.sampled_from([1, 3, 6, 9])), draw(st.sampled_from([1, 5, 7, 16, 33]))
    pad, beyond = (0, 0), (0, 0)
    if draw(st.booleans()):
        pad = (draw(st.integers(0, kernel[0] * dilation[0])), draw(st.integers(0, kernel[1] * dilation[1])))
        beyond = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [
        (n + p + b - r) // s + 1
        for n, p, b, r, s in zip((height, width), pad, beyond, reach, stride, strict=True)
    ]
    assume(min(out) >= 1)
    return Convolution(
        *(draw(st.sampled_from([1, 1, 2])), height, width, channels, *out),
        draw(st.sampled_from([1, 4, 8, 10, 16, 24, 37, 100])),
        *kernel,
        *(B1, B1, draw(st.sampled_from([B1, B1, I8, I16, I32]))),
        stride=stride,
        dilation=dilation,
        pad=pad,
    )


@needs_host
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(form=forms(), seed=st.integers(0, 2**32), data=st.data())
def test_kernel_computes_the_definition(form: Convolution, seed: int, data: st.DataObject) -> None:
    machine = data.draw(st.sampled_from(HOST_MACHINES))
    configs = [None, *itertools.islice(binary_configs(form, machine), 24)]
    plan = plan_binary(form, machine, data.draw(st.sampled_from(configs)))
    if data.draw(st.booleans()):
        config, times = plan.config, st.integers(1, 3)
        columns = config.columns * data.draw(times) if plan.geometry.flat else plan.geometry.width
        config = replace(
            config,
            share_rows=config.rows * data.draw(times),
            share_columns=min(columns, plan.geometry.width),
            share_panels=data.draw(times),
        )
        plan = plan_binary(form, machine, config)
    check(plan, seed, data.draw(st.sampled_from(["random", "aligned", "opposed"])))


@needs_host
@pytest.mark.parametrize("machine", HOST_MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["aligned", "opposed"])
@pytest.mark.parametrize("channels", [4096, 9000, 70_000])
def test_the_longest_sums_are_exact(machine: CpuMachine, kind: str, channels: int) -> None:
    """All bits equal, or all different: counts within bytes and 16 bits would overflow first here."""
    check(plan_binary(replace(conv(1, channels, 24), output=I32), machine), 1, kind)


@needs_host
@pytest.mark.parametrize("machine", HOST_MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "form",
    [
        conv(14, 256, 64, 3),
        conv(7, 512, 100),
        conv(9, 13, 37, 3, 2, I8),
        conv(12, 3, 33, 5),
        conv(1, 1000, 10, output=I32),
    ],
    ids=lambda f: f"{f.in_height}x{f.in_channels}to{f.out_channels}{f.output.value}",
)
def test_layers_of_networks_are_exact(form: Convolution, machine: CpuMachine) -> None:
    check(plan_binary(form, machine), seed=2)


@needs_host
@pytest.mark.parametrize(("low", "high", "codes"), [(1, 1, {1}), (-1, -1, {-1}), (-1, 1, {-1, 1})])
def test_a_clamp_leaves_one_code_or_both(low: int, high: int, codes: set[int]) -> None:
    plan = plan_binary(conv(5, 32, 16, 3), HOST_MACHINES[0])
    rng = np.random.default_rng(0)
    constants, image = draw_constants(plan.form, rng, "random"), draw_image(plan.form, rng, "random")
    constants["parameters"] = np.array([0, 0, low, high], np.int32)
    operands = operands_of(plan, image, constants)
    call(load([plan])[plan.symbol], list(operands.values()), [(0, plan.tiles)])
    assert set(np.unique(codes_of(plan, operands["output"])).tolist()) == codes


@needs_emulation
@pytest.mark.parametrize("machine", ARM_MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "form", [conv(7, 64, 40, 3), conv(7, 24, 20, 3, 2, I8), conv(1, 1000, 100)], ids=lambda f: f.output.value
)
def test_arm_kernels_are_exact(form: Convolution, machine: CpuMachine) -> None:
    plan, rng = plan_binary(form, machine), np.random.default_rng(3)
    constants, image = draw_constants(form, rng, "random"), draw_image(form, rng, "random")
    operands = operands_of(plan, image, constants)
    after = call_on_arm(plan, list(operands.values()))[plan.operands.index("output")]
    np.testing.assert_array_equal(codes_of(plan, after), evaluate_convolution(form, image, constants))


@settings(max_examples=60, deadline=None)
@given(form=forms(), machine=st.sampled_from([*X86_MACHINES, *ARM_MACHINES]))
def test_every_form_has_legal_plans(form: Convolution, machine: CpuMachine) -> None:
    configs = list(binary_configs(form, machine))
    assert configs and len(set(configs)) == len(configs)
    assert plan_binary(form, machine) == plan_kernel(form, machine)
    assert len({plan_binary(form, machine, c).symbol for c in configs}) == len(configs)


def test_weights_take_one_bit_each() -> None:
    form = conv(7, 64, 64, 3)
    packed = plan_binary(form, AVX512_VNNI).pack(draw_constants(form, np.random.default_rng(0), "random"))
    assert packed["weight"].nbytes * 8 == form.taps * form.out_channels


@given(channels=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_bits_survive_packing(channels: int, seed: int) -> None:
    codes = np.random.default_rng(seed).choice([-1, 1], (3, channels)).astype(np.int8)
    packed = pack_bits(codes)
    assert packed.shape == (3, packed_bytes(channels))
    np.testing.assert_array_equal(unpack_bits(packed, channels), codes)


def test_borders_name_the_taps_outside() -> None:
    assert borders(conv(4, 8, 8, 3), 0) == ((0,), (), (), (2,))
    assert borders(replace(conv(2, 8, 8, 5), dilation=(1, 1)), 1) == ((0, 1, 4), (0, 3, 4))


def test_what_no_kernel_takes_is_refused() -> None:
    form, machine = conv(5, 32, 16, 3), AVX512_VNNI
    for change, reason in (
        ({"groups": 2}, "one group of channels"),
        ({"weight": I8}, "meet b1 weights, not b1 and i8"),
        ({"output_pitch": 20}, "no slice of a wider"),
        ({"output": ElementType.I4}, "not i4"),
    ):
        with pytest.raises(ValueError, match=reason):
            plan_binary(replace(form, **change), machine)
    config = plan_binary(form, machine).config
    for change, reason in (
        ({"lanes": 8}, "8 lanes"),
        ({"columns": 6}, "wider than the image"),
        ({"overlaps": True}, "overlap"),
        ({"rows": 2}, "do not divide"),
    ):
        with pytest.raises(ValueError, match=reason):
            plan_binary(form, machine, replace(config, **change))
    narrow = replace(plan_binary(form, CORTEX_A76).config, vectors=1)
    with pytest.raises(ValueError, match="do not fill bytes"):
        plan_binary(form, CORTEX_A76, narrow)
