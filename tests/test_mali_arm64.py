"""Libraries for Mali's arm64 systems, in programs without Python, on an emulated core and its PoCL: exact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bitloom
from benchmarks.cases import ZOO_VARIABLE
from tests import arm64_pocl, arm64_userland
from tests.test_mali_library import SAMPLES, network
from tests.test_mali_zoo import NETWORKS, check

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(arm64_userland.missing_tools()), reason="apt, dpkg or qemu-user is missing"),
]
RUNNER = "qemu:cortex-a76"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BITLOOM_ARM64_POCL names a folder to keep it in."""
    kept = os.environ.get("BITLOOM_ARM64_POCL")
    folder = Path(kept).absolute() if kept else tmp_path_factory.mktemp("arm64")
    arm64_pocl.set_up(folder)
    return folder


@pytest.fixture(autouse=True)
def emulated(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled yet."""
    own = {"BITLOOM_OPENCL_CACHE": str(tmp_path / "ours"), "POCL_CACHE_DIR": str(tmp_path / "pocl")}
    for name, value in {**arm64_pocl.environment(system), **own}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BITLOOM_OPENCL", raising=False)  # this computer's


def test_every_layer_is_exact_and_kernels_are_kept(tmp_path: Path) -> None:
    target = "mali/g76"
    library = bitloom.compile(
        network(tmp_path), calibration=list(SAMPLES), target=target, output=tmp_path / "out", name="net"
    ).path
    found = bitloom.verify(library, [{"x": x} for x in SAMPLES[:2]], runner=RUNNER)
    assert found.difference is None, str(found.difference)
    assert found.layers > 8
    assert len(list((tmp_path / "ours").iterdir())) == 1


@pytest.mark.skipif(ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models")
@pytest.mark.parametrize("name", ["kws_dscnn", *NETWORKS])
def test_real_models_are_exact(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, RUNNER, "mali/g76", samples=1)
