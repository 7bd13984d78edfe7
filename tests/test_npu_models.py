"""Networks of whole kinds, from the ONNX file to the streams: exact, with the edges alone on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest

from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.ir.graph import Graph
from compiler.numerics.element import Array, ElementType
from compiler.quantize.calibration_run import read_calibration
from sim.config import load_config, preset_names
from targets.streams.lowering import lower_to_streams
from targets.streams.model import SRAM, HostCall, node_of
from tests.npu_networks import check_exact, check_roofline
from tests.onnx_models import make_model, node, save

RNG = np.random.default_rng(0)


def attention() -> onnx.ModelProto:
    """Two heads of 12 places over a sequence of 20, and what is added to it."""
    nodes = [
        *(node("MatMul", f"x w{n}", n) for n in "qkv"),
        *(node("Reshape", f"{n} split", f"{n}s") for n in "qkv"),
        node("Transpose", "qs", "qh", perm=[0, 2, 1, 3]),
        node("Transpose", "ks", "kh", perm=[0, 2, 3, 1]),
        node("Transpose", "vs", "vh", perm=[0, 2, 1, 3]),
        node("MatMul", "qh kh", "scores"),
        node("Softmax", "scores", "weights", axis=-1),
        node("MatMul", "weights vh", "mixed"),
        node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
        node("Reshape", "back whole", "joined"),
        node("MatMul", "joined wo", "out"),
        node("Add", "x out", "y"),
    ]
    constants: dict[str, Array] = {
        f"w{n}": (RNG.normal(size=(24, 24)) / 5).astype(np.float32) for n in "qkvo"
    }
    constants |= {"split": np.array([1, 20, 2, 12]), "whole": np.array([1, 20, 24])}
    return make_model(nodes, {"x": [1, 20, 24]}, ["y"], constants)


def upsampling() -> onnx.ModelProto:
    """Convolutions around a resize to twice the size."""
    nodes = [
        node("Conv", "x a", "f", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "f", "g"),
        onnx.helper.make_node("Resize", ["g", "", "scales"], ["h"], mode="linear"),
        node("Conv", "h b", "y", pads=[1, 1, 1, 1]),
    ]
    constants = {
        "a": (RNG.normal(size=(20, 3, 3, 3)) / 5).astype(np.float32),
        "b": (RNG.normal(size=(5, 20, 3, 3)) / 13).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    return make_model(nodes, {"x": [1, 3, 18, 14]}, ["y"], constants)


def signs() -> onnx.ModelProto:
    """Layers of -1 and +1 with 32, 37 and 64 channels."""
    nodes, constants, channels = list[onnx.NodeProto](), dict[str, Array](), 3
    value = "x"
    for name, outputs, stride in (("a", 32, 1), ("b", 37, 2), ("c", 64, 1), ("d", 10, 2)):
        constants[f"w{name}"] = RNG.choice([-1.0, 1.0], (outputs, channels, 3, 3)).astype(np.float32)
        constants[f"b{name}"] = RNG.normal(0, 3, outputs).astype(np.float32)
        nodes += [
            node("Sign", value, f"s{name}"),
            node("Conv", f"s{name} w{name} b{name}", name, pads=[1, 1, 1, 1], strides=[stride, stride]),
        ]
        value, channels = name, outputs
    return make_model(nodes, {"x": [1, 3, 12, 12]}, [value], constants)


NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], Sequence[str]]] = {
    "attention": (attention, ["matmul"] * 2),
    "upsampling": (upsampling, ["resize_bilinear"]),
    "signs": (signs, ["conv2d"] * 4),
}


@cache
def quantized(name: str) -> tuple[Graph, dict[str, Array]]:
    """The graph and an input."""
    with TemporaryDirectory() as folder:
        imported = import_float(save(NETWORKS[name][0](), Path(folder)))
    (x,) = imported.graph.inputs
    samples = [RNG.normal(size=x.type.shape).astype(np.float32) for _ in range(4)]
    graph = quantize_imported(imported, read_calibration(samples, imported.graph), QuantizeOptions()).graph
    return graph, {graph.inputs[0].name: samples[0]}


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", NETWORKS)
def test_the_host_has_the_edges_alone(name: str, preset: str) -> None:
    graph, inputs = quantized(name)
    model = check_exact(graph, load_config(preset), inputs)
    check_roofline(graph, model)
    left = [node_of(graph, s.value).op.mnemonic for s in model.steps if isinstance(s, HostCall)]
    assert left == ["quantize", "dequantize"]
    mnemonics = [n.op.mnemonic for n in graph.nodes]
    assert all(mnemonics.count(m) == list(NETWORKS[name][1]).count(m) for m in NETWORKS[name][1])


def test_signs_lie_packed() -> None:
    """Eight to a byte, each row of the last axis from a byte on, in the NPU's memory."""
    graph, _ = quantized("signs")
    program = lower_to_streams(graph, load_config("npu-256"))
    bits = [v for v in graph.values() if v.type.element is ElementType.B1 and v.constant is None]
    buffers = {v.type.shape[1:]: program.places[v].buffer for v in bits}
    sizes = {shape: buffer.size for shape, buffer in buffers.items()}
    assert sizes == {(3, 12, 12): 36 * 2, (12, 12, 32): 144 * 4, (6, 6, 37): 36 * 5, (6, 6, 64): 36 * 8}
    assert {program.memories[b][0] for b in buffers.values()} == {SRAM}
