"""A model for Arm: exact on emulated cores, refused by a core that lacks what it needs."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import bitloom
from bitloom.loading import LoadError, RunError
from schedules.arm_machines import ARM_MACHINES, CORTEX_A53
from targets import all_targets, target_named
from targets.cpu import CpuTarget
from targets.library.emit import RUNTIME_INCLUDE
from targets.runners import RunnerError

LETTERS = Path(__file__).parents[1] / "examples" / "letters"
EMULATED = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")

Compile = Callable[[str], Path]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    @cache
    def compile_for(target: str) -> Path:
        out = tmp_path_factory.mktemp("letters") / "out"
        calibration = LETTERS / "calibration.npz"
        bitloom.compile(LETTERS / "letters.onnx", calibration=calibration, target=target, output=out)
        return out

    return compile_for


@EMULATED
@pytest.mark.parametrize(
    ("target", "core"),
    [
        ("arm/cortex-a53", "cortex-a53"),
        ("arm/cortex-a53", "max"),
        ("arm/cortex-a53@android", "cortex-a53"),  # its kernels and runtime, on another C library
        ("arm/cortex-a76", "cortex-a76"),
        ("arm/cortex-a7", "cortex-a7"),
    ],
)
def test_every_layer_is_exact_on_an_emulated_core(letters: Compile, target: str, core: str) -> None:
    result = bitloom.verify(letters(target), samples=1, threads=2, runner=f"qemu:{core}")
    assert result.is_exact, result.difference
    assert result.layers > 20


@EMULATED
@pytest.mark.slow
@pytest.mark.parametrize(
    "target", [*(f"arm/{name}" for name in ARM_MACHINES), "arm:mcpu=cortex-a73", "arm:mcpu=oryon-1"]
)
def test_every_named_core_is_exact_on_a_core_that_has_everything(letters: Compile, target: str) -> None:
    result = bitloom.verify(letters(target), samples=1, runner="qemu:max")
    assert result.is_exact, result.difference


@EMULATED
def test_a_library_for_arm_says_where_it_could_run(letters: Compile) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("this computer is one")
    with pytest.raises(LoadError, match=r"made for aarch64-linux-gnu.*\nhint: .*--runner ssh:USER@HOST"):
        bitloom.load(letters("arm/cortex-a53"))


@EMULATED
def test_a_core_without_dot_products_refuses_before_the_first_kernel(letters: Compile) -> None:
    refused = (
        "letters on qemu:cortex-a53: letters holds cortex-a76; cortex-a76 needs the CPU feature asimddp, "
        "which this CPU does not have"
    )
    with pytest.raises(LoadError, match=f"^{refused}$"):
        bitloom.verify(letters("arm/cortex-a76"), samples=1, runner="qemu:cortex-a53")


@EMULATED
def test_a_core_of_32_bits_without_a_divide_is_refused(letters: Compile) -> None:
    refused = (
        "letters holds cortex-a7; cortex-a7 needs the CPU feature (vfpv4|idiva), which this CPU does not"
    )
    with pytest.raises(LoadError, match=refused):
        bitloom.verify(letters("arm/cortex-a7"), samples=1, runner="qemu:cortex-a8")
    with pytest.raises(RunnerError, match='qemu-arm emulates no "cortex-a53"'):
        bitloom.load(letters("arm/cortex-a7"), runner="qemu:cortex-a53")


@EMULATED
def test_an_emulator_tells_no_time_and_lists_its_cores(letters: Compile) -> None:
    folder = letters("arm/cortex-a53")
    with bitloom.load(folder, runner="qemu:cortex-a53") as model, pytest.raises(RunError, match="emulator"):
        model.time({port.name: np.zeros(port.shape, port.dtype) for port in model.inputs})
    with pytest.raises(RunnerError, match=r'emulates no "z80"\nhint: it emulates .*cortex-a53, .*max'):
        bitloom.load(folder, runner="qemu:z80")


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        # glibc before 2.34 has its threads in a file of their own.
        ("arm/cortex-a53", {"libc.so.6", "libpthread.so.0"}),
        ("arm/cortex-a53@musl", {"libc.so"}),
        ("arm/cortex-a53@android", {"libc.so"}),
    ],
)
def test_the_shared_library_needs_the_c_library_alone(
    letters: Compile, target: str, allowed: set[str]
) -> None:
    read = _readelf(letters(target) / "libletters.so")
    assert re.search(r"Machine: +AArch64", read)
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", read)) <= allowed


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_an_android_library_loads_with_large_pages_and_takes_all_from_bionic(letters: Compile) -> None:
    """Android 15 may have pages of 16 KiB; `bitloom_bionic.h` says what Android 9 has."""
    read = _readelf(letters("arm/cortex-a53@android") / "libletters.so")
    assert set(re.findall(r"^ +LOAD .* (0x\w+)$", read, re.MULTILINE)) == {"0x4000"}
    undefined = set(re.findall(r" UND (\w+)", read))
    declared = set(re.findall(r"(\w+)\(", (RUNTIME_INCLUDE / "bitloom_bionic.h").read_text()))
    assert "pthread_create" in undefined and undefined <= declared | {"memcpy", "memmove"}


def _readelf(path: Path) -> str:
    command = ["readelf", "-W", "-h", "-d", "-l", "--dyn-syms", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _arm(name: str) -> CpuTarget:
    target = target_named(name)
    assert isinstance(target, CpuTarget)
    return target


def test_the_named_cores_are_targets() -> None:
    assert {f"arm/{name}" for name in ARM_MACHINES} <= set(all_targets())
    assert _arm("arm/cortex-a53").machine is CORTEX_A53


def test_a_name_may_carry_the_c_library() -> None:
    libraries = [_arm(f"arm/cortex-a53{libc}").triple for libc in ("", "@glibc", "@musl", "@android")]
    assert _arm("arm/cortex-a7@musl").triple == "arm-linux-musleabihf"
    glibc = "aarch64-linux-gnu.2.28"
    assert libraries == [glibc, glibc, "aarch64-linux-musl", "aarch64-linux-android"]
    assert len({_arm(f"arm/cortex-a53{libc}").digest for libc in ("@glibc", "@musl", "@android")}) == 3


def test_any_core_by_its_parameters() -> None:
    target = _arm("arm:mcpu=cortex-a73,features=+dotprod+i8mm@musl")
    assert target.machine.required_features == ("asimd", "asimddp", "i8mm")
    assert target.triple == "aarch64-linux-musl"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arm/cortex-a99", "unknown target .*known targets: host, .*arm/cortex-a53"),
        ("arm/cortex-a53@uclibc", 'unknown C library "uclibc"\nhint: known are glibc, musl, android'),
        ("arm/cortex-a7@android", 'unknown C library "android"\nhint: known are glibc, musl$'),
        ("arm:mcpu=z80", 'LLVM knows no 64-bit Arm CPU "z80"; it knows .*cortex-a53'),
        ("arm:mcpu=cortex-a53,features=dotprod", 'unknown feature "dotprod"; known are .neon or -neon'),
        ("arm:mcpu=cortex-a53,features=+dotprod+sse", 'unknown feature ".sse"'),
        ("arm:cpu=cortex-a53", 'cannot read "cpu=cortex-a53"\nhint: settings are mcpu=CPU and features='),
        ("arm:mcpu=cortex-a53,mcpu=cortex-a55", 'cannot read "mcpu=cortex-a55"'),
    ],
)
def test_a_name_that_cannot_be_says_what_can(name: str, message: str) -> None:
    with pytest.raises(bitloom.BitloomError, match=re.compile(message, re.DOTALL)):
        target_named(name)
