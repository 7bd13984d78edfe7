"""Every model of the zoo, layer by layer, on emulated Arm cores."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import bitloom
from benchmarks.cases import ZOO_VARIABLE, load_case

MODELS = (
    "squeezenet1_1",
    "mbv1_025_224",
    "mbv2_100_224_deq",
    "ic_resnet8",
    "kws_dscnn",
    "vww_mbv1_025",
    "mnist_cntk",
    "ultraface_rfb320",
)
CORES = {
    "arm/cortex-a53": "cortex-a53",
    "arm/cortex-a76": "cortex-a76",
    "arm/neoverse-n2": "max",
    "arm/cortex-a7": "cortex-a7",
}
CALIBRATION = 4  # exactness does not depend on how good the ranges are


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
@pytest.mark.skipif(ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models")
@pytest.mark.parametrize("target", CORES)
@pytest.mark.parametrize("name", MODELS)
def test_a_zoo_model_is_exact_on_an_emulated_core(name: str, target: str, tmp_path: Path) -> None:
    case = load_case(name, tmp_path)
    calibration = [{case.input_name: x} for x in case.calibration[:CALIBRATION]]
    out = tmp_path / "out"
    bitloom.compile(case.model, calibration=calibration, target=target, output=out)
    inputs = [{case.input_name: case.timed_input}]
    result = bitloom.verify(out, inputs, runner=f"qemu:{CORES[target]}")
    assert result.is_exact, result.difference
    assert result.layers > 5
