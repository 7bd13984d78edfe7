"""Real models that nobody here has made: they compile, are exact layer by layer, and lie tight in memory."""

import os
from pathlib import Path

import numpy as np
import pytest

import bitloom
from benchmarks.accuracy import compare, float_outputs, load_labelled
from benchmarks.cases import ZOO_VARIABLE, load_from_zoo
from compiler.passes.prune_channels import PruneChannels

pytestmark = pytest.mark.skipif(
    ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models"
)
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
CALIBRATION = 8  # exactness does not depend on the ranges
ARENA_SLACK = 1.10


def check(name: str, inputs: int, folder: Path) -> None:
    case = load_from_zoo(name)
    artifact = bitloom.compile(case.model, calibration=case.calibration[:CALIBRATION], output=folder / "out")
    chosen = [{case.input_name: x} for x in case.evaluation[:inputs]]
    found = bitloom.verify(artifact.path, chosen)
    assert found.difference is None, str(found.difference)
    assert found.samples == len(chosen)
    assert found.layers >= artifact.manifest["summary"]["kernels"] > 1
    summary = artifact.manifest["summary"]
    assert summary["arena_bytes"] <= ARENA_SLACK * summary["arena_lower_bound"]
    notes = [n for n in artifact.manifest["notes"] if n["pass"] != PruneChannels.name]
    assert not notes, "every operator of these models has an integer form"


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_exact_and_the_arena_tight(name: str, tmp_path: Path) -> None:
    check(name, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_exact_on_ten_inputs(name: str, tmp_path: Path) -> None:
    check(name, 10, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "mbv2_100_224_deq", "ic_resnet8", "kws_dscnn", "mnist_cntk"]
)
def test_plain_minmax_loses_at_most_a_point(name: str, tmp_path: Path) -> None:
    """On all evaluation inputs."""
    case = load_labelled(name)
    artifact = bitloom.compile(case.model, calibration=list(case.calibration), output=tmp_path / "out")
    with bitloom.load(artifact.path) as model:
        found = compare(
            case,
            float_outputs(case, case.evaluation),
            lambda x: [np.asarray(y) for y in model.run(None, {case.input_name: x})],
        )
    assert found.inputs == len(case.evaluation)
    assert found.drop is not None and found.drop <= 1.0
