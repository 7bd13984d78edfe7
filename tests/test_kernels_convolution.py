"""Convolution kernels compute the form's definition bit for bit: all shapes, widths, machines, splits."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import requantize
from schedules.arm_machines import CORTEX_A7
from schedules.bits import pack_bits, unpack_bits
from schedules.convolution import ConvolutionPlan, candidate_configs, plan_convolution
from schedules.machines import AVX512_VNNI
from tests.built_kernel import call, call_on_arm, guarded, load

I8, I16, I32 = ElementType.I8, ElementType.I16, ElementType.I32
I4, I2, B1 = ElementType.I4, ElementType.I2, ElementType.B1


def _x86(name: str, cpu: str, dot: DotProduct, bits: int, offset: int, *features: str) -> CpuMachine:
    return replace(
        AVX512_VNNI,
        name=name,
        target=(("kind", "llvm"), ("mcpu", cpu)),
        dot=dot,
        vector_bits=bits,
        vector_registers=32 if bits == 512 else 16,
        activation_offset=offset,
        required_features=features,
    )


def _arm(cpu: str, dot: DotProduct, *, in_order: bool = False) -> CpuMachine:
    target = (("kind", "llvm"), ("mtriple", "aarch64-linux-gnu"), ("mcpu", cpu))
    machine = _x86(cpu.replace("-", "_"), cpu, dot, 128, 0)
    return replace(machine, target=target, vector_registers=32, in_order=in_order)


AVX512 = _x86("avx512", "skylake-avx512", DotProduct.PMADDWD, 512, 128, "avx512f", "avx512bw", "avx512vl")
AVX_VNNI = _x86("avxvnni", "alderlake", DotProduct.VNNI, 256, 128, "avx_vnni")
AVX2 = _x86("avx2", "haswell", DotProduct.PMADDWD, 256, 128, "avx2")
AVX2_SIGNED = _x86("avx2signed", "haswell", DotProduct.PMADDWD, 256, 0, "avx2")
SSE2 = _x86("sse2", "x86-64", DotProduct.NONE, 128, 0)
X86_MACHINES = (AVX512_VNNI, AVX512, AVX_VNNI, AVX2, AVX2_SIGNED, SSE2)
A55 = _arm("cortex-a55", DotProduct.SDOT, in_order=True)
ARM_MACHINES = (
    _arm("cortex-a76", DotProduct.SDOT),
    A55,
    _arm("cortex-a53", DotProduct.SMLAL),
    _arm("neoverse-n2", DotProduct.SMMLA),
    CORTEX_A7,
)


def _host_features() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


HOST_MACHINES = [
    m for m in X86_MACHINES if "sse2" in _host_features() and _host_features().issuperset(m.required_features)
]
needs_emulation = pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("qemu-arm")), reason="qemu-user is not installed"
)
SLOW_DRAWS = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
needs_host = pytest.mark.skipif(not HOST_MACHINES, reason="no x86 kernels run on this computer")


def reference(form: Convolution, image: Array, constants: dict[str, Array]) -> Array:
    """The form's definition, tap by tap in int64."""
    zero_in, zero_out, low, high = (int(v) for v in constants["parameters"])
    (sh, sw), (dh, dw), (top, left) = form.stride, form.dilation, form.pad
    rows = (form.out_height - 1) * sh + (form.kernel_height - 1) * dh + 1
    columns = (form.out_width - 1) * sw + (form.kernel_width - 1) * dw + 1
    shape = (
        form.batch,
        max(rows, top + form.in_height),
        max(columns, left + form.in_width),
        form.in_channels,
    )
    padded = np.zeros(shape, np.int64)
    padded[:, top : top + form.in_height, left : left + form.in_width] = image.astype(np.int64) - zero_in
    inputs, outputs = form.in_channels // form.groups, form.out_channels // form.groups
    sums = np.zeros((form.batch, form.out_height, form.out_width, form.out_channels), np.int64)
    for i, j, g in itertools.product(range(form.kernel_height), range(form.kernel_width), range(form.groups)):
        taps = padded[:, i * dh : rows : sh, j * dw : columns : sw][:, : form.out_height, : form.out_width]
        into = slice(g * outputs, (g + 1) * outputs)
        weight = constants["weight"][into, i, j].astype(np.int64)
        sums[..., into] += taps[..., g * inputs : (g + 1) * inputs] @ weight.T
    sums += constants["bias"]
    assert np.abs(sums).max() < 2**31
    if form.output is B1:
        return np.clip(np.where(sums >= 0, 1, -1), low, high)
    if not form.requantizes:
        return sums.astype(np.int32)
    return requantize(sums, constants["multiplier"], constants["shift"], zero_out, low, high)


def draw_constants(form: Convolution, rng: np.random.Generator, extreme: bool = False) -> dict[str, Array]:
    """Weights, bias and requantization; `extreme` ones sit at the ends of their ranges."""
    outputs, limit = form.out_channels, form.weight.weight_limit
    shape = (outputs, form.kernel_height, form.kernel_width, form.in_channels // form.groups)
    weight = rng.choice([-limit, limit], shape) if extreme else rng.integers(-limit, limit + 1, shape)
    if form.weight is B1:
        weight = np.where(weight > 0, 1, -1)
    # Shifts around the size of typical sums, so that results spread over the output's range.
    spread = np.log2(np.sqrt(form.taps) * 64 * limit * (200 if form.input is I16 else 1))
    middle = int(31 + spread - (14 if form.output is I16 else 6))
    shift = rng.integers(max(1, middle - 2), min(62, middle + 2) + 1, outputs)
    if extreme:
        shift = rng.integers(1, 63, outputs)
    zeros = rng.choice([-128, 0, 127], 2) if extreme else rng.integers(-128, 128, 2)
    low, high = sorted(rng.integers(form.output.low, form.output.high + 1, 2)) if form.requantizes else (0, 0)
    if form.output is B1:
        low, high = [(-1, 1), (1, 1), (-1, -1)][rng.integers(3)]
    if not extreme:
        low, high = form.output.low, form.output.high
    parameters = np.array([*zeros, *np.clip([low, high], -(2**31), 2**31 - 1)]).astype(np.int32)
    return {
        "weight": weight.astype(np.int8),
        "bias": rng.integers(-(10**6), 10**6, outputs).astype(np.int32),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs).astype(np.int32),
        "shift": shift.astype(np.int32),
        "parameters": parameters,
    }


def draw_image(form: Convolution, rng: np.random.Generator, extreme: bool = False) -> Array:
    shape = (form.batch, form.in_height, form.in_width, form.in_channels)
    # 16-bit codes at full range would leave int32 accumulators with more than a few taps.
    low, high = (-128, 127) if form.input is I8 else (-20_000 // form.taps, 20_000 // form.taps)
    codes = rng.choice([low, high], shape) if extreme else rng.integers(low, high + 1, shape)
    return codes.astype(form.input.dtype)


def operands_of(
    plan: ConvolutionPlan, image: Array, constants: dict[str, Array], garbage: int
) -> dict[str, Array]:
    """The kernel's operands by name; unused channels, output and scratch hold `garbage`.

    Activations lie where a channel slice may: aligned to their elements, 64 bytes of slack behind them.
    """
    form, machine = plan.form, plan.machine
    offset = machine.activation_offset if form.input is I8 else 0
    arrays = plan.pack(constants)
    for name in ("input", "output"):
        count, dtype = plan.operand_type(name)
        arrays[name] = np.full(count, garbage, np.uint8).astype(dtype)
    pixels = arrays["input"].reshape(*image.shape[:3], -1)
    pixels[..., : form.in_channels] = (image.astype(np.int32) + offset).astype(pixels.dtype)
    if "scratch" in plan.operands:
        arrays["scratch"] = np.full(plan.scratch_bytes, garbage, np.uint8)
    placed: dict[str, Array] = {}
    for name in plan.operands:
        alignment = arrays[name].itemsize if name in ("input", "output") else 64
        slack = 0 if name in ("scratch", "output") else 64
        placed[name] = guarded(arrays[name], alignment, slack, garbage)
    return placed


def codes_of(plan: ConvolutionPlan, output: Array, garbage: int) -> Array:
    """Codes in the output operand; fails where a byte between the pixels was written."""
    form = plan.form
    pixels = output.reshape(form.batch, form.out_height, form.out_width, -1)
    if form.output is B1:
        codes = unpack_bits(pixels, form.out_channels)
        np.testing.assert_array_equal(pack_bits(codes), pixels)  # 0 behind the last channel
        return codes
    gap = np.full(1, garbage, np.uint8).astype(pixels.dtype)
    assert np.all(pixels[..., form.out_channels :] == gap)
    offset = plan.machine.activation_offset if form.output is I8 else 0
    return pixels[..., : form.out_channels].astype(np.int64) - offset


def check(plan: ConvolutionPlan, seed: int, extreme: bool = False) -> None:
    """The kernel equals the reference for two splits of its tiles and two kinds of garbage around it."""
    rng = np.random.default_rng(seed)
    constants, image = draw_constants(plan.form, rng, extreme), draw_image(plan.form, rng, extreme)
    expected = reference(plan.form, image, constants)
    function = load([plan])[plan.symbol]
    cuts = sorted({0, plan.tiles, *(int(c) for c in rng.integers(0, plan.tiles + 1, 3))})
    pieces = list(itertools.pairwise(cuts))
    for garbage, ranges in ((0x5A, [(0, plan.tiles)]), (0xFF, pieces[::-1])):
        operands = operands_of(plan, image, constants, garbage)
        call(function, list(operands.values()), ranges)
        np.testing.assert_array_equal(codes_of(plan, operands["output"], garbage), expected)


@st.composite
def forms(draw: st.DrawFn) -> Convolution:
    """Small convolutions of every kind; paddings that reach beyond what the kernel needs included."""
    size = lambda high: draw(st.integers(1, high))  # noqa: E731
    kernel, stride, dilation = (size(3), size(4)), (size(2), size(3)), (size(2), size(2))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, outputs = groups * size(21), groups * draw(st.sampled_from([1, 3, 8, 10, 16, 24, 40]))
    height, width = draw(st.sampled_from([1, 1, 3, 6, 9])), draw(st.sampled_from([1, 5, 7, 16, 33]))
    output = draw(st.sampled_from([I8, I8, I16, I32, *([B1] * (groups == 1))]))
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
        batch=draw(st.sampled_from([1, 1, 2])),
        in_height=height,
        in_width=width,
        in_channels=channels,
        out_height=out[0],
        out_width=out[1],
        out_channels=outputs,
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        input=draw(st.sampled_from([I8, I8, I8, I16])),
        weight=draw(st.sampled_from([I8, I8, I4, I2, B1])),
        output=output,
        stride=stride,
        dilation=dilation,
        pad=pad,
        groups=groups,
        input_pitch=draw(st.sampled_from([None, channels + 5])),
        output_pitch=None if output is B1 else draw(st.sampled_from([None, outputs + 3])),
    )


def _pointwise(pixels: int, channels: int, outputs: int, weight: ElementType = I8) -> Convolution:
    return Convolution(1, pixels, 1, channels, pixels, 1, outputs, 1, 1, I8, weight, I8)


@needs_host
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=SLOW_DRAWS,
    derandomize=True,
)
@given(form=forms(), seed=st.integers(0, 2**32), data=st.data())
def test_kernel_computes_the_definition(form: Convolution, seed: int, data: st.DataObject) -> None:
    machine = data.draw(st.sampled_from(HOST_MACHINES))
    configs = [None, *itertools.islice(candidate_configs(form, machine), 40)]
    plan = plan_convolution(form, machine, data.draw(st.sampled_from(configs)))
    if data.draw(st.booleans()):
        config, times = plan.config, st.integers(1, 3)
        columns = config.columns * data.draw(times) if plan.geometry.flat else plan.geometry.width
        config = replace(
            config,
            share_rows=config.rows * data.draw(times),
            share_columns=min(columns, plan.geometry.width),
            share_panels=data.draw(times),
        )
        plan = plan_convolution(form, machine, config)
    check(plan, seed, extreme=data.draw(st.booleans()))


@needs_host
@pytest.mark.parametrize("machine", HOST_MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("output", [I8, I16, I32, B1], ids=lambda e: e.value)
def test_extremes_are_exact(machine: CpuMachine, output: ElementType) -> None:
    """Activations -128 and 127, weights ±127, every shift, zero points and clamps at their ends."""
    check(plan_convolution(replace(_pointwise(11, 39, 90), output=output), machine), seed=1, extreme=True)


@needs_host
@pytest.mark.parametrize(
    "form",
    [
        _pointwise(1, 1280, 1001),
        _pointwise(1, 75, 10, B1),
        _pointwise(300, 16, 96, I4),
        Convolution(1, 33, 33, 3, 17, 17, 24, 3, 3, I8, I8, I8, stride=(2, 2), pad=(1, 1)),
        Convolution(1, 28, 28, 1, 24, 24, 8, 5, 5, I8, I8, I8),
        Convolution(2, 14, 14, 64, 14, 14, 48, 3, 3, I8, I8, I8, pad=(1, 1), groups=4),
        Convolution(1, 1, 60, 8, 1, 58, 16, 1, 3, I8, I8, I8),
        Convolution(1, 1, 61, 8, 1, 31, 16, 1, 1, I8, I8, I8, stride=(1, 2)),
        Convolution(1, 14, 14, 24, 14, 14, 24, 3, 3, I8, I8, I8, pad=(1, 1), groups=24),
    ],
    ids=lambda f: f"{f.in_height}x{f.in_width}x{f.in_channels}to{f.out_channels}{f.weight.value}",
)
@pytest.mark.parametrize("machine", HOST_MACHINES[:2], ids=lambda m: m.name)
def test_layers_of_networks_are_exact(form: Convolution, machine: CpuMachine) -> None:
    check(plan_convolution(form, machine), seed=2)


@needs_host
@settings(max_examples=15, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(
    form=st.builds(
        _pointwise, st.integers(3, 90), st.sampled_from([3, 16, 40, 70]), st.sampled_from([16, 50, 96])
    ),
    pitch=st.sampled_from([0, 9]),
    columns=st.integers(1, 3),
    shares=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_tiles_that_overlap_compute_the_definition(
    form: Convolution, pitch: int, columns: int, shares: int, seed: int
) -> None:
    """With ragged rows of tiles, shares of a single tile or none, and channel slices."""
    machine = next((m for m in HOST_MACHINES if m.dot is DotProduct.VNNI and m.vector_bits == 512), None)
    if machine is None:
        pytest.skip("tiles overlap on machines with AVX-512 VNNI only")
    form = replace(form, output_pitch=form.out_channels + pitch)
    base = plan_convolution(form, machine).config
    share = min(columns * shares, form.in_height)
    config = replace(
        base, overlaps=True, panels_inner=False, lanes=16, vectors=2, rows=1, columns=columns, share_rows=1
    )
    check(plan_convolution(form, machine, replace(config, share_columns=share)), seed, extreme=seed % 2 == 0)


@needs_host
def test_accumulator_at_the_edge_of_int32_is_rescaled_exactly() -> None:
    form = replace(_pointwise(4, 1, 16), output=I16)
    rng = np.random.default_rng(0)
    edges = rng.choice([-(2**31), 2**31 - 1, -(2**31) + 1, 2**30, -(2**30) - 1, 3, -1], 16)
    constants = draw_constants(form, rng, extreme=True)
    constants |= {
        "weight": np.zeros((16, 1, 1, 1), np.int8),
        "bias": edges.astype(np.int32),
        "shift": rng.integers(1, 63, 16).astype(np.int32),
        "parameters": np.array([7, -5, -32768, 32767], np.int32),
    }
    image = draw_image(form, rng)
    for machine in HOST_MACHINES:
        plan = plan_convolution(form, machine)
        operands = operands_of(plan, image, constants, 0x33)
        call(load([plan])[plan.symbol], list(operands.values()), [(0, plan.tiles)])
        expected = requantize(edges, constants["multiplier"], constants["shift"], -5, -32768, 32767)
        got = codes_of(plan, operands["output"], 0x33).reshape(-1, 16)
        np.testing.assert_array_equal(got, np.broadcast_to(expected, got.shape))


def check_on_arm(plan: ConvolutionPlan, seed: int, extreme: bool = False) -> None:
    rng = np.random.default_rng(seed)
    constants, image = draw_constants(plan.form, rng, extreme), draw_image(plan.form, rng, extreme)
    operands = operands_of(plan, image, constants, 0x5A)
    after = call_on_arm(plan, list(operands.values()))[plan.operands.index("output")]
    np.testing.assert_array_equal(codes_of(plan, after, 0x5A), reference(plan.form, image, constants))


@needs_emulation
@pytest.mark.parametrize("machine", ARM_MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("weight", [I8, I4, I2, B1], ids=lambda e: e.value)
def test_arm_kernels_are_exact(machine: CpuMachine, weight: ElementType) -> None:
    form = Convolution(1, 9, 9, 19, 9, 9, 21, 3, 3, I8, weight, I8, pad=(1, 1), output_pitch=23)
    check_on_arm(plan_convolution(form, machine), seed=3)


@needs_emulation
@pytest.mark.parametrize("weight", [I8, I4], ids=lambda e: e.value)
@pytest.mark.parametrize("outputs", [8, 24, 28])
def test_loops_that_index_their_weights_are_exact(weight: ElementType, outputs: int) -> None:
    """Several rounds and a rest, whole panels and a ragged last one."""
    form = Convolution(1, 5, 5, 80, 5, 5, outputs, 3, 3, I8, weight, I8, pad=(1, 1))
    plan = plan_convolution(form, A55)
    assert plan.rounds > 1 and plan.indexed_loop
    check_on_arm(plan, seed=4, extreme=True)


@pytest.mark.slow
@needs_emulation
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=SLOW_DRAWS)
@given(form=forms(), machine=st.sampled_from(ARM_MACHINES), seed=st.integers(0, 2**32), extreme=st.booleans())
def test_arm_kernels_compute_the_definition(
    form: Convolution, machine: CpuMachine, seed: int, extreme: bool
) -> None:
    check_on_arm(plan_convolution(form, machine), seed, extreme)


def test_machines_that_cannot_run_here_still_build() -> None:
    form = Convolution(1, 9, 9, 19, 9, 9, 21, 3, 3, I8, I4, I8, pad=(1, 1))
    assert plan_convolution(form, AVX_VNNI).build().startswith(b"\x7fELF")


@pytest.mark.parametrize("weight", [I4, I2, B1], ids=lambda e: e.value)
def test_narrow_weights_are_stored_narrow(weight: ElementType) -> None:
    forms = [Convolution(1, 7, 7, 64, 7, 7, 64, 3, 3, I8, w, I8, pad=(1, 1)) for w in (I8, weight)]
    sizes: list[int] = []
    for form in forms:
        plan = plan_convolution(form, AVX512_VNNI)
        packed = plan.pack(draw_constants(form, np.random.default_rng(0)))
        assert packed["weight"].size == plan.operand_type("weight")[0]
        sizes.append(packed["weight"].nbytes)
    assert sizes[1] * 8 == sizes[0] * weight.bits


@settings(max_examples=60, deadline=None)
@given(form=forms(), machine=st.sampled_from([*X86_MACHINES, *ARM_MACHINES]))
def test_every_form_has_legal_plans(form: Convolution, machine: CpuMachine) -> None:
    """Planning is total; candidates are legal, distinct, and name distinct kernels."""
    configs = list(candidate_configs(form, machine))
    assert configs and len(set(configs)) == len(configs)
    plans = [plan_convolution(form, machine, c) for c in (None, *configs[:20])]
    assert len({p.symbol for p in plans}) == len({p.config for p in plans})
    assert plans[0] == plan_convolution(form, machine) and plans[0].tiles >= 1


def test_illegal_configurations_say_why() -> None:
    form = _pointwise(12, 8, 16)
    config = plan_convolution(form, AVX512_VNNI).config
    for change, reason in (
        ({"lanes": 32}, "32 lanes"),
        ({"rows": 2}, "do not divide"),
        ({"columns": 13}, "wider than the image"),
        ({"unroll": 0}, "at least one"),
        ({"overlaps": True, "panels_inner": True}, "overlap"),
    ):
        with pytest.raises(ValueError, match=reason):
            plan_convolution(form, AVX512_VNNI, replace(config, **change))
    with pytest.raises(ValueError, match="not i4"):
        plan_convolution(replace(form, input=I4), AVX512_VNNI)


def test_planning_and_packing_do_not_import_tvm() -> None:
    script = "import sys, schedules.convolution; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@needs_host
@pytest.mark.parametrize("weight", [I4, I2], ids=lambda e: e.value)
@pytest.mark.parametrize("sign", [1, -1])
def test_lifted_sums_are_exact_up_to_the_longest(weight: ElementType, sign: int) -> None:
    """All products at their largest, one channel short of what `Geometry.lift` allows, and one beyond."""
    machine = next((m for m in HOST_MACHINES if m.dot is DotProduct.VNNI), None)
    if machine is None:
        pytest.skip("products are lifted on machines with VNNI only")
    longest = ((1 << 31) - 1) // (255 * (weight.weight_limit << (8 - weight.bits)))
    rng = np.random.default_rng(0)
    for channels in (longest, longest + 1):
        form = replace(_pointwise(1, channels, 16, weight), output=I32)
        plan = plan_convolution(form, machine)
        assert (plan.geometry.lift > 0) == (channels == longest)
        constants = draw_constants(form, rng)
        constants["weight"] = np.full_like(constants["weight"], sign * weight.weight_limit)
        constants["parameters"][0] = 0
        image = np.full((1, 1, 1, channels), 127, np.int8).reshape(1, 1, 1, channels)
        operands = operands_of(plan, image, constants, 0x5A)
        call(load([plan])[plan.symbol], list(operands.values()), [(0, plan.tiles)])
        expected = reference(form, image, constants)
        np.testing.assert_array_equal(codes_of(plan, operands["output"], 0x5A), expected)
