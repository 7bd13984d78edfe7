"""Contenders in processes of their own, and the limit on what they find in CPUID."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import Case
from benchmarks.cases import CaseError, load_case
from benchmarks.contenders import Contender, contenders
from benchmarks.cpuid import INSTRUCTION_SETS, InstructionSet, build_limit, why_unlimited
from benchmarks.engines import RefusedError
from benchmarks.engines.serve import Job, parse_job
from benchmarks.host_latency import Measurement, fastest
from benchmarks.peers import LITERT, NCNN, OPENVINO, Peer
from schedules.machines import host_features, host_without, machine_named

ROOT = Path(__file__).parent.parent
LETTERS = ROOT / "examples" / "letters" / "letters.onnx"

_READ = """
import ctypes, json, sys, threading
from benchmarks.engines.serve import parse_job
limit = parse_job(sys.argv[1]).limit
library = ctypes.CDLL(limit.library)
def read(leaf, subleaf):
    found = (ctypes.c_uint32 * 4)()
    library.read_cpuid(leaf, subleaf, found)
    return list(found)
leaves = [rule[:2] for rule in limit.rules] + [(0, 0), (1, 0)]
before = [read(*leaf) for leaf in leaves]
limit.apply(library)
after = [read(*leaf) for leaf in leaves]
found = []
thread = threading.Thread(target=lambda: found.extend(read(*leaf) for leaf in leaves))
thread.start()
thread.join()
print(json.dumps([before, after, found]))
"""


_NCNN = """
import json, sys
from pathlib import Path
import numpy as np
from benchmarks.case import Case
from benchmarks.engines import RefusedError, ncnn
folder = Path(sys.argv[1])
case = Case.load(folder)
engine = ncnn.Engine(sys.argv[2])
prepared = engine.prepare(case, folder)
floats = ncnn.Engine("cpu").open(prepared.with_name("model.ncnn.param"), case, 1)()
try:
    codes = engine.open(prepared, case, 1)()
    print(json.dumps({"codes": codes.ravel().tolist(), "floats": floats.ravel().tolist()}))
except RefusedError as refusal:
    print(json.dumps({"refused": str(refusal)}))
"""


def _limited_job(instruction_set: InstructionSet, folder: Path) -> str:
    reason = why_unlimited()
    if reason:
        pytest.skip(reason)
    return Job("", {}, "", "", None, 1, build_limit(instruction_set, folder)).as_json()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda each: each.name)
def test_limited_process_and_its_threads_find_none_of_the_hidden_bits(
    instruction_set: InstructionSet, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _READ, _limited_job(instruction_set, tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    before, after, in_thread = json.loads(done.stdout)
    hidden = {}
    for each in instruction_set.hidden:
        leaf, subleaf, *masks = each.as_words()
        merged = hidden.setdefault((leaf, subleaf), [0] * 4)
        hidden[leaf, subleaf] = [a | b for a, b in zip(merged, masks, strict=True)]
    leaves = [tuple(each.as_words()[:2]) for each in instruction_set.hidden] + [(0, 0), (1, 0)]
    for leaf, old, new, other in zip(leaves, before, after, in_thread, strict=True):
        masks = hidden.get(leaf, [0] * 4)
        expected = [word & ~mask for word, mask in zip(old, masks, strict=True)]
        if leaf == (1, 0):  # EBX holds the processor that runs, ECX the system's use of XSAVE
            old, new, other, expected = ([row[0], row[3]] for row in (old, new, other, expected))
        assert new == other == expected


def test_limit_reaches_onnxruntime(tmp_path: Path) -> None:
    """Its AVX2 kernels add two products in 16 bits and saturate; those of VNNI do not."""
    if "avx512_vnni" not in host_features() and "avx_vnni" not in host_features():
        pytest.skip("this processor has no VNNI, so that onnxruntime is limited already")
    job = _limited_job(INSTRUCTION_SETS[0], tmp_path)
    script = """
import ctypes, sys
from benchmarks.engines.serve import parse_job
limit = parse_job(sys.argv[1]).limit
if sys.argv[2] == "limited":
    limit.apply(ctypes.CDLL(limit.library))
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper
names = {"az": np.uint8(0), "b": np.full((64, 64), 127, np.int8), "bz": np.int8(0)}
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"])], "g",
    [helper.make_tensor_value_info("a", TensorProto.UINT8, [8, 64])],
    [helper.make_tensor_value_info("y", TensorProto.INT32, [8, 64])],
    [numpy_helper.from_array(np.asarray(value), name) for name, value in names.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
print(session.run(None, {"a": np.full((8, 64), 255, np.uint8)})[0].max())
"""
    sums = [
        int(
            subprocess.run(
                [sys.executable, "-c", script, job, how],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for how in ("limited", "free")
    ]
    assert sums == [32 * 32767, 64 * 255 * 127]


def test_a_fault_that_is_no_cpuid_still_kills(tmp_path: Path) -> None:
    job = _limited_job(INSTRUCTION_SETS[0], tmp_path)
    script = """
import ctypes, sys
from benchmarks.engines.serve import parse_job
limit = parse_job(sys.argv[1]).limit
limit.apply(ctypes.CDLL(limit.library))
ctypes.string_at(16)
"""
    done = subprocess.run([sys.executable, "-c", script, job], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -11


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda each: each.name)
def test_our_target_has_what_the_set_has_and_no_more(instruction_set: InstructionSet) -> None:
    if instruction_set.needs not in host_features():
        pytest.skip(f"this processor has no {instruction_set.needs}")
    machine = host_without(instruction_set.without)
    assert instruction_set.needs in machine.required_features
    assert not any(each.startswith(instruction_set.without) for each in machine.required_features)
    assert machine_named(machine.name) is machine


def test_an_instruction_set_that_is_absent_is_refused(tmp_path: Path) -> None:
    absent = InstructionSet(name="avx9", needs="avx9", without=(), onednn="AVX2", hidden=())
    with pytest.raises(CaseError, match=r"^--isa avx9: this processor has no avx9"):
        contenders(absent, tmp_path)


def test_a_job_survives_its_way_to_the_process(tmp_path: Path) -> None:
    job = Job("onnxruntime", {"precision": "int8"}, "a", "b", None, 2, None)
    assert parse_job(job.as_json()) == job


def test_a_case_survives_its_way_to_the_process(tmp_path: Path) -> None:
    inputs = tuple(np.random.default_rng(i).standard_normal((1, 3), np.float32) for i in range(2))
    case = Case("m", tmp_path / "m.onnx", "x", inputs, tmp_path / "m.tflite")
    case.save(tmp_path)
    found = Case.load(tmp_path)
    assert (found.name, found.model, found.input_name, found.tflite) == (
        case.name,
        case.model,
        case.input_name,
        case.tflite,
    )
    np.testing.assert_array_equal(found.calibration, case.calibration)


def test_a_contender_that_dies_says_why(tmp_path: Path) -> None:
    case = load_case(str(LETTERS), tmp_path)
    with pytest.raises(CaseError, match=r"^letters: nobody: .*No module named 'benchmarks\.engines\.nobody'"):
        Contender("nobody", "nobody").prepare(case, tmp_path)


@pytest.mark.parametrize("peer", [OPENVINO, LITERT], ids=lambda peer: peer.name)
def test_a_peer_that_is_not_installed_is_left_out_with_the_remedy(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(peer.variable, str(tmp_path / "absent"))
    _, absent = contenders(None, tmp_path)
    (reason,) = [each.reason for each in absent if peer.name in each.label.lower()]
    assert f"python -m benchmarks.peers install {peer.name}" in reason


def test_the_named_python_is_a_peers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPENVINO.variable, sys.executable)
    assert OPENVINO.python == Path(sys.executable)


def test_litert_refuses_a_model_of_which_there_is_no_tflite_file(tmp_path: Path) -> None:
    if LITERT.python is None:
        pytest.skip(f"LiteRT is not installed; {LITERT.remedy}")
    case = load_case(str(LETTERS), tmp_path)
    with pytest.raises(RefusedError, match=r"no int8 \.tflite file of letters"):
        Contender("LiteRT int8", "litert", python=LITERT.python).prepare(case, tmp_path)


def test_openvino_serves_slots(tmp_path: Path) -> None:
    if OPENVINO.python is None:
        pytest.skip(f"OpenVINO is not installed; {OPENVINO.remedy}")
    case = load_case(str(LETTERS), tmp_path)
    contender = Contender("OpenVINO int8", "openvino", python=OPENVINO.python)
    prepared = contender.prepare(case, tmp_path)
    with contender.open(case, tmp_path, prepared, 1) as served:
        assert served.slot(0) > 0
        used = served.processor_seconds
        assert served.slot(0) > 0
        assert served.processor_seconds > used


def test_fastest_is_by_median() -> None:
    rows = [Measurement("m", 1, 0.0, str(i), ms) for i, ms in enumerate([(1, 9, 9), (5, 5, 5), (6, 6, 1)])]
    assert fastest(rows).contender == "1"


@pytest.mark.parametrize("device", ["cpu", "vulkan"])
def test_ncnn_computes_the_model_in_codes(device: str, tmp_path: Path) -> None:
    """Near what floats give, and not the same."""
    if NCNN.python is None:
        pytest.skip(f"ncnn is not installed; {NCNN.remedy}")
    load_case(str(LETTERS), tmp_path).save(tmp_path)
    done = subprocess.run(
        [NCNN.python, "-c", _NCNN, str(tmp_path), device],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    if "refused" in answer:
        pytest.skip(answer["refused"])
    found, expected = (np.array(answer[key]) for key in ("codes", "floats"))
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert (found != expected).any()
