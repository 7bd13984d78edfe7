"""Small libraries whose kernels are C functions that the tests write themselves."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from targets.library.description import (
    Arena,
    Constant,
    CpuFeature,
    DType,
    Edge,
    Input,
    LibraryDescription,
    Output,
    Port,
    Scratch,
    Step,
    Variant,
    View,
)
from targets.library.emit import LibraryFiles, emit_library
from targets.library.toolchain import Toolchain

CHANNELS, HEIGHT, WIDTH = 3, 8, 10
SHAPE = (1, CHANNELS, HEIGHT, WIDTH)
ELEMENTS = CHANNELS * HEIGHT * WIDTH
NHWC = (ELEMENTS, 1, WIDTH * CHANNELS, CHANNELS)
SCALE, ZERO_POINT = 0.5, -3

# Quantize to NHWC uint8 (code + 128); add bias[c] by rows; sum over everything, one tile; dequantize.
KERNELS = """
#include <stdint.h>
enum {{ C = {c}, H = {h}, W = {w} }};
static int floor_half_up(float v) {{ v += 0.5f; return (int)v - (v < (int)v); }}
static int clamp(int v) {{ return v < -128 ? -128 : v > 127 ? 127 : v; }}
int32_t {n}_quantize(const float *x, uint8_t *q, int32_t begin, int32_t end)
{{
    for (int y = begin; y < end; y++)
        for (int i = 0; i < W; i++)
            for (int c = 0; c < C; c++)
                q[(y * W + i) * C + c] = clamp(floor_half_up(x[(c * H + y) * W + i] * 2) - 3) + 128;
    return 0;
}}
int32_t {n}_bias(const uint8_t *q, const int8_t *bias, int8_t *r, int8_t *row, int32_t begin, int32_t end)
{{
    for (int y = begin; y < end; y++) {{
        for (int i = 0; i < W * C; i++)
            row[i] = clamp(q[y * W * C + i] - 128 + bias[i % C]);
        for (int i = 0; i < W * C; i++)
            r[y * W * C + i] = row[i];
    }}
    return 0;
}}
int32_t {n}_total(const int8_t *r, int32_t *sum, int32_t begin, int32_t end)
{{
    *sum = 0;
    for (int i = 0; i < H * W * C; i++)
        *sum += r[i];
    return begin == 0 && end == 1 ? 0 : -1;
}}
int32_t {n}_dequantize(const int8_t *r, float *y, int32_t begin, int32_t end)
{{
    for (int i = begin; i < end; i++)
        for (int k = 0; k < H * W; k++)
            y[i * H * W + k] = 0.5f * (r[k * C + i] + 3);
    return 0;
}}
"""

BIAS = (5, -7, 100)


def description(name: str = "tiny", features: tuple[CpuFeature, ...] = ()) -> LibraryDescription:
    """x → quantize → add the channel's bias → (sum of codes, dequantize)."""
    codes_in = View(Arena(0), DType.INT8, SHAPE, NHWC, DType.UINT8, 128)
    codes_out = View(Arena(256), DType.INT8, SHAPE, NHWC, DType.INT8)
    total = View.dense(Output(1), DType.INT32, (1,))
    steps = (
        Step(f"{name}_quantize", (Input(0), Arena(0)), HEIGHT, "quantize x", "x", codes_in),
        Step(
            f"{name}_bias",
            (Arena(0), Constant(64), Arena(256), Scratch()),
            HEIGHT,
            "add",
            "/a/*Add*/",
            codes_out,
        ),
        Step(f"{name}_total", (Arena(256), Output(1)), 1, "total", "/ReduceSum", total),
        Step(f"{name}_dequantize", (Arena(256), Output(0)), CHANNELS, "dequantize y", "y"),
    )
    constants = bytes(64) + bytes(value % 256 for value in BIAS)
    x = Port("x", DType.FLOAT32, SHAPE, "NCHW", Edge(0, codes_in, SCALE, ZERO_POINT))
    y = Port("y", DType.FLOAT32, SHAPE, "NCHW", Edge(3, codes_out, SCALE, ZERO_POINT))
    outputs = (y, Port("total", DType.INT32, (1,)))
    variant = Variant("plain", steps, 256 + ELEMENTS, (x,), outputs, WIDTH * CHANNELS, features)
    return LibraryDescription(name, constants, (variant,))


def with_variant(library: LibraryDescription, **changes: Any) -> LibraryDescription:
    """The library with changes of its only variant."""
    (variant,) = library.variants
    return replace(library, variants=(replace(variant, **changes),))


def kernel_object(folder: Path, name: str = "tiny", toolchain: Toolchain | None = None) -> Path:
    """Compiles KERNELS for the library `name`."""
    source = folder / f"{name}_kernels.c"
    source.write_text(KERNELS.format(n=name, c=CHANNELS, h=HEIGHT, w=WIDTH))
    (toolchain or Toolchain.host()).compile(source, folder / f"{name}_kernels.o")
    return folder / f"{name}_kernels.o"


@dataclass(frozen=True, slots=True)
class Built:
    """A library in its folder."""

    description: LibraryDescription
    files: LibraryFiles


def build(folder: Path, name: str = "tiny", features: tuple[CpuFeature, ...] = ()) -> Built:
    described = description(name, features)
    out = folder / f"out_{name}"
    return Built(described, emit_library(described, [kernel_object(folder, name)], out, Toolchain.host()))


def compile_program(arguments: list[str], output: Path, language: str = "cc") -> Path:
    """Builds a program for this machine with zig; `arguments` are sources, archives and flags."""
    command = [sys.executable, "-m", "ziglang", language, "-target", Toolchain.host().triple, "-O1", "-g0"]
    done = subprocess.run(
        [*command, *arguments, "-o", str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return output


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
