"""Real models on OpenCL devices: exact layer by layer, on each PoCL there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bitloom
from benchmarks.cases import ZOO_VARIABLE, load_from_zoo

pytestmark = pytest.mark.skipif(
    ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models"
)
CALIBRATION = 8  # exactness does not depend on the ranges
NETWORKS = (
    "squeezenet1_1",
    "mbv1_025_224",
    "mbv2_100_224_deq",
    "ic_resnet8",
    "vww_mbv1_025",
    "mnist_cntk",
    "ultraface_rfb320",
)


def check(name: str, folder: Path, runner: str, target: str = "mali/generic@host", samples: int = 2) -> None:
    """Compiles a model and compares all its layers."""
    case = load_from_zoo(name)
    artifact = bitloom.compile(
        case.model,
        calibration=case.calibration[:CALIBRATION],
        target=target,
        output=folder / "out",
        name=name,
    )
    edges = len(artifact.manifest["inputs"]) + len(artifact.manifest["outputs"])
    assert len(artifact.manifest["on_cpu"]) == edges, "floats are quantized and made again, no more"
    given = [{case.input_name: x} for x in case.evaluation[:samples]]
    found = bitloom.verify(artifact.path, given, runner=runner)
    assert found.difference is None, str(found.difference)
    assert found.layers >= artifact.manifest["summary"]["kernels"] > 1


@pytest.fixture(params=["pip", "debian"])
def pocl(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The runner of a PoCL: the one that comes with pyopencl, or the system's. Nothing is compiled yet."""
    cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install 'bitloom[mali]'")
    monkeypatch.setenv("BITLOOM_OPENCL_CACHE", str(tmp_path / "compiled"))
    for platform in cl.get_platforms():
        if "PoCL" in platform.version and ("debian" in platform.version) == (request.param == "debian"):
            return f"opencl:{platform.version}"
    remedy = {"pip": "pip install 'bitloom[mali]'", "debian": "apt-get install pocl-opencl-icd"}
    pytest.skip(f"there is no such PoCL: {remedy[request.param]}")


def test_keyword_spotting_is_exact(pocl: str, tmp_path: Path) -> None:
    check("kws_dscnn", tmp_path, pocl)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_exact(name: str, pocl: str, tmp_path: Path) -> None:
    check(name, tmp_path, pocl)
