"""Real models on an OpenCL device: exact layer by layer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bitloom
from benchmarks.cases import ZOO_VARIABLE, load_from_zoo
from bitloom.library_files import LoadError

pytestmark = pytest.mark.skipif(
    ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models"
)
CALIBRATION = 8  # exactness does not depend on the ranges


def check(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITLOOM_OPENCL_CACHE", str(folder))
    case = load_from_zoo(name)
    artifact = bitloom.compile(
        case.model,
        calibration=case.calibration[:CALIBRATION],
        target="mali/generic@host",
        output=folder / "out",
        name=name,
    )
    edges = len(artifact.manifest["inputs"]) + len(artifact.manifest["outputs"])
    assert len(artifact.manifest["on_cpu"]) == edges, "floats are quantized and made again, no more"
    try:
        found = bitloom.verify(
            artifact.path, [{case.input_name: x} for x in case.evaluation[:2]], runner="opencl"
        )
    except LoadError as error:
        pytest.skip(str(error))
    assert found.difference is None, str(found.difference)
    assert found.layers >= artifact.manifest["summary"]["kernels"] > 1


def test_keyword_spotting_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check("kws_dscnn", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        "mbv1_025_224",
        "mbv2_100_224_deq",
        "ic_resnet8",
        "vww_mbv1_025",
        "mnist_cntk",
        "ultraface_rfb320",
    ],
)
def test_every_layer_is_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, tmp_path, monkeypatch)
