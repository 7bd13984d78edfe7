"""Depthwise kernels compute their form bit for bit, in any split of tiles, and write nothing else."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import requantize
from schedules.arm_machines import CORTEX_A7
from schedules.depthwise import DepthwiseConfig, DepthwisePlan, candidate_configs, plan_depthwise
from schedules.machines import AVX512_VNNI
from tests.built_kernel import emulation

AVX2 = replace(
    AVX512_VNNI, name="avx2", target=(("kind", "llvm"), ("mcpu", "haswell")), dot=DotProduct.PMADDWD,
    vector_bits=256, vector_registers=16, required_features=("avx2",),
)  # fmt: skip
PLAIN = replace(
    AVX2, name="sse", target=(("kind", "llvm"), ("mcpu", "x86-64-v2")), dot=DotProduct.NONE,
    vector_bits=128, activation_offset=0, required_features=("sse4_2",),
)  # fmt: skip
LINUX_ARM = (("kind", "llvm"), ("mtriple", "aarch64-linux-gnu"))
NEON = replace(PLAIN, name="neon", target=(*LINUX_ARM, ("mcpu", "cortex-a53")), dot=DotProduct.SMLAL)
NEON_DOT = replace(NEON, name="neondot", target=(*LINUX_ARM, ("mcpu", "cortex-a76")), dot=DotProduct.SDOT)

GUARD = 64  # bytes of slack around every operand: readable garbage, never written
MACHINES = [AVX512_VNNI, AVX2, PLAIN]


def cpu_features() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def need(machine: CpuMachine) -> None:
    missing = set(machine.required_features) - cpu_features()
    if missing:
        pytest.skip(f"this CPU lacks {sorted(missing)}")


def reference(form: Convolution, image: Array, constants: dict[str, Array]) -> Array:
    """The form's definition, one filter tap at a time, in int64."""
    zero, zero_out, low, high = (int(p) for p in constants["parameters"])
    shape = (form.batch, form.out_height, form.out_width, form.out_channels)
    total = np.broadcast_to(constants["bias"].astype(np.int64), shape).copy()
    for kh in range(form.kernel_height):
        for kw in range(form.kernel_width):
            weight = constants["weight"][:, kh, kw, 0].astype(np.int64)
            for oh in range(form.out_height):
                for ow in range(form.out_width):
                    h = oh * form.stride[0] + kh * form.dilation[0] - form.pad[0]
                    w = ow * form.stride[1] + kw * form.dilation[1] - form.pad[1]
                    if 0 <= h < form.in_height and 0 <= w < form.in_width:
                        total[:, oh, ow] += (image[:, h, w] - zero) * weight
    if not form.requantizes:
        return total
    return requantize(total, constants["multiplier"], constants["shift"], zero_out, low, high)


class Guarded:
    """A 64-byte aligned operand between two guards."""

    def __init__(self, values: Array) -> None:
        self.raw = np.frombuffer(np.random.default_rng(1).bytes(values.nbytes + 3 * GUARD), np.uint8).copy()
        self.start = GUARD + -(self.raw.ctypes.data + GUARD) % GUARD
        self.size = values.nbytes
        self.values = self.raw[self.start : self.start + self.size].view(values.dtype).reshape(values.shape)
        self.values[...] = values
        self.before = self.outside()

    def outside(self) -> bytes:
        return self.raw[: self.start].tobytes() + self.raw[self.start + self.size :].tobytes()

    @property
    def pointer(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.values.ctypes.data)


def load(plan: DepthwisePlan, folder: str) -> Any:
    obj, library = Path(folder) / "kernel.o", Path(folder) / f"{plan.symbol}.so"
    obj.write_bytes(plan.build())
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", str(obj), "-o", str(library)]
    subprocess.run(command, check=True)
    return getattr(ctypes.CDLL(str(library)), plan.symbol)


def operand_arrays(plan: DepthwisePlan, image: Array, constants: dict[str, Array]) -> dict[str, Array]:
    form, layout = plan.form, plan.layout
    offset = plan.machine.activation_offset
    pitch_in, pitch_out = form.input_pitch or form.in_channels, form.output_pitch or form.out_channels
    stored = np.full((*image.shape[:3], pitch_in), 77, layout.input_dtype)
    stored[..., : form.in_channels] = image + (offset if form.input is ElementType.I8 else 0)
    out_shape = (form.batch, form.out_height, form.out_width, pitch_out)
    return {
        **plan.pack(constants),
        "input": stored,
        "output": np.full(out_shape, 55, layout.output_dtype),
        "scratch": np.zeros(plan.scratch_bytes, np.uint8),
    }


def check(plan: DepthwisePlan, image: Array, constants: dict[str, Array], order: list[int]) -> None:
    """Runs the tiles of `order` one range at a time, with scratch garbled between."""
    form, offset = plan.form, plan.machine.activation_offset
    operands = {name: Guarded(a) for name, a in operand_arrays(plan, image, constants).items()}
    with TemporaryDirectory() as folder:
        kernel = load(plan, folder)
        pointers = [operands[name].pointer for name in plan.operands]
        for tile in order:
            operands["scratch"].values[...] = np.random.default_rng(tile).integers(0, 256, plan.scratch_bytes)
            assert kernel(*pointers, tile, tile + 1) == 0
    result = operands["output"].values
    codes = result[..., : form.out_channels].astype(np.int64)
    codes = codes - (offset if form.output is ElementType.I8 else 0)
    np.testing.assert_array_equal(codes, reference(form, image.astype(np.int64), constants))
    assert np.all(result[..., form.out_channels :] == 55), "wrote between the pixels of a channel slice"
    for name in ("output", "scratch"):
        assert operands[name].outside() == operands[name].before, f"wrote outside {name}"


@st.composite
def forms(draw: st.DrawFn) -> Convolution:
    element = draw(st.sampled_from([ElementType.I8, ElementType.I8, ElementType.I16]))
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (5, 5), (1, 1), (2, 3), (1, 4), (7, 2)]))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pad = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    out = draw(st.tuples(st.integers(1, 6), st.integers(1, 12)))
    channels = draw(st.sampled_from([2, 8, 10, 16, 24, 31, 33, 48, 72, 80, 100, 144]))
    needed = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    ends = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))  # padding below and to the right
    size = [max(1, n - p - e) for n, p, e in zip(needed, pad, ends, strict=True)]
    slack_in, slack_out = draw(st.sampled_from([None, 0, 3])), draw(st.sampled_from([None, 5]))
    return Convolution(
        batch=draw(st.integers(1, 2)),
        in_height=size[0],
        in_width=size[1],
        in_channels=channels,
        out_height=out[0],
        out_width=out[1],
        out_channels=channels,
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        input=element,
        weight=draw(st.sampled_from([ElementType.I8, ElementType.I4, ElementType.I2, ElementType.B1])),
        output=draw(st.sampled_from([element, ElementType.I8, ElementType.I16, ElementType.I32])),
        stride=stride,
        dilation=dilation,
        pad=pad,
        groups=channels,
        input_pitch=None if slack_in is None else channels + slack_in,
        output_pitch=None if slack_out is None else channels + slack_out,
    )


def numbers(form: Convolution, seed: int, extreme: bool) -> tuple[Array, dict[str, Array]]:
    rng = np.random.default_rng(seed)
    low, high, limit, channels = form.input.low, form.input.high, form.weight.weight_limit, form.out_channels
    weight_shape = (channels, form.kernel_height, form.kernel_width, 1)
    image_shape = (form.batch, form.in_height, form.in_width, channels)
    image = rng.choice([low, high], image_shape) if extreme else rng.integers(low, high + 1, image_shape)
    weight = rng.choice([-limit, limit], weight_shape)
    if not extreme and form.weight is not ElementType.B1:
        weight = rng.integers(-limit, limit + 1, weight_shape)
    products = form.taps * (high - low) * limit
    largest = (1 << 31) - 1 - products if extreme else products
    shift = rng.integers(1, 63, channels) if extreme else rng.integers(34, 46, channels)
    out_low, out_high = (form.output.low, form.output.high) if form.requantizes else (0, 0)
    zeros = [rng.choice([low, high, 0]), rng.choice([out_low, out_high, 0])]
    bounds = sorted(rng.integers(out_low, out_high + 1, 2)) if rng.integers(2) else [out_low, out_high]
    return image.astype(np.int64), {
        "weight": weight.astype(np.int8),
        "bias": rng.integers(-largest, largest + 1, channels).astype(np.int32),
        "multiplier": rng.integers(1 << 30, 1 << 31, channels).astype(np.int32),
        "shift": shift.astype(np.int32),
        "parameters": np.array([*zeros, *bounds], np.int32),
    }


def drawn_config(draw: st.DrawFn, form: Convolution, machine: CpuMachine) -> DepthwiseConfig:
    config = draw(st.sampled_from(list(candidate_configs(form, machine))))
    return replace(config, bands=draw(st.integers(1, 3)))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_kernel_computes_its_form_in_any_order_of_tiles(machine: CpuMachine, data: st.DataObject) -> None:
    need(machine)
    form = data.draw(forms())
    plan = plan_depthwise(form, machine, drawn_config(data.draw, form, machine))
    image, constants = numbers(form, data.draw(st.integers(0, 1000)), data.draw(st.booleans()))
    check(plan, image, constants, data.draw(st.permutations(range(plan.tiles))))


def typical(**changes: Any) -> Convolution:
    return replace(
        Convolution(
            1,
            14,
            14,
            96,
            14,
            14,
            96,
            3,
            3,
            ElementType.I8,
            ElementType.I8,
            ElementType.I8,
            pad=(1, 1),
            groups=96,
        ),
        **changes,
    )


def typical_layers() -> Iterator[Convolution]:
    yield typical()
    yield typical(stride=(2, 2), out_height=7, out_width=7)
    yield typical(kernel_height=5, kernel_width=5, pad=(2, 2))
    yield typical(in_width=70, out_width=70)  # several blocks of columns


@pytest.mark.parametrize("form", list(typical_layers()))
@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("extreme", [False, True])
def test_default_configuration(form: Convolution, machine: CpuMachine, extreme: bool) -> None:
    need(machine)
    plan = plan_depthwise(form, machine)
    check(plan, *numbers(form, 5, extreme), list(range(plan.tiles)))


@pytest.mark.parametrize("machine", [NEON, NEON_DOT, CORTEX_A7], ids=lambda m: m.name)
def test_arm_objects_build(machine: CpuMachine) -> None:
    assert plan_depthwise(typical(), machine).build()[:4] == b"\x7fELF"


EMULATED = """
#include <stdio.h>
static unsigned char room[7][1 << 20] __attribute__((aligned(64)));
int SYMBOL(void *, void *, void *, void *, void *, void *, void *, int, int);
int main(int n, char **file) {
  for (int i = 0; i < 7; i++) {
    FILE *f = fopen(file[i + 1], "rb");
    fread(room[i] + 64, 1, sizeof room[i] - 128, f);
    fclose(f);
  }
  SYMBOL(room[0] + 64, room[1] + 64, room[2] + 64, room[3] + 64, room[4] + 64, room[5] + 64, room[6] + 64,
         0, TILES);
  FILE *f = fopen(file[6], "wb");
  fwrite(room[5] + 64, 1, sizeof room[5] - 128, f);
  return fclose(f);
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
@pytest.mark.parametrize("machine", [NEON, NEON_DOT, CORTEX_A7], ids=lambda m: m.name)
@pytest.mark.parametrize("element", [ElementType.I8, ElementType.I16])
@pytest.mark.parametrize("extreme", [False, True])
def test_arm_kernels_compute_their_form_under_emulation(
    machine: CpuMachine, element: ElementType, extreme: bool, tmp_path: Path
) -> None:
    form = typical(in_channels=40, out_channels=40, groups=40, input=element, output=element)
    plan = plan_depthwise(form, machine)
    image, constants = numbers(form, 9, extreme)
    arrays = operand_arrays(plan, image, constants)
    for name in plan.operands:
        (tmp_path / name).write_bytes(arrays[name].tobytes())
    (tmp_path / "kernel.o").write_bytes(plan.build())
    (tmp_path / "main.c").write_text(
        EMULATED.replace("SYMBOL", plan.symbol).replace("TILES", str(plan.tiles))
    )
    triple, qemu = emulation(machine)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-static", "-O1"]
    subprocess.run([*command, "main.c", "kernel.o", "-o", "program"], cwd=tmp_path, check=True)
    subprocess.run([qemu, "-cpu", "max", "./program", *plan.operands], cwd=tmp_path, check=True)
    out = np.fromfile(tmp_path / "output", arrays["output"].dtype)[: arrays["output"].size]
    expected = reference(form, image, constants)
    np.testing.assert_array_equal(out.reshape(expected.shape).astype(np.int64), expected)


def test_equal_structure_is_one_kernel_and_another_is_another() -> None:
    names = {plan_depthwise(f, AVX512_VNNI).symbol for f in (typical(), typical(), typical(batch=2))}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("form", "config", "message"),
    [
        (typical(groups=1), None, "96->96 in 1 groups is not depthwise"),
        (
            typical(),
            DepthwiseConfig(lanes=5, rows=1, columns=1, bands=1),
            r"5 lanes: avx512vnni has \(4, 8, 16\)",
        ),
        (typical(), DepthwiseConfig(lanes=8, rows=15, columns=1, bands=1), "tile 15x1 exceeds 14x14"),
    ],
)
def test_what_cannot_be_planned_says_why(
    form: Convolution, config: DepthwiseConfig | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_depthwise(form, AVX512_VNNI, config)
