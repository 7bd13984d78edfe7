"""The benchmarks measure what they say: laws of the arithmetic and of the turns, never a time."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import bitloom
from benchmarks.cases import ZOO_VARIABLE, CaseError, load_case
from benchmarks.engines.serve import time_slot
from benchmarks.host_latency import Measurement, measure, ratio, spread
from benchmarks.networks import IMAGE_SHAPE, resnet50
from bitloom.layer_times import layer_times

ROOT = Path(__file__).parent.parent
LETTERS = ROOT / "examples" / "letters" / "letters.onnx"


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
)
def test_ratio_does_not_see_a_machine_that_drifts(peer_ms: list[float], factor: float) -> None:
    peer = Measurement("m", 1, 0.0, "peer", tuple(peer_ms))
    subject = Measurement("m", 1, 0.0, "subject", tuple(factor * ms for ms in peer_ms))
    found = ratio(subject, peer)
    assert (found.median, found.p10, found.p90) == (factor, factor, factor)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_spread_is_ordered_and_inside_the_samples(samples: list[float]) -> None:
    found = spread(samples)
    assert min(samples) <= found.p10 <= found.median <= found.p90 <= max(samples)


def test_contenders_take_turns_in_alternating_order() -> None:
    calls: list[str] = []

    def slot(name: str) -> Callable[[float], float]:
        return lambda seconds: calls.append(name) or seconds

    assert measure([slot("a"), slot("b")], rounds=3, seconds=0.5) == [(0.5,) * 3] * 2
    assert calls == ["a", "b", "b", "a", "a", "b"]


def test_a_slot_lasts_as_long_as_asked_and_takes_the_median() -> None:
    runs: list[float] = []
    start = time.perf_counter()
    assert time_slot(lambda: runs.append(time.perf_counter()), 0.05) >= 0
    assert time.perf_counter() - start >= 0.05
    assert len(runs) > 3


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("resnet") / "resnet50.onnx"
    resnet50(path, seed=1)
    yield path
    path.unlink()


def test_resnet50_has_the_size_of_resnet50(resnet: Path) -> None:
    """25,557,032 learned parameters and 4,089,184,256 multiplications: torchvision's resnet50."""
    model = onnx.shape_inference.infer_shapes(onnx.load(resnet))
    weights = {each.name: each for each in model.graph.initializer}
    learned = [each for name, each in weights.items() if not name.endswith((".mean", ".variance"))]
    assert sum(int(np.prod(each.dims)) for each in learned) == 25_557_032
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in [*model.graph.value_info, *model.graph.output]
    }
    macs = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            macs += int(np.prod(shapes[node.output[0]])) * int(np.prod(weights[node.input[1]].dims[1:]))
        elif node.op_type == "Gemm":
            macs += int(np.prod(weights[node.input[1]].dims))
    assert macs == 4_089_184_256


def test_resnet50_keeps_its_activations_sane(resnet: Path) -> None:
    model = onnx.load(resnet)
    names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).standard_normal(IMAGE_SHAPE, np.float32)
    for name, values in zip(names, session.run(names, {"image": image}), strict=True):
        assert 0.1 < float(np.std(np.asarray(values))) < 10, name


def test_unknown_name_says_where_names_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ZOO_VARIABLE, raising=False)
    with pytest.raises(CaseError, match=r"^resnet5: .*BITLOOM_ZOO"):
        load_case("resnet5", tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"absent\.onnx: no such file"):
        load_case(str(tmp_path / "absent.onnx"), tmp_path)


def test_dynamic_shape_is_refused_with_the_input(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    path = tmp_path / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(CaseError, match=r"static shape, has x tensor\(float\) \['batch', 3\]"):
        load_case(str(path), tmp_path)


def test_peers_run_from_the_command_line() -> None:
    command = [sys.executable, "-m", "benchmarks.host_latency", str(LETTERS), "--peers-only", "--json"]
    command += ["--threads", "1", "--rounds", "2", "--slot-seconds", "0"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout)["measurements"]
    assert [row["contender"] for row in rows[:2]] == ["onnxruntime int8", "onnxruntime fp32"]
    assert all(len(row["slots_ms"]) == 2 and min(row["slots_ms"]) > 0 for row in rows)


@pytest.mark.slow
def test_opencl_libraries_are_timed_beside_those_of_the_cpu() -> None:
    pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install 'bitloom[mali]'")
    command = [sys.executable, "-m", "benchmarks.mali", str(LETTERS), "--rounds", "2", "--slot-seconds", "0"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    first, opencl, cpu, *peers = done.stdout.splitlines()
    assert re.fullmatch(r"letters: create \d+\.\d\d s, from the file .* ms, at best .* ms \(.*%\)", first)
    assert "bitloom OpenCL" in opencl and "bitloom CPU" in cpu
    assert all(re.search(r"bitloom OpenCL / this \d+\.\d\d \(.* \.\. .*\)$", row) for row in [cpu, *peers])


def test_profile_accounts_for_every_step_and_every_product(tmp_path: Path) -> None:
    case = load_case(str(LETTERS), tmp_path)
    artifact = bitloom.compile(case.model, calibration=list(case.calibration), output=tmp_path / "out")
    with bitloom.load(artifact.path, threads=1) as model:
        found = layer_times(model, {case.input_name: case.timed_input}, repeat=2)
    assert [row.step for row in found] == list(range(len(model.steps)))
    assert sum(row.share for row in found) == pytest.approx(1)
    assert sum(row.macs for row in found) == artifact.manifest["summary"]["macs"]
