"""The C driver: compiled, run on the simulator behind a mapped file, and held against the interpreter."""

from __future__ import annotations

import gzip
import os
import platform
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bitloom
from benchmarks.cases import ZOO_VARIABLE, load_from_zoo
from compiler.driver import no_progress
from compiler.interpreter import run, run_node
from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph
from compiler.ir.printer import graph_text
from compiler.ir.types import TensorType, f32, quantized
from compiler.lowering.cache import Cache
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.edge import Dequantize, Quantize, Requantize
from compiler.ops.elementwise import Div
from compiler.ops.slicing import Concat
from schedules.bits import pack_bits, unpack_bits
from sim.config import NpuConfig, load_config
from sim.device import Device, DeviceError, Layout, Register, Status
from targets.library.toolchain import Toolchain
from targets.npu import NpuTarget
from targets.streams.model import HostCall, NpuModel, StreamCall, node_of, read_model
from targets.streams.running import time_model
from tests.command_line import ROOT, environment
from tests.onnx_models import make_model, node, save

# enum bl_npu_result
OK, BAD_MAGIC, BAD_VERSION, BAD_CONFIG, TOO_SMALL, BAD_CONTENTS = 0, 2, 3, 4, 5, 6
TIMEOUT, DEVICE_ERROR, NEEDS_HOST, HOST_FAILED = 7, 8, 9, 10
MANY = 500_000  # looks of 0.2 ms

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the test's program is linked for Linux")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the driver returned, its account (failed step, error, core, instruction, cycles), and outputs."""

    status: int
    account: tuple[int, ...]
    outputs: list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Driven:
    """A compiled network and the program around its driver."""

    folder: Path
    model: NpuModel
    program: Path

    @classmethod
    def of(cls, folder: Path) -> Driven:
        model = read_model(folder)
        name = model.name
        sizes = {
            side: ", ".join(f"{name}_{side}_{i}_bytes" for i in range(len(ports)))
            for side, ports in (("input", model.graph.inputs), ("output", model.graph.outputs))
        }
        flags = [f"-DBL_NAME={name}", f'-DBL_HEADER="{name}_driver.h"']
        flags += [f"-D{side.upper()}_BYTES={text}" for side, text in sizes.items()]
        program = folder.parent / f"{folder.name}-main"
        toolchain = Toolchain(f"{platform.machine()}-linux-musl")
        main = ROOT / "tests" / "npu_driver_main.c"
        toolchain.link_program(main, [folder / f"{name}_driver.c"], program, [folder], flags)
        return cls(folder, model, program)

    def run(
        self, device: Path, inputs: Mapping[str, NDArray[Any]], polls: int = MANY, mode: str = "plain"
    ) -> Outcome:
        graph, layout = self.model.graph, Layout.of(self.model.config)
        given, results = device.with_suffix(".in"), device.with_suffix(".out")
        given.write_bytes(b"".join(np.ascontiguousarray(inputs[v.name]).tobytes() for v in graph.inputs))
        files = [self.folder / f"{self.model.name}.{kind}.bin" for kind in ("commands", "constants")]
        places = [layout.commands, layout.sram, layout.dram]
        process = subprocess.Popen(
            [str(a) for a in (self.program, device, *places, *files, given, results, polls, mode)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stdin is not None and process.stderr is not None
        with process:
            while head := process.stdout.read(4):
                process.stdin.write(self._computed(struct.unpack("<I", head)[0], process.stdout))
                process.stdin.flush()
            said = process.stderr.read().decode()
        assert process.returncode != 99, "the test's program broke"
        data, outputs = results.read_bytes(), list[NDArray[Any]]()
        for value in graph.outputs:
            dtype = value.type.element.dtype
            count = int(np.prod(value.type.shape))
            outputs.append(np.frombuffer(data, dtype, count).reshape(value.type.shape))
            data = data[count * dtype.itemsize :]
        return Outcome(process.returncode, tuple(map(int, said.split())), outputs)

    def _computed(self, index: int, stream: Any) -> bytes:
        """A step of the host, by the operator's reference."""
        step = self.model.steps[index]
        assert isinstance(step, HostCall)
        n = node_of(self.model.graph, step.value)
        operands: list[NDArray[Any]] = []
        for value in n.inputs:
            operands.append(_read(value.type, stream))
            if value.constant is not None:
                np.testing.assert_array_equal(operands[-1], value.constant)
        results = zip(n.outputs, run_node(n, operands), strict=True)
        return b"".join(_stored(value.type, a).tobytes() for value, a in results)


def _read(type_: TensorType, stream: Any) -> NDArray[Any]:
    element = type_.element
    data = stream.read(element.stored_bytes(type_.shape))
    bits, shape = element is ElementType.B1, element.stored_shape(type_.shape)
    array = np.frombuffer(data, np.uint8 if bits else element.dtype).reshape(shape)
    return unpack_bits(array, type_.shape[-1]) if bits else array


def _stored(type_: TensorType, array: NDArray[Any]) -> NDArray[Any]:
    return pack_bits(array) if type_.element is ElementType.B1 else np.ascontiguousarray(array)


@contextmanager
def served(path: Path, npu: str) -> Iterator[Path]:
    """A device in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sim.device", str(path), "--npu", npu],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "ready\n"
        try:
            yield path
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Driven:
    """Layers for the NPU, with a float quotient of a constant between them for the host; two outputs."""
    folder = tmp_path_factory.mktemp("driven")
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "a", name="conv", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("MaxPool", "b", "c", name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Exp", "c", "g", name="exp"),
        node("Div", "one g", "h", name="quotient"),
        node("Flatten", "h", "d"),
        node("Div", "two d", "f", name="again"),
        node("Gemm", "f v", "e", name="fc"),
        node("Softmax", "e", "y", name="probabilities", axis=1),
    ]
    constants = {
        "w": rng.normal(size=(20, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(20 * 4 * 4, 7)).astype(np.float32),
        "one": rng.uniform(0.5, 1, (1, 20, 4, 4)).astype(np.float32),
        "two": rng.uniform(0.5, 1, (1, 320)).astype(np.float32),
    }
    path = save(make_model(nodes, {"x": [1, 3, 8, 8]}, ["y", "h"], constants), folder)
    samples = rng.uniform(-1, 1, (4, 1, 3, 8, 8)).astype(np.float32)
    bitloom.compile(path, calibration=list(samples), target="npu/npu-512", output=folder / "out")
    return Driven.of(folder / "out")


def sample(driven: Driven, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Beyond the calibrated range too, with the numbers that are no numbers."""
    x = np.random.default_rng(seed).normal(0, 2, (1, 3, 8, 8)).astype(np.float32)
    x[0, 0, 0, :3] = [np.inf, -np.inf, np.nan]
    return {driven.model.graph.inputs[0].name: x}


def test_the_driver_computes_the_interpreters_bits(driven: Driven, tmp_path: Path) -> None:
    with served(tmp_path / "device", "npu-512") as device:
        for seed in range(3):
            inputs = sample(driven, seed)
            expected = run(driven.model.graph, inputs)
            outcome = driven.run(device, inputs)
            assert outcome.status == OK, outcome
            for value, found in zip(driven.model.graph.outputs, outcome.outputs, strict=True):
                np.testing.assert_array_equal(found, expected[value.name])
            assert outcome.account[-1] == time_model(driven.model).cycles


@pytest.mark.skipif(ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models")
def test_a_keyword_network_from_the_zoo(tmp_path: Path) -> None:
    case = load_from_zoo("kws_dscnn")
    samples = [np.asarray(s, np.float32) for s in case.calibration[:4]]
    bitloom.compile(case.model, calibration=samples, target="npu/npu-256", output=tmp_path / "out")
    driven = Driven.of(tmp_path / "out")
    inputs = {case.input_name: np.asarray(case.evaluation[0], np.float32)}
    expected = run(driven.model.graph, inputs)
    with served(tmp_path / "device", "npu-256") as device:
        outcome = driven.run(device, inputs)
    assert outcome.status == OK, outcome
    for value, found in zip(driven.model.graph.outputs, outcome.outputs, strict=True):
        np.testing.assert_array_equal(found, expected[value.name])


def host_steps(driven: Driven) -> list[int]:
    """Those for the callback."""
    own = ("quantize", "dequantize")
    return [
        i
        for i, s in enumerate(driven.model.steps)
        if isinstance(s, HostCall)
        and s.target is None
        and node_of(driven.model.graph, s.value).op.mnemonic not in own
    ]


def test_copies_are_the_drivers_own(tmp_path: Path) -> None:
    """Floats, of which the NPU takes none: a quotient inside of a concatenation, and a copy beside it."""
    graph = Graph("m")
    a, b = (graph.add_input(name, f32(2, 4, 3)) for name in ("a", "b"))
    (q,) = graph.append(Div(), [a, b], Location(("quotient",)), ["q"])
    (z,) = graph.append(Concat(1), [q, b], Location(("both",)), ["z"])
    c = graph.add_input("c", f32(2, 8, 3))
    (w,) = graph.append(Div(), [z, c], Location(("last",)), ["w"])
    graph.outputs.append(w)
    config = load_config("npu-256")
    build = NpuTarget("npu/npu-256", config).build(graph, no_progress)
    text = {"m.ir.gz": gzip.compress(graph_text(graph).encode())}
    build.emit("m", tmp_path / "out", text, build.facts, Cache(None), no_progress)
    driven = Driven.of(tmp_path / "out")
    calls = [s for s in driven.model.steps if isinstance(s, HostCall)]
    assert [s.target is not None for s in calls] == [False, True, False]
    assert driven.model.locations["q"].strides == (24, 3, 1)
    rng = np.random.default_rng(0)
    inputs = {v.name: rng.normal(size=v.type.shape).astype(np.float32) for v in (a, b, c)}
    outcome = driven.run(idle(tmp_path / "device", config), inputs)
    assert outcome.status == OK
    np.testing.assert_array_equal(outcome.outputs[0], run(graph, inputs)["w"])


def test_the_callback_gets_and_gives_packed_bits(tmp_path: Path) -> None:
    """Signs that the host makes of floats and the NPU widens, and signs of the NPU for the host."""
    graph, shape = Graph("m"), (2, 3, 12)
    signs, codes = (
        QuantizedType(e, Quantization((0.5,), z)) for e, z in ((ElementType.B1, 0), (ElementType.I8, 3))
    )
    a, b = graph.add_input("a", f32(*shape)), graph.add_input("b", quantized(shape, codes))
    (s,) = graph.append(Quantize(signs), [a], Location(("signs",)), ["s"])
    graph.outputs += graph.append(Requantize(codes), [s], Location(("widened",)), ["y"])
    (t,) = graph.append(Requantize(signs), [b], Location(("cut",)), ["t"])
    graph.outputs += graph.append(Dequantize(), [t], Location(("real",)), ["z"])
    build = NpuTarget("npu/npu-256", load_config("npu-256")).build(graph, no_progress)
    text = {"m.ir.gz": gzip.compress(graph_text(graph).encode())}
    build.emit("m", tmp_path / "out", text, build.facts, Cache(None), no_progress)
    driven = Driven.of(tmp_path / "out")
    assert 'quantize "s"' in (tmp_path / "out" / "m_driver.h").read_text()
    rng = np.random.default_rng(0)
    inputs = {
        "a": rng.normal(size=shape).astype(np.float32),
        "b": rng.integers(-128, 128, shape).astype(np.int8),
    }
    expected = run(graph, inputs)
    with served(tmp_path / "device", "npu-256") as device:
        outcome = driven.run(device, inputs)
    assert outcome.status == OK, outcome
    for value, found in zip(graph.outputs, outcome.outputs, strict=True):
        np.testing.assert_array_equal(found, expected[value.name])


def test_the_network_has_every_kind_of_step(driven: Driven) -> None:
    calls = [s for s in driven.model.steps if isinstance(s, HostCall)]
    computed = [node_of(driven.model.graph, driven.model.steps[i].value) for i in host_steps(driven)]
    assert any(v.constant is not None for n in computed for v in n.inputs)
    assert {"quantize", "dequantize"} <= {node_of(driven.model.graph, s.value).op.mnemonic for s in calls}
    programs = [s.program for s in driven.model.steps if isinstance(s, StreamCall)]
    assert {len(p.streams) for p in programs} == {1, 2}  # of two cores, one may stay idle


def test_steps_of_the_host_are_refused_or_reported(driven: Driven, tmp_path: Path) -> None:
    steps = host_steps(driven)
    with served(tmp_path / "device", "npu-512") as device:
        for mode, status in (("no-host", NEEDS_HOST), ("host-fails", HOST_FAILED)):
            outcome = driven.run(device, sample(driven), mode=mode)
            assert (outcome.status, outcome.account[0]) == (status, steps[0])


@pytest.mark.parametrize(
    ("mode", "error"), [("no-tokens", DeviceError.REFUSED), ("no-halt", DeviceError.OUTSIDE)]
)
def test_errors_of_the_device_come_back(
    driven: Driven, tmp_path: Path, mode: str, error: DeviceError
) -> None:
    with served(tmp_path / "device", "npu-512") as device:
        outcome = driven.run(device, sample(driven), mode=mode)
    assert (outcome.status, outcome.account[1]) == (DEVICE_ERROR, error)
    assert outcome.account[2] < driven.model.config.cores
    if error is DeviceError.REFUSED:
        assert outcome.account[3] > 0


def idle(path: Path, config: NpuConfig, **registers: int) -> Path:
    """A device that nobody serves, with some registers changed."""
    Device(path, config)
    data = np.memmap(path, "<u4", "r+", shape=(64,))
    for name, value in registers.items():
        data[Register[name] // 4] = value
    data.flush()
    return path


@pytest.mark.parametrize(
    ("registers", "status"),
    [
        ({"MAGIC": 0}, BAD_MAGIC),
        ({"VERSION": 2}, BAD_VERSION),
        ({"CORES": 1}, BAD_CONFIG),
        ({"CONFIG": 1}, BAD_CONFIG),
        ({"COMMAND_BYTES": 16}, TOO_SMALL),
        ({"SRAM_BYTES": 16}, TOO_SMALL),
        ({"DRAM_BYTES": 16}, TOO_SMALL),
    ],
)
def test_another_device_is_refused(
    driven: Driven, tmp_path: Path, registers: dict[str, int], status: int
) -> None:
    device = idle(tmp_path / "device", driven.model.config, **registers)
    assert driven.run(device, sample(driven), polls=3).status == status


def test_the_configuration_is_compared(driven: Driven, tmp_path: Path) -> None:
    device = idle(tmp_path / "device", load_config("npu-128"))
    with device.open("r+b") as stream:
        stream.truncate(Layout.of(driven.model.config).end)
    assert driven.run(device, sample(driven), polls=3).status == BAD_CONFIG


def test_a_device_that_does_not_answer(driven: Driven, tmp_path: Path) -> None:
    device = idle(tmp_path / "device", driven.model.config)
    outcome = driven.run(device, sample(driven), polls=20)
    first = next(i for i, s in enumerate(driven.model.steps) if not isinstance(s, HostCall))
    assert (outcome.status, outcome.account[0]) == (TIMEOUT, first)


def test_a_run_that_was_given_up_does_not_spoil_the_next(driven: Driven, tmp_path: Path) -> None:
    """The device wakes up late, runs what was asked, and then what is asked now."""
    path = tmp_path / "device"
    device = Device(path, driven.model.config)
    for _ in range(2):
        assert driven.run(path, sample(driven), polls=20).status == TIMEOUT
    stop = threading.Event()
    thread = threading.Thread(target=device.serve, args=(stop.is_set,))
    thread.start()
    try:
        outcome = driven.run(path, sample(driven, 1))
    finally:
        stop.set()
        thread.join()
    assert outcome.status == OK
    expected = run(driven.model.graph, sample(driven, 1))
    for value, found in zip(driven.model.graph.outputs, outcome.outputs, strict=True):
        np.testing.assert_array_equal(found, expected[value.name])


def test_other_contents_are_refused(driven: Driven, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for file in driven.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    constants = folder / f"{driven.model.name}.constants.bin"
    data = bytearray(constants.read_bytes())
    data[-1] ^= 1
    constants.write_bytes(bytes(data))
    device = idle(tmp_path / "device", driven.model.config)
    assert Driven(folder, driven.model, driven.program).run(device, sample(driven)).status == BAD_CONTENTS


def test_the_register_map_is_that_of_the_header() -> None:
    text = (ROOT / "targets" / "runtime" / "bitloom_npu.h").read_text()
    for register in Register:
        assert f"bl_npu_reg_{register.name.lower()} = 0x{register:02x}" in text
    assert f"bl_npu_failed = {Status.FAILED}" in text
