"""An emulated arm64 system runs the agent, with its own Python and TVM, and kernels are measured on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.arm_machines import CORTEX_A76
from schedules.convolution import candidate_configs, plan_convolution
from schedules.tuning.measure import Outcome
from schedules.tuning.records import read
from targets.measuring.program import Limits, Timing
from targets.measuring.rpc import RpcBoards
from tests import arm64_userland
from tests.command_line import ROOT, bitloom
from tests.command_line import Outcome as Done
from tests.faulty_kernels import faulty
from tests.rpc_boards import Farm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(arm64_userland.missing_tools()), reason="apt, dpkg or qemu-user is missing"),
]
I8 = ElementType.I8
FORM = Convolution(1, 6, 6, 16, 6, 6, 16, 3, 3, I8, I8, I8, pad=(1, 1))


@pytest.fixture(scope="module")
def userland(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BITLOOM_ARM64_USERLAND names a folder to keep it in."""
    kept = os.environ.get("BITLOOM_ARM64_USERLAND")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("arm64")
    arm64_userland.set_up(folder)
    return folder


@pytest.fixture(scope="module")
def farm(userland: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """One board, of the key `arm64`."""
    made = Farm()
    made.start_tracker()
    python, packages = arm64_userland.python_command(userland), str(arm64_userland.packages_of(userland))
    # This computer cannot start arm64 programs by itself.
    launcher = ["--launcher", "qemu-aarch64 -cpu cortex-a76"]
    folder = tmp_path_factory.mktemp("board")
    made.start_copy("arm64", folder, python=python, path=packages, options=launcher)
    try:
        made.wait_for(1)
        yield made
    finally:
        made.stop()


def test_an_emulated_board_serves_and_measures(farm: Farm) -> None:
    limits = Limits(seconds=20.0)
    timing = Timing(repeats=3, slice_seconds=0.005)
    device = RpcBoards(farm.address, "arm64", limits=limits, timing=timing, workers=1)
    configs = list(candidate_configs(FORM, CORTEX_A76))[:4]
    plans = [plan_convolution(FORM, CORTEX_A76, config) for config in configs]
    faults = [faulty(CORTEX_A76, "crashes"), faulty(CORTEX_A76, "differs")]
    found = dict(device.measure([*plans, *faults]))
    device.close()
    outcomes = [found[i].outcome for i in range(6)]
    assert outcomes == [Outcome.MEASURED] * 4 + [Outcome.CRASHED, Outcome.WRONG]
    assert all(0 < found[i].cost < 1 for i in range(4))


def test_a_model_is_tuned_on_it_and_compiled_by_its_records(farm: Farm, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> Done:
        return bitloom(*arguments, cwd=tmp_path, cache=tmp_path / "cache")

    letters = ROOT / "examples" / "letters"
    boards = ["--tracker", str(farm.address), "--key", "arm64"]
    lacking = run("tune", letters / "letters.onnx", "-t", "arm/neoverse-n2", *boards, "-q")
    assert lacking.code == 2
    assert 'does not suit the target "arm/neoverse-n2": its CPU lacks i8mm' in lacking.stderr
    target = ["-t", "arm/cortex-a76@musl"]
    tuned = run("tune", letters / "letters.onnx", *target, *boards, "--trials", "24", "-q", "--json")
    assert tuned.code == 0, tuned.stderr
    result = json.loads(tuned.stdout)
    assert (result["device"], result["unit"]) == (f"emulated on {os.uname().machine}, aarch64", "seconds")
    records = read(Path(result["records"]), pytest.fail)
    measured = [r for r in records if r.verdict is None]
    assert [r.outcome for r in measured] == [Outcome.MEASURED] * 24
    assert {r.machine for r in measured} == {"cortex_a76"}
    source = [letters / "letters.onnx", "-c", letters / "calibration.npz"]
    compiled = run("compile", *source, *target, "-q", "--json")
    assert compiled.code == 0, compiled.stderr
    tuning = json.loads(compiled.stdout)["tuning"]
    assert tuning["tuned"] == tuning["kernels"] and tuning["devices"] == [result["device"]]
    verified = run("verify", "out", "--runner", "qemu:cortex-a76", "--samples", "1")
    assert verified.code == 0, verified.stderr
