"""From an ONNX file to command streams in a folder, and what the commands make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bitloom
from sim.config import PRESETS
from sim.isa import Load, Memory
from targets.streams.model import StreamCall, read_model
from tests.command_line import X, model
from tests.command_line import bitloom as command
from tests.onnx_models import make_model, node, save


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution, a pooling, a dense layer and a softmax; the edges are the host's, for npu-256."""
    folder = tmp_path_factory.mktemp("network")
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "a", name="conv", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("MaxPool", "b", "c", name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "c", "d"),
        node("Gemm", "d v", "e", name="fc"),
        node("Softmax", "e", "y", name="probabilities", axis=1),
    ]
    constants = {
        "w": rng.normal(size=(20, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(20 * 4 * 4, 7)).astype(np.float32),
    }
    path = save(make_model(nodes, {"x": [1, 3, 8, 8]}, ["y"], constants), folder)
    samples = rng.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "c.npz", x=samples)
    np.savez(folder / "x.npz", x=samples[:1])
    bitloom.compile(path, calibration=folder / "c.npz", target="npu/npu-256", output=folder / "out")
    return folder


def test_every_layer_is_exact_read_back_from_its_files(network: Path) -> None:
    result = bitloom.verify(network / "out", samples=4)
    assert result.is_exact, str(result.difference)
    assert result.layers > 5


def test_a_wrong_weight_is_found_and_its_layer_named(network: Path, tmp_path: Path) -> None:
    shutil.copytree(network / "out", tmp_path / "out")
    constants = tmp_path / "out" / "m.constants.bin"
    data = bytearray(constants.read_bytes())
    data[_last_parameters(tmp_path / "out") + 2] ^= 64  # a bias moves by 2**22
    constants.write_bytes(bytes(data))
    outcome = command("verify", "out", cwd=tmp_path)
    assert outcome.code == 1, outcome
    assert "DIFFERENT" in outcome.stdout and 'layer "fc"' in outcome.stdout


def _last_parameters(folder: Path) -> int:
    """Where the parameters of the last layer begin in the constants."""
    programs = [s.program for s in read_model(folder).steps if isinstance(s, StreamCall)]
    loads = [i for i in programs[-1].streams[0].decode() if isinstance(i, Load)]
    return [i.external for i in loads if i.memory is Memory.PARAMETER][-1]


def test_damaged_weights_are_told_with_the_instruction(network: Path, tmp_path: Path) -> None:
    shutil.copytree(network / "out", tmp_path / "out")
    constants = tmp_path / "out" / "m.constants.bin"
    constants.write_bytes(b"\xff" * constants.stat().st_size)
    for arguments in (("verify", "out"), ("simulate", "out")):
        outcome = command(*arguments, cwd=tmp_path)
        assert outcome.code == 2, outcome
        assert "core 0, instruction" in outcome.stderr and "Traceback" not in outcome.stderr


def test_layers_sum_to_the_total(network: Path) -> None:
    result = bitloom.simulate(network / "out")
    assert result.outputs is None
    assert sum(layer.cycles for layer in result.layers) == result.cycles > 0
    assert [x.operator for x in result.layers if x.limit == "host"].count("dequantize") == 1
    assert all((x.reason is None) == (x.limit != "host") for x in result.layers)


def test_simulate_computes_what_the_interpreter_says(network: Path) -> None:
    outcome = command(
        "simulate", "out", "--input", "x.npz", "--output", "y.npz", "--trace", "t.json", cwd=network
    )
    assert outcome.code == 0, outcome.stderr
    assert "cycles" in outcome.stdout and "host: " in outcome.stdout
    x = np.load(network / "x.npz")["x"]
    result = bitloom.simulate(network / "out", {"x": x})
    assert result.outputs is not None
    np.testing.assert_array_equal(np.load(network / "y.npz")["y"], result.outputs["y"])
    events = json.loads((network / "t.json").read_text())["traceEvents"]
    assert {"conv + Relu_1", "pool", "fc"} & {e["name"].split(" + Relu")[0] for e in events}
    assert max(e["ts"] + e.get("dur", 0) for e in events if "ts" in e) <= result.cycles


def test_json_is_the_same_for_the_same_network(network: Path) -> None:
    found = [command("simulate", "out", "--timing-only", "--json", cwd=network) for _ in range(2)]
    assert found[0].stdout == found[1].stdout
    record = json.loads(found[0].stdout)
    assert record["npu"] == "npu-256" and record["outputs"] is None
    assert not found[0].heavy & {"tvm", "onnx", "onnxruntime"}


def test_an_npu_of_ones_own(tmp_path: Path) -> None:
    text = (
        (PRESETS / "npu-128.toml")
        .read_text()
        .replace('"npu-128"', '"mine"')
        .replace("cores = 1", "cores = 2")
    )
    (tmp_path / "mine.toml").write_text(text)
    model(tmp_path)
    np.savez(tmp_path / "c.npz", x=X)
    done = command("compile", "m.onnx", "-c", "c.npz", "--npu", "mine.toml", "-q", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert len(read_model(tmp_path / "out").config.name) == 4
    assert bitloom.verify(tmp_path / "out").is_exact


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compile", "m.onnx", "-c", "c.npz", "--npu", "npu-1"), "no NPU 'npu-1': presets are npu-128"),
        (("compile", "m.onnx", "-c", "c.npz", "--npu", "bad.toml"), "unknown key color"),
        (
            ("compile", "m.onnx", "-c", "c.npz", "--npu", "npu-128", "--target", "cpu/avx2"),
            "--target cpu/avx2 and --npu npu-128 name two targets",
        ),
        (("simulate", "."), "holds no network for the NPU"),
        (("simulate", "nowhere"), "nowhere holds no network for the NPU"),
        (("simulate", "net", "--timing-only", "--input", "c.npz"), "--input needs results"),
        (("simulate", "net", "--input", "c.npz"), "c.npz holds 4 samples"),
        (("simulate", "short"), "short is damaged: the commands end at byte 160"),
        (("simulate", "wrong"), "core 0, instruction"),
        (("simulate", "torn", "--timing-only"), "core 0, instruction 1 (0xffff"),
        (("verify", "wrong"), "core 0, instruction"),
        (("run", "net", "--input", "c.npz"), "net holds a network for the NPU, no library"),
    ],
)
def test_mistakes(network: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    model(tmp_path)
    shutil.copy(network / "c.npz", tmp_path / "c.npz")
    text = (PRESETS / "npu-128.toml").read_text()
    (tmp_path / "bad.toml").write_text(f'color = "red"\n{text}')
    for name in ("net", "short", "wrong", "torn"):
        shutil.copytree(network / "out", tmp_path / name)
    commands = (network / "out" / "m.commands.bin").read_bytes()
    (tmp_path / "short" / "m.commands.bin").write_bytes(commands[:160])
    (tmp_path / "torn" / "m.commands.bin").write_bytes(commands[:16] + b"\xff" * 16 + commands[32:])
    # Without the tokens of the first gemm: no hazard is left to chance.
    (tmp_path / "wrong" / "m.commands.bin").write_bytes(_without_tokens(commands))
    outcome = command(*arguments, cwd=tmp_path)
    assert outcome.code == 2, outcome
    assert said in outcome.stderr
    assert outcome.stdout == "" and "Traceback" not in outcome.stderr


def _without_tokens(commands: bytes) -> bytes:
    words = np.frombuffer(commands, "<u8").reshape(-1, 2).copy()
    words[:, 0] |= np.uint64(((1 << 20) - 1) << 8)  # waits and posts: none
    return words.tobytes()
