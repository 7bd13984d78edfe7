"""The layers of a float graph whose weights have a width to choose."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Node
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType, dequantize_array, quantize_array, symmetric_scales
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.quantize.quantize_graph import WeightWidths

WEIGHT = 1  # the weight's input index, output channels on its axis 0


@dataclass(frozen=True, slots=True)
class Layer:
    """The contractions that one ONNX node has become: `WeightWidths` cannot tell them apart by its name."""

    name: str
    nodes: tuple[Node, ...]


def contraction_layers(graph: Graph) -> list[Layer]:
    """Convolutions and dense layers by constant weights, in the order of the graph."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Conv2D | Dense) and node.inputs[WEIGHT].constant is not None:
            found.setdefault(node.location.names[0], []).append(node)
    return [Layer(name, tuple(nodes)) for name, nodes in found.items()]


def check_layer_names(graph: Graph, weights: WeightWidths) -> None:
    """Errors: BitloomError for an exception in `weights` that belongs to no node with constant weights."""
    known = {
        name
        for node in graph.nodes
        if any(v.constant is not None for v in node.inputs)
        for name in node.location.names
    }
    unknown = sorted(weights.layers.keys() - known)
    if unknown:
        layers = [layer.name for layer in contraction_layers(graph)]
        close = [m for name in unknown for m in difflib.get_close_matches(name, layers, 3)]
        named = ", ".join(f'"{name}"' for name in unknown)
        raise BitloomError(
            f"no layer with weights is called {named}",
            f"close: {', '.join(close)}" if close else f"its layers: {', '.join(layers)}",
        )


def rounded_weights(weight: Array, element: ElementType) -> Array:
    """The real numbers that codes of `element` stand for: float32, output channels on axis 0."""
    to = QuantizedType(element, symmetric_scales(weight, 0, element))
    return dequantize_array(quantize_array(weight, to), to).astype(np.float32)
