"""Every model of the zoo on every preset: exact, layer by layer, with nothing but the edges on the host."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pytest

from benchmarks.cases import ZOO_VARIABLE, load_from_zoo
from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.ir.graph import Graph
from compiler.numerics.element import Array
from compiler.quantize.calibration_run import read_calibration
from sim.config import load_config, preset_names
from targets.streams.model import HostCall, StreamCall, node_of
from tests.npu_networks import check_exact, check_roofline

pytestmark = pytest.mark.skipif(
    ZOO_VARIABLE not in os.environ, reason=f"{ZOO_VARIABLE} names no folder of models"
)
SMALL = ("ic_resnet8", "kws_dscnn", "mnist_cntk", "ad01_autoencoder")
LARGE = ("mbv1_025_224", "vww_mbv1_025", "squeezenet1_1", "ultraface_rfb320", "mbv2_100_224_deq")
CALIBRATION = 4  # exactness does not depend on how good the ranges are
EDGES = {"quantize", "dequantize"}
MOST_INSTRUCTIONS = 4000  # a layer, on average: tiles, not steps of the array


@cache
def quantized(name: str) -> tuple[Graph, dict[str, Array]]:
    """The graph and one input."""
    if name == "ad01_autoencoder":  # the zoo has no data for it
        from benchmarks.cases import load_case

        path = os.path.join(os.environ[ZOO_VARIABLE], "models", f"{name}.onnx")
        case = load_case(path, None)  # pyright: ignore[reportArgumentType]
        samples, given = list(case.calibration[:CALIBRATION]), case.timed_input
    else:
        case = load_from_zoo(name)
        samples, given = list(case.calibration[:CALIBRATION]), case.evaluation[0]
    imported = import_float(case.model)
    read = read_calibration(samples, imported.graph)
    graph = quantize_imported(imported, read, QuantizeOptions()).graph
    return graph, {case.input_name: np.asarray(given, np.float32)}


def check(name: str, preset: str) -> None:
    graph, inputs = quantized(name)
    model = check_exact(graph, load_config(preset), inputs)
    check_roofline(graph, model)
    left = {node_of(graph, s.value).op.mnemonic for s in model.steps if isinstance(s, HostCall)}
    assert left <= EDGES
    programs = [s for s in model.steps if isinstance(s, StreamCall)]
    layers = sum(len(s.layers) for s in programs)
    assert sum(len(s.program) for s in programs) <= MOST_INSTRUCTIONS * layers


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", SMALL)
def test_a_small_model_is_exact(name: str, preset: str) -> None:
    check(name, preset)


@pytest.mark.slow
@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", LARGE)
def test_a_large_model_is_exact(name: str, preset: str) -> None:
    check(name, preset)
