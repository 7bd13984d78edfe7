"""Narrow weights and wide activations, from the model to the library: exact, and really smaller."""

from pathlib import Path

import numpy as np
import pytest

import bitloom
from bitloom.options import ACTIVATIONS, WEIGHTS
from bitloom.verification import read_graph
from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.ir.graph import Graph
from compiler.lowering.program import Program, lower_variants
from compiler.numerics.element import ElementType
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.quantize.calibration_run import read_calibration
from compiler.quantize.quantize_graph import WeightWidths, weight_bytes
from targets import target_named

LETTERS = Path(__file__).parent.parent / "examples" / "letters"
MIXED = {
    "stem.conv": "int8",
    "block2.depthwise.conv": "int2",
    "block3.depthwise.conv": "binary",
    "block4.pointwise.conv": "binary",
    "block5.pointwise.conv": "int2",
    "classify": "int8",
}


def element_types(graph: Graph) -> dict[str, ElementType]:
    """Of the weights of each contraction, by its first ONNX node."""
    contractions = [n for n in graph.nodes if isinstance(n.op, Conv2D | Dense)]
    return {n.location.names[0]: n.inputs[1].type.element for n in contractions}


def lowered(weights: WeightWidths, activations: ElementType = ElementType.I8) -> Program:
    imported = import_float(LETTERS / "letters.onnx")
    samples = read_calibration(LETTERS / "calibration.npz", imported.graph)[:4]
    options = QuantizeOptions(weights=weights, activations=activations)
    graph = quantize_imported(imported, samples, options).graph
    (program,) = lower_variants(graph, target_named("host").planners).values()
    return program


SLOW = pytest.mark.slow  # every pair builds some twenty kernels of its own


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ("int4", "int8"),
        ("int8", "int16"),
        pytest.param("int2", "int8", marks=SLOW),
        pytest.param("binary", "int8", marks=SLOW),
        pytest.param("int4", "int16", marks=SLOW),
        pytest.param("int2", "int16", marks=SLOW),
        pytest.param("binary", "int16", marks=SLOW),
    ],
)
def test_uniform_widths_are_exact_layer_by_layer(weights: str, activations: str, tmp_path: Path) -> None:
    artifact = bitloom.compile(
        LETTERS / "letters.onnx",
        calibration=LETTERS / "calibration.npz",
        weights=weights,
        activations=activations,
        output=tmp_path / "out",
    )
    found = bitloom.verify(artifact.path, samples=2)
    assert found.difference is None, str(found.difference)
    graph = read_graph(artifact.path)
    assert set(element_types(graph).values()) == {WEIGHTS[weights]}
    codes = {v.type.element for n in graph.activations() for v in n.outputs if v.type.is_quantized}
    assert codes == {ACTIVATIONS[activations]}


def test_mixed_widths_are_exact_layer_by_layer(tmp_path: Path) -> None:
    artifact = bitloom.compile(
        LETTERS / "letters.onnx",
        calibration=LETTERS / "calibration.npz",
        weights="int4",
        layer_weights=MIXED,
        output=tmp_path / "out",
    )
    found = bitloom.verify(artifact.path, samples=2)
    assert found.difference is None, str(found.difference)
    for layer, element in element_types(read_graph(artifact.path)).items():
        assert element is WEIGHTS[MIXED.get(layer, "int4")], layer
    bits = {r["names"][0]: r["weight_bits"] for r in artifact.manifest["layers"] if r["weight_bits"]}
    assert (bits["stem.conv"], bits["block1.pointwise.conv"], bits["block5.pointwise.conv"]) == (8, 4, 2)


def test_one_scale_for_each_layer_is_exact_layer_by_layer(tmp_path: Path) -> None:
    artifact = bitloom.compile(
        LETTERS / "letters.onnx",
        calibration=LETTERS / "calibration.npz",
        weight_scales="tensor",
        output=tmp_path / "out",
    )
    found = bitloom.verify(artifact.path, samples=2)
    assert found.difference is None, str(found.difference)
    contractions = [n for n in read_graph(artifact.path).nodes if isinstance(n.op, Conv2D | Dense)]
    for node in contractions:
        for value in node.inputs[1:]:
            q = value.type.codes.quantization
            assert q.axis is None and len(q.scales) == 1
        weight = node.inputs[1].constant
        assert weight is not None and np.abs(weight).max() == 127


@pytest.mark.parametrize("activations", [ElementType.I8, ElementType.I16])
def test_constants_shrink_with_the_weights(activations: ElementType) -> None:
    """The library's constants lose what packing the dense and pointwise weights saves, but for the padding
    of channels and steps; depthwise kernels keep their few weights in bytes."""
    wide = lowered(WeightWidths(ElementType.I8), activations)
    weights = sum(
        n.inputs[1].type.count
        for n in wide.graph.nodes
        if isinstance(n.op, Dense) or (isinstance(n.op, Conv2D) and n.op.groups == 1)
    )
    for element in (ElementType.I4, ElementType.I2, ElementType.B1):
        narrow = lowered(WeightWidths(element), activations)
        saved = wide.constants.size - narrow.constants.size
        ideal = weights * (8 - element.bits) / 8
        assert 0.9 * ideal <= saved <= 1.1 * ideal
        assert weight_bytes(narrow.graph) < weight_bytes(wide.graph) - ideal
