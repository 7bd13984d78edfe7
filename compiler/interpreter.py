"""The oracle: runs a graph with the operators' reference functions. What it computes is the definition
that every target must reproduce bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.literal import Constant
from compiler.numerics.element import Array, ElementType


def run(
    graph: Graph, inputs: Mapping[str, Array], observe: Callable[[Value, Array], None] | None = None
) -> dict[str, Array]:
    """Outputs by name. inputs: arrays by input name, in the inputs' element types and shapes.

    observe: called with every computed value and its array, in order, before it may be dropped.
    """
    live: dict[Value, Array] = {}
    for value in graph.inputs:
        live[value] = np.asarray(inputs[value.name], value.type.element.dtype).reshape(value.type.shape)
        if observe is not None:
            observe(value, live[value])
    remaining = {value: len(value.uses) + graph.is_output(value) for value in graph.values()}
    for node in graph.nodes:
        for value, array in zip(node.outputs, run_node(node, [live[v] for v in node.inputs]), strict=True):
            if observe is not None and not isinstance(node.op, Constant):
                observe(value, array)
            live[value] = array
        for value in node.inputs:
            remaining[value] -= 1
            if remaining[value] == 0:
                live.pop(value, None)
    return {value.name: live[value] for value in graph.outputs}


def run_node(node: Node, arrays: list[Array]) -> tuple[Array, ...]:
    """The node's outputs: `reference` where it computes on codes, `float_reference` where on floats."""
    types = [v.type for v in node.inputs]
    if all(v.type.element is ElementType.F32 for v in (*node.inputs, *node.outputs)):
        results = node.op.float_reference(types, arrays)
    else:
        results = node.op.reference(types, arrays)
    return tuple(
        np.asarray(a, v.type.element.dtype).reshape(v.type.shape)
        for v, a in zip(node.outputs, results, strict=True)
    )
