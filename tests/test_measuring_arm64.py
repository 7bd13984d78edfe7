"""An emulated arm64 system runs the agent, with its own Python and TVM, and kernels are measured on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.arm_machines import CORTEX_A76
from schedules.convolution import candidate_configs, plan_convolution
from schedules.tuning.measure import Outcome
from targets.measuring.program import Limits, Timing
from targets.measuring.rpc import RpcBoards
from tests import arm64_userland
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


def test_an_emulated_board_serves_and_measures(userland: Path, tmp_path: Path) -> None:
    farm = Farm()
    farm.start_tracker()
    python, packages = arm64_userland.python_command(userland), str(arm64_userland.packages_of(userland))
    # This computer cannot start arm64 programs by itself.
    launcher = ["--launcher", "qemu-aarch64 -cpu max"]
    farm.start_copy("arm64", tmp_path, python=python, path=packages, options=launcher)
    try:
        farm.wait_for(1)
        limits = Limits(seconds=20.0)
        timing = Timing(repeats=3, slice_seconds=0.005)
        device = RpcBoards(farm.address, "arm64", limits=limits, timing=timing, workers=1)
        configs = list(candidate_configs(FORM, CORTEX_A76))[:4]
        plans = [plan_convolution(FORM, CORTEX_A76, config) for config in configs]
        faults = [faulty(CORTEX_A76, "crashes"), faulty(CORTEX_A76, "differs")]
        found = dict(device.measure([*plans, *faults]))
        device.close()
    finally:
        farm.stop()
    outcomes = [found[i].outcome for i in range(6)]
    assert outcomes == [Outcome.MEASURED] * 4 + [Outcome.CRASHED, Outcome.WRONG]
    assert all(0 < found[i].cost < 1 for i in range(4))
