"""Libraries for OpenCL devices: exact on PoCL, and what they say where something is missing or broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bitloom
from bitloom.device import DeviceModel
from bitloom.library_files import LoadError
from bitloom.verification import read_graph
from compiler.driver import no_progress
from compiler.ir.diagnostics import BitloomError
from schedules.mali import gpu_plan
from schedules.mali_loops import ClLoopsPlan
from targets import target_named
from targets.mali import MaliBuild
from tests import opencl_shim
from tests.command_line import bitloom as command_line
from tests.loopback_sshd import loopback_sshd
from tests.onnx_models import make_model, node, save

CHANNELS, SIZE = 5, 9


def network(folder: Path) -> Path:
    """A convolution, a depthwise one, a sum, a pool, a dense layer and a softmax."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", "x w1 b1", "c1", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2", group=8, pads=[1, 1, 1, 1]),
        node("Add", "r1 c2", "sum"),
        node("Sigmoid", "sum", "gate"),
        node("GlobalAveragePool", "gate", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("Gemm", "flat w3", "logits"),
        node("Softmax", "logits", "y", axis=-1),
    ]
    constants = {
        "w1": rng.normal(0, 0.3, (8, CHANNELS, 3, 3)).astype(np.float32),
        "b1": rng.normal(0, 0.3, 8).astype(np.float32),
        "w2": rng.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32),
        "w3": rng.normal(0, 1, (8, 11)).astype(np.float32),
    }
    return save(make_model(nodes, {"x": (1, CHANNELS, SIZE, SIZE)}, ["y"], constants), folder)


SAMPLES = np.random.default_rng(0).normal(0, 1, (4, 1, CHANNELS, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("libraries for OpenCL are made for Linux and Android")
    folder = tmp_path_factory.mktemp("mali")
    target = "mali/generic@host"
    return bitloom.compile(
        network(folder), calibration=list(SAMPLES), target=target, output=folder / "out", name="net"
    ).path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees what another has compiled."""
    folder = tmp_path / "compiled"
    monkeypatch.setenv("BITLOOM_OPENCL_CACHE", str(folder))
    return folder


@pytest.fixture
def device(library: Path) -> Path:
    """The library, where there is a device for it."""
    try:
        bitloom.load(library, runner="opencl").close()
    except LoadError as error:
        pytest.skip(str(error))
    return library


def refusal(library: Path) -> str:
    with pytest.raises(LoadError) as caught:
        bitloom.load(library)
    return str(caught.value)


def test_every_layer_is_exact(device: Path) -> None:
    found = bitloom.verify(device, [{"x": x} for x in SAMPLES])
    assert found.difference is None, str(found.difference)
    assert found.layers > 8
    manifest = bitloom.load(device).manifest
    assert [row["layer"] for row in manifest["on_cpu"]] and len(manifest["on_cpu"]) == 2
    assert all("floats" in row["reason"] for row in manifest["on_cpu"])


def test_long_rows_are_computed_in_phases(device: Path, tmp_path: Path) -> None:
    """A softmax of 405 values and their mean, side by side, through one place of scratch memory."""
    nodes = [
        node("Flatten", "x", "row"),
        node("Softmax", "row", "y", axis=-1),
        node("ReduceMean", "row", "m", axes=[1], keepdims=1),
    ]
    model = save(make_model(nodes, {"x": (1, CHANNELS, SIZE, SIZE)}, ["y", "m"], {}), tmp_path)
    artifact = bitloom.compile(
        model, calibration=list(SAMPLES), target="mali/generic@host", output=tmp_path / "out"
    )
    assert artifact.manifest["scratch_bytes_per_thread"] == 0
    build = target_named("mali/generic@host").build(read_graph(artifact.path), no_progress)
    assert isinstance(build, MaliBuild)
    plans = [plan for plan in map(gpu_plan, build.program.kernels().values()) if plan is not None]
    launches = {p.form.name: len(p.kernels) for p in plans if isinstance(p, ClLoopsPlan)}
    assert (launches["softmax"], launches["mean"]) == (3, 2)
    found = bitloom.verify(artifact.path, [{"x": x} for x in SAMPLES])
    assert found.difference is None, str(found.difference)
    with DeviceModel(next(artifact.path.glob("*.json"))) as loaded:
        times = [t for step, t in loaded.device_times(SAMPLES[0]) if "softmax" in step.kernel]
        assert len(times) == 1 and times[0] > 0  # of all its launches


def test_every_platform_is_exact(device: Path) -> None:
    """PoCL as the system has it, and as pyopencl brings it."""
    cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install 'bitloom[mali]'")
    for platform in cl.get_platforms():
        found = bitloom.verify(device, [{"x": SAMPLES[0]}], runner=f"opencl:{platform.version}")
        assert found.difference is None, f"{platform.version}: {found.difference}"


def test_the_command_runs_on_a_chosen_device(device: Path, tmp_path: Path) -> None:
    done = command_line("verify", device, "--runner", "opencl:PORTABLE", "--samples", "1", cwd=tmp_path)
    if "no usable OpenCL device" in done.stderr:
        pytest.skip(done.stderr)
    assert done.code == 0 and "exact" in done.stdout, done.stderr
    done = command_line("verify", device, "--runner", "opencl:no such", cwd=tmp_path)
    assert done.code == 2
    assert 'no usable OpenCL device is called "no such"' in done.stderr


def test_a_program_in_c_is_exact_on_a_board(device: Path, tmp_path: Path) -> None:
    """No Python there, and the system's own OpenCL library."""
    with loopback_sshd(tmp_path) as board:
        try:
            found = bitloom.verify(device, [{"x": x} for x in SAMPLES[:2]], runner=board.runner)
        except LoadError as error:
            if "there is no OpenCL" not in str(error):
                raise
            pytest.skip(str(error))
    assert found.difference is None, str(found.difference)
    assert found.layers > 8


def test_codes_and_single_runs_agree(device: Path) -> None:
    with bitloom.load(device) as model, bitloom.load(device, 1) as single:
        for x in (*SAMPLES, *SAMPLES):
            np.testing.assert_array_equal(model(x), single(x))
        port = model.inputs[0]
        assert port.codes_dtype is not None and port.scale is not None and port.zero_point is not None
        codes = np.clip(np.floor(SAMPLES[0] / port.scale + 0.5) + port.zero_point, -128, 127)
        given = model(codes.astype(port.codes_dtype))
        np.testing.assert_array_equal(given, single(codes.astype(port.codes_dtype)))


def test_the_device_tells_the_time_of_each_step(device: Path) -> None:
    with DeviceModel(device / "net.json") as model:
        assert "short vectors" in model.device or "DOT_" in model.device
        times = model.device_times(SAMPLES[0])
        for step, seconds in times:
            assert (seconds > 0) == ("_generic_" in step.kernel), step
            assert seconds < 10


def test_a_library_for_a_cpu_has_no_device(tmp_path: Path) -> None:
    artifact = bitloom.compile(network(tmp_path), calibration=list(SAMPLES), output=tmp_path / "out")
    with pytest.raises(LoadError, match="compile it with --target mali/generic@host"):
        bitloom.load(artifact.path, runner="opencl")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BitloomError, match="GPUs are generic, t860"):
        target_named("mali/g99@host")
    with pytest.raises(BitloomError, match="known targets"):
        target_named("mali/g99")
    with pytest.raises(BitloomError, match="has no variants"):
        target_named("mali/g76", ["cortex-a76"])


def test_no_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITLOOM_OPENCL", "/nowhere/libOpenCL.so")
    assert "there is no OpenCL library" in refusal(library)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (opencl_shim.NO_PLATFORM, "no platform: install the GPU's driver"),
        (opencl_shim.NO_DEVICE, "there is no OpenCL device"),
        (opencl_shim.NO_MEMORY, "its arena: out of memory on .* \\(OpenCL error -4\\)"),
        (opencl_shim.SMALL_GROUPS, "has not the registers for a work-group of .*: compile for mali/generic"),
        (
            opencl_shim.building_with("-Dp_output=nowhere+1"),
            "does not build the kernels (.|\\n)*error: (.|\\n)*subscripted value",
        ),
    ],
    ids=["platform", "device", "memory", "groups", "build"],
)
def test_what_is_missing_is_said(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, words: str
) -> None:
    monkeypatch.setenv("BITLOOM_OPENCL", str(opencl_shim.shim(tmp_path, function)))
    monkeypatch.setenv("BITLOOM_OPENCL_CACHE", "")  # nothing compiled is at hand
    with pytest.raises(LoadError, match=words):
        bitloom.load(device)


_SUM = "((int)(a).s0*(b).s0+(int)(a).s1*(b).s1+(int)(a).s2*(b).s2+(int)(a).s3*(b).s3)"
DOTS = {
    "DOT_ARM_ACCUMULATE": (
        "cl_arm_integer_dot_product_accumulate_int8",
        0,
        f"-Darm_dot_acc(a,b,c)=({_SUM}+(c))",
    ),
    "DOT_ARM": ("cl_arm_integer_dot_product_int8", 0, f"-Darm_dot(a,b)={_SUM}"),
    "DOT_KHR": ("cl_khr_integer_dot_product", 3, f"-DBL_DOT_KHR(a,b)={_SUM}"),
    "short vectors": ("cl_khr_integer_dot_product", 1, "-DNOTHING=1"),
    "short vectors of others": ("cl_arm_integer_dot_product_int8x", 0, "-DNOTHING=1"),
}


@pytest.mark.parametrize("branch", DOTS)
def test_the_dot_product_is_what_the_device_lists(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: str
) -> None:
    extension, capabilities, option = DOTS[branch]
    functions = (
        opencl_shim.with_extension(extension, capabilities),
        opencl_shim.building_with(f"-DDOT_SHIM=1 {option}"),
    )
    monkeypatch.setenv("BITLOOM_OPENCL", str(opencl_shim.shim(tmp_path, *functions)))
    with DeviceModel(device / "net.json") as model:
        assert model.device.endswith(f"{branch}=1" if branch.startswith("DOT") else "short vectors")
    found = bitloom.verify(device, [{"x": x} for x in SAMPLES[:1]], runner="opencl")
    assert found.difference is None, str(found.difference)


def test_compiled_kernels_are_kept_and_never_trusted(device: Path, own_cache: Path) -> None:
    expected = bitloom.load(device)(SAMPLES[0])
    [file] = own_cache.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "cut off": whole[:-100],
        "cut in its head": whole[:20],
        "one bit": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
        "of another driver": whole.replace(b"-cl-std=CL1.2", b"-cl-std=CL1.1", 1),
        "foreign": b"\x7fELF" + bytes(5000),
    }
    for what, content in damaged.items():
        file.write_bytes(content)
        np.testing.assert_array_equal(bitloom.load(device)(SAMPLES[0]), expected, err_msg=what)
        assert file.read_bytes()[:8] == whole[:8], what
        assert len(file.read_bytes()) > middle, what


def test_a_folder_that_cannot_be_written_costs_time_only(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("/proc/nowhere", str(tmp_path / "a" / "b" / "c"), str(device / "net.json")):
        monkeypatch.setenv("BITLOOM_OPENCL_CACHE", place)
        with bitloom.load(device) as model:
            assert np.isfinite(model(SAMPLES[0])).all()


def test_two_processes_create_at_once(device: Path, own_cache: Path) -> None:
    shutil.rmtree(own_cache)
    load = f"import bitloom, numpy as np; m = bitloom.load({str(device)!r})"
    code = f"{load}; print(m(np.ones((1, 5, 9, 9), 'f4')).sum())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ))
        for _ in range(2)
    ]
    outputs = {process.communicate(timeout=300)[0] for process in started}
    assert len(outputs) == 1 and all(process.returncode == 0 for process in started)
    assert len(list(own_cache.iterdir())) == 1  # and nothing half-made


def test_a_second_create_is_quick(device: Path, own_cache: Path) -> None:
    """A file instead of a compiler: half the time at the very least."""
    times: list[float] = []
    for fresh in (True, False, False):
        if fresh:
            shutil.rmtree(own_cache)
            os.environ["POCL_KERNEL_CACHE"] = "0"
        start = time.perf_counter()
        bitloom.load(device).close()
        times.append(time.perf_counter() - start)
    assert min(times[1:]) < times[0] / 2


@pytest.mark.parametrize("system", ["glibc", "android"])
def test_libraries_for_arm_link_against_the_system_alone(tmp_path: Path, system: str) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not installed")
    target = "mali/g76" if system == "glibc" else "mali/g710@android"
    artifact = bitloom.compile(
        network(tmp_path), calibration=list(SAMPLES), target=target, output=tmp_path / "out", name="net"
    )
    dynamic = subprocess.run(
        ["readelf", "-dW", str(artifact.path / "libnet.so")], check=True, capture_output=True, text=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line}
    allowed = (
        {"libc.so", "libdl.so"} if system == "android" else {"libc.so.6", "libpthread.so.0", "libdl.so.2"}
    )
    assert needed and needed <= {*allowed, "ld-linux-aarch64.so.1"}
