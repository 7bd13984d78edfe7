"""`bitloom tune` on boards: emulated cores to the end, and every board that is not there or does not suit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schedules.tuning.measure import Outcome, Unit
from schedules.tuning.records import Record, databases, read
from tests.command_line import Outcome as Done
from tests.command_line import bitloom, model

LETTERS = Path(__file__).parents[1] / "examples" / "letters"
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="qemu-user is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a model and a cache; records lie beside the cache."""
    folder = tmp_path_factory.mktemp("boards")
    model(folder)
    yield folder


def run(folder: Path, *arguments: str | Path) -> Done:
    return bitloom(*arguments, cwd=folder, cache=folder / "cache")


def records_of(folder: Path) -> list[Record]:
    return [r for path in databases(folder / "cache-records") for r in read(path, pytest.fail)]


NOWHERE = "127.0.0.1:1"  # the same in every process that collects the tests
MISTAKES: list[tuple[list[str], list[str]]] = [
    (
        ["--board", "rpi4"],
        ['no device is called "rpi4" (and no tracker is given)', "qemu:CPU, ssh:USER@HOST"],
    ),
    (["--board", "qemu:max,ssh:a@b"], ['no device is called "qemu:max ssh:a@b"']),
    (["--board", "ssh:"], ['unknown runner "ssh:"']),
    (["--board", "ssh:nobody@127.0.0.1:1"], ["cannot reach ssh:nobody@127.0.0.1:1"]),
    (["--tracker", NOWHERE, "--key", "rpi4"], [f"cannot reach the tracker at {NOWHERE}", "rpc_tracker"]),
    (["--tracker", "here", "--key", "rpi4"], ['--tracker: "here" is not HOST:PORT']),
    (["--tracker", NOWHERE], ["--tracker and --key belong together", "bitloom board list"]),
    (["--key", "rpi4"], ["--tracker and --key belong together"]),
    (["--board", "qemu:max", "--tracker", NOWHERE, "--key", "k"], ["by --board, or by --tracker and --key"]),
    (["--board", "ssh:a@b", "--threads", "2"], ["--threads is for this computer"]),
    (["--pause", "1s"], ["--pause is for boards"]),
    (["--board", "ssh:a@b", "--patience", "long"], ['--patience wants a duration, not "long"']),
    (
        ["-t", "cpu/apple_m1", "--board", "ssh:a@b"],
        ['target "cpu/apple_m1" is for macOS, and boards run Linux'],
    ),
]
EMULATED: list[tuple[list[str], list[str]]] = [
    (["-t", "arm/cortex-a76", "--board", "qemu:cortex-a99"], ['emulates no "cortex-a99"', "cortex-a53"]),
    (["-t", "cpu/avx2", "--board", "qemu:cortex-a76"], ["qemu:cortex-a76 runs Arm libraries", "x86_64"]),
    (["-t", "arm/cortex-a76", "--board", "qemu:max", "--pause", "1s"], ["--pause does not cool qemu:max"]),
]


@pytest.mark.parametrize(("options", "words"), [*MISTAKES, *EMULATED], ids=lambda o: " ".join(o[-2:]))
def test_mistakes_are_told_in_one_message_and_at_once(
    folder: Path, options: list[str], words: list[str]
) -> None:
    if (options, words) in EMULATED and not shutil.which("qemu-aarch64"):
        pytest.skip("qemu-user is not installed")
    done = run(folder, "tune", "m.onnx", *options)
    assert done.code == 2
    assert done.stderr.startswith("error: ")
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not done.heavy & {"tvm", "xgboost", "onnx", "onnxruntime"}


@needs_qemu
def test_a_core_that_lacks_instructions_is_refused_with_targets_that_suit(folder: Path) -> None:
    done = run(folder, "tune", "m.onnx", "-q", "-t", "arm/neoverse-n2", "--board", "qemu:cortex-a76")
    assert done.code == 2
    words = 'board qemu:cortex-a76 does not suit the target "arm/neoverse-n2": its CPU lacks i8mm'
    assert words in done.stderr
    [hint] = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
    named = hint.removeprefix("hint: --target may be ").split(", ")
    assert {"arm/cortex-a53", "arm/cortex-a76", "arm/generic-v8.2"} <= set(named)
    assert not {"arm/neoverse-n2", "arm/cortex-x2", "arm/cortex-a7", "cpu/avx2"} & set(named)
    assert not records_of(folder)


@needs_qemu
def test_a_model_is_tuned_on_an_emulated_core_and_compiled_by_its_records(tmp_path: Path) -> None:
    target = ["-t", "arm/cortex-a76@musl"]
    arguments = [LETTERS / "letters.onnx", *target, "--board", "qemu:cortex-a76", "--trials", "24", "--json"]
    done = run(tmp_path, "tune", *arguments, "-q")
    assert done.code == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["device"], result["unit"], result["model"]) == ("qemu:cortex-a76", "instructions", [])
    assert "qemu:cortex-a76 counts instructions" in result["not_compared"]
    records = records_of(tmp_path)
    measured = [r for r in records if r.verdict is None]
    assert len(measured) == 24
    assert {(r.unit, r.machine, r.spread) for r in measured if r.outcome is Outcome.MEASURED} == {
        (Unit.INSTRUCTIONS, "cortex_a76", 0.0)
    }
    # Instructions are exact: the fewest win, without another measurement.
    verdicts = {r.subject: r for r in records if r.verdict is not None}
    assert len(verdicts) == len(result["kernels"])
    for subject, verdict in verdicts.items():
        costs = [r.cost for r in measured if r.subject == subject and r.cost is not None]
        assert verdict.cost == min(costs)
        assert verdict.verdict == min(costs) / costs[0]
    _compiled_by_records(tmp_path, target, "qemu:cortex-a76")


def _compiled_by_records(folder: Path, target: list[str], device: str) -> None:
    source = [LETTERS / "letters.onnx", "-c", LETTERS / "calibration.npz"]
    done = run(folder, "compile", *source, *target, "-q", "--json")
    assert done.code == 0, done.stderr
    tuning = json.loads(done.stdout)["tuning"]
    assert tuning["tuned"] == tuning["kernels"] and tuning["devices"] == [device]
    assert tuning["kernels"] > 0
    verified = run(folder, "verify", "out", "--runner", "qemu:cortex-a76", "--samples", "1")
    assert verified.code == 0, verified.stderr
    assert "exact: " in verified.stdout
