"""What a run takes: the size of a library, and the most memory that a program around it ever holds."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bitloom
from benchmarks.cases import ZOO_VARIABLE, load_case
from bitloom.library_files import manifest_path_of, read_manifest
from targets.library.toolchain import Toolchain

LETTERS = Path(__file__).parents[1] / "examples" / "letters"
LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells a process its peak")
ZOO = pytest.mark.skipif(ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models")
# Code, stacks, the C library and the caller's arrays, beside arena, scratch and constants.
REST_BYTES = 1_000_000

# Everything static, so that the loader and a shared C library do not count.
PROGRAM = """
#include HEADER
#include <stdio.h>
#include <string.h>
#define PASTE(a, b) a##_##b
#define NAMED(a, b) PASTE(a, b)
#define LIBRARY(function) NAMED(BL_NAME, function)
static float x[LIBRARY(input_0_elements)], y[LIBRARY(output_0_elements)];
int main(void)
{
    const void *in[] = {x};
    void *out[] = {y};
    char line[256];
    LIBRARY(ctx) *context = LIBRARY(create)(1, NULL);
    memset(x, 1, sizeof x);
    if (!context || LIBRARY(run)(context, in, out) != 0 || LIBRARY(run)(context, in, out) != 0)
        return 1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "VmHWM:", 6) == 0)
            fputs(line + 6, stdout);
    return 0;
}
"""


def peak_bytes(folder: Path, manifest: dict[str, Any]) -> int:
    """Of a static program for this computer that runs the library twice on one thread."""
    name = manifest["name"]
    (folder / "main.c").write_text(PROGRAM)
    toolchain = Toolchain(f"{platform.machine()}-linux-musl")
    flags = [f"-DBL_NAME={name}", f'-DHEADER="{name}.h"', "-Wno-unused-parameter"]
    toolchain.link_program(folder / "main.c", [folder / f"lib{name}.a"], folder / "main", [folder], flags)
    done = subprocess.run([folder / "main"], capture_output=True, text=True, check=True)
    kibibytes, unit = done.stdout.split()
    assert unit == "kB"
    return int(kibibytes) << 10


def check_peak(folder: Path) -> None:
    manifest = read_manifest(manifest_path_of(folder))
    ours = manifest["constant_bytes"] + manifest["arena_bytes"] + manifest["scratch_bytes_per_thread"]
    peak = peak_bytes(folder, manifest)
    # The lower bound says that the peak is that of the run.
    assert 0.5 * ours < peak <= ours + REST_BYTES, (peak, manifest["arena_bytes"], manifest["constant_bytes"])


@LINUX
def test_a_run_takes_its_arena_and_constants_and_little_more(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bitloom.compile(LETTERS / "letters.onnx", calibration=LETTERS / "calibration.npz", output=out)
    check_peak(out)


def compiled(name: str, target: str, folder: Path) -> Path:
    case = load_case(name, folder)
    calibration = [{case.input_name: x} for x in case.calibration[:4]]
    bitloom.compile(case.model, calibration=calibration, target=target, output=folder / "out")
    return folder / "out"


@LINUX
@ZOO
@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mbv2_100_224_deq"])
def test_a_run_of_a_large_model_takes_no_more(name: str, tmp_path: Path) -> None:
    check_peak(compiled(name, "host", tmp_path))


@ZOO
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("size") is None, reason="size (binutils) is not installed")
@pytest.mark.parametrize("target", ["arm/cortex-a53", "arm/cortex-a76", "arm/neoverse-n2"])
def test_a_library_for_arm_is_little_larger_than_its_weights(target: str, tmp_path: Path) -> None:
    """1.25 MB of weights; the rest is their padding, factors and code."""
    out = compiled("squeezenet1_1", target, tmp_path)
    assert (out / "libsqueezenet1_1.so").stat().st_size <= 1_400_000
    assert (out / "libsqueezenet1_1.a").stat().st_size <= 1_450_000
