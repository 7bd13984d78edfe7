"""`bitloom inspect` of a network for the NPU: its account agrees with the files and with the machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import bitloom
from bitloom.npu_account import NpuAccount, npu_account
from sim.compression import deflate
from targets.streams.model import HostCall, read_model
from tests.command_line import bitloom as command
from tests.onnx_models import make_model, node, save


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense layer of small codes, whose weights compress, and what the host does."""
    folder = tmp_path_factory.mktemp("network")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 48)).astype(np.float32)
    weights[0] = 100.0  # the rest are codes near zero
    graph = make_model([node("MatMul", "x w", "y", name="fc")], {"x": [1, 64]}, ["y"], {"w": weights})
    samples = rng.uniform(-1, 1, (4, 64)).astype(np.float32)
    bitloom.compile(
        save(graph, folder), calibration=list(samples[:, None]), target="npu/npu-256", output=folder / "out"
    )
    return folder


@pytest.fixture(scope="module")
def account(network: Path) -> NpuAccount:
    return npu_account(network / "out")


def test_instructions_sum_to_the_commands(network: Path, account: NpuAccount) -> None:
    assert sum(s.bytes for s in account.streams) == (network / "out" / "m.commands.bin").stat().st_size
    halts = len(account.streams)
    assert sum(x.instructions for x in account.layers) + halts == sum(s.instructions for s in account.streams)


def test_weights_are_counted_raw_and_compressed(network: Path, account: NpuAccount) -> None:
    (dense,) = [x for x in account.layers if x.operator == "dense"]
    graph = read_model(network / "out").graph
    (codes,) = [v.constant for v in graph.values() if v.constant is not None and v.type.shape == (48, 64)]
    assert dense.weights_raw == codes.size
    assert dense.weights_fetched < 0.8 * dense.weights_raw
    # Blocks of the array are packed one by one: near what the whole would take.
    assert dense.weights_fetched == pytest.approx(deflate(codes.reshape(-1).view(np.uint8)).size, rel=0.1)


def test_layers_are_the_steps_with_their_reasons(network: Path, account: NpuAccount) -> None:
    calls = [s for s in read_model(network / "out").steps if isinstance(s, HostCall)]
    assert [x.reason for x in account.layers if x.program is None] == [c.reason for c in calls]


def test_every_tensor_lies_inside_of_its_memory(network: Path, account: NpuAccount) -> None:
    sizes = {m.memory: m for m in account.memories}
    assert {p.memory for p in account.placed} >= {"sram", "host"}
    for p in account.placed:
        assert 0 <= p.begin < p.end <= sizes[p.memory].tensors
    dram = sizes["dram"]
    assert dram.tensors + dram.constants == (network / "out" / "m.constants.bin").stat().st_size
    assert account.sram_bound <= account.sram_plan
    assert account.sram_plan - 64 < sizes["sram"].tensors <= account.sram_plan


def test_the_command_prints_it(network: Path, account: NpuAccount) -> None:
    shown = command("inspect", "out", cwd=network)
    assert shown.code == 0, shown.stderr
    manifest = json.loads((network / "out" / "m.json").read_text())
    for said in (manifest["digest"][:16], "input x: f32[1,64]", "host: ", "NPU 0", "m.commands.bin"):
        assert said in shown.stdout
    assert not shown.heavy & {"tvm", "onnx", "onnxruntime"}
    record = json.loads(command("inspect", "out", "--json", cwd=network).stdout)
    assert record == json.loads(json.dumps(account.as_dict()))


def test_a_damaged_folder_is_told(network: Path, tmp_path: Path) -> None:
    for file in (network / "out").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "m.commands.bin").write_bytes(b"")
    outcome = command("inspect", ".", cwd=tmp_path)
    assert outcome.code == 2 and "is damaged" in outcome.stderr and outcome.stdout == ""
