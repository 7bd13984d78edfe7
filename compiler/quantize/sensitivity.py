"""How much the model's outputs suffer when the weights of one layer alone get narrow.

Where an output is a softmax, its logits are watched: a confident softmax hides nearly everything on the few
samples that there is time for, and shows it on the many that the model will meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compiler.interpreter import run_node
from compiler.ir.graph import Graph, Node, Value
from compiler.numerics.element import Array, ElementType
from compiler.ops.softmax import Softmax
from compiler.quantize.calibrate import Sample
from compiler.quantize.layers import WEIGHT, Layer, rounded_weights

# Error of the outputs by layer name and element type of its weights.
Sensitivity = Mapping[str, Mapping[ElementType, float]]
SAMPLES = 4


def measure_sensitivity(
    graph: Graph,
    samples: Sequence[Sample],
    candidates: Mapping[Layer, Sequence[ElementType]],
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Sensitivity:
    """For each layer and each of its candidates, the normalised mean squared error of the float graph's
    outputs (`watched_values`) with only this layer's weights rounded: |y' - y|² / |y|² over all samples,
    averaged over outputs.

    Everything else is float32, so the figures tell weights apart, and nothing else. Only what depends on the
    layer is computed again. progress: called with how many pairs of sample and layer are done, and of all.
    """
    watched = watched_values(graph)
    noise = {(layer.name, e): np.zeros(len(watched)) for layer, es in candidates.items() for e in es}
    signal = np.zeros(len(watched))
    later = {layer: _dependents(graph, layer) for layer in candidates}
    for index, sample in enumerate(samples):
        exact = _all_values(graph, sample)
        signal += [np.sum(np.square(exact[v], dtype=np.float64)) for v in watched]
        for position, (layer, elements) in enumerate(candidates.items()):
            progress(index * len(candidates) + position, len(samples) * len(candidates))
            for element in elements:
                changed = _rounded_run(later[layer], exact, layer, element)
                noise[layer.name, element] += [
                    np.sum(np.square(changed.get(v, exact[v]) - exact[v], dtype=np.float64)) for v in watched
                ]
    floor = np.finfo(np.float64).tiny
    return {
        layer.name: {e: float(np.mean(noise[layer.name, e] / np.maximum(signal, floor))) for e in elements}
        for layer, elements in candidates.items()
    }


def watched_values(graph: Graph) -> list[Value]:
    """The outputs, each traced back through views to the logits of its softmax, where there is one."""
    return [_logits(v) or v for v in graph.outputs]


def _logits(value: Value) -> Value | None:
    while value.producer is not None and value.producer.op.is_view:
        value = value.producer.inputs[0]
    if value.producer is None or not isinstance(value.producer.op, Softmax):
        return None
    return value.producer.inputs[0]


def spread_samples(samples: Sequence[Sample], count: int = SAMPLES) -> list[Sample]:
    """`count` samples, evenly spaced over all."""
    return [samples[i * len(samples) // count] for i in range(count)] if count < len(samples) else [*samples]


def _all_values(graph: Graph, sample: Sample) -> dict[Value, Array]:
    arrays: dict[Value, Array] = {}
    for value in graph.inputs:
        arrays[value] = np.asarray(sample[value.name], np.float32).reshape(value.type.shape)
    for node in graph.nodes:
        arrays.update(zip(node.outputs, run_node(node, [arrays[v] for v in node.inputs]), strict=True))
    return arrays


def _dependents(graph: Graph, layer: Layer) -> list[Node]:
    """The layer's nodes and all that compute with their results, in order."""
    changed: set[Value] = set()
    found: list[Node] = []
    for node in graph.nodes:
        if node in layer.nodes or any(v in changed for v in node.inputs):
            changed.update(node.outputs)
            found.append(node)
    return found


def _rounded_run(
    nodes: Sequence[Node], exact: Mapping[Value, Array], layer: Layer, element: ElementType
) -> dict[Value, Array]:
    """What `nodes` compute with the layer's weights rounded to `element`."""
    arrays: dict[Value, Array] = {}
    for node in nodes:
        inputs = [arrays.get(v, exact[v]) for v in node.inputs]
        if node in layer.nodes:
            inputs[WEIGHT] = rounded_weights(inputs[WEIGHT], element)
        arrays.update(zip(node.outputs, run_node(node, inputs), strict=True))
    return arrays
