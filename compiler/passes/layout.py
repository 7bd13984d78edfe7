"""Moves transposes down the graph until they meet and cancel: the layout pass.

Importers wrap each spatial operator in transposes from and to channels first. Every operator that
commutes with a permutation of its axes (`Op.permuted`) lets its transposes pass from inputs to output;
two that meet compose to one; one that permutes nothing vanishes; one that only moves axes of extent 1
is a reshape, which costs nothing. Sinking always terminates: each step moves a transpose one node down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node, Value
from compiler.ops.shape import Reshape, Transpose
from compiler.passes.base import Notes, Pass

Permutation = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SinkTransposes(Pass):
    name: ClassVar[str] = "sink-transposes"

    def run(self, graph: Graph, notes: Notes) -> int:
        count = 0
        changed = True
        while changed:
            changed = False
            for node in list(graph.nodes):
                if node in graph.nodes and (_simplify(graph, node) or _sink(graph, node)):
                    count += 1
                    changed = True
        return count


def inverse(permutation: Permutation) -> Permutation:
    """The permutation that undoes this one."""
    return tuple(permutation.index(d) for d in range(len(permutation)))


def _simplify(graph: Graph, node: Node) -> bool:
    """Composes, drops, or turns into reshapes."""
    if not isinstance(node.op, Transpose):
        return _merge_reshapes(graph, node)
    permutation, x = node.op.permutation, node.inputs[0]
    if permutation == tuple(range(len(permutation))) and bypass(graph, node):
        return True
    before = x.producer
    if before is not None and isinstance(before.op, Transpose):
        composed = tuple(before.op.permutation[p] for p in permutation)
        graph.set_op(node, Transpose(composed), [before.inputs[0]])
        return True
    moved = [d for d in permutation if x.type.shape[d] != 1]
    if moved == sorted(moved):
        graph.set_op(node, Reshape(node.output.type.shape))
        return True
    return False


def _merge_reshapes(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Reshape):
        return False
    x = node.inputs[0]
    if x.type.shape == node.op.shape and bypass(graph, node):
        return True
    if x.producer is not None and isinstance(x.producer.op, Reshape):
        graph.set_op(node, node.op, [x.producer.inputs[0]])
        return True
    return False


def bypass(graph: Graph, node: Node) -> bool:
    """Replaces a node that changes nothing by its input; whether it could. A graph output keeps its name: the
    input takes it, unless the input has a name of its own to keep."""
    x, y = node.inputs[0], node.output
    keeps_name = graph.is_output(x) or any(v is x for v in graph.inputs) or not graph.is_output(y)
    if graph.is_output(y) and keeps_name:
        return False
    name = y.name
    graph.replace_uses(y, x)
    if x.source is None:
        x.source = y.source
    graph.erase(node)
    if not keeps_name:
        graph.rename(x, name)
    return True


def _sink(graph: Graph, node: Node) -> bool:
    """op(transpose(x)) -> transpose(op'(x)), where the operator commutes."""
    permutation = _common_permutation(node)
    if permutation is None or len(node.outputs) != 1:
        return False
    op = node.op.permuted(permutation)
    if op is None:
        return False
    inputs = [_before_transpose(graph, node, v, permutation) for v in node.inputs]
    output = node.output
    name, source = output.name, output.source
    graph.rename(output, f"{name}.permuted")
    (moved,) = graph.insert_before(node, op, inputs, node.location, [f"{name}.{op.mnemonic}"])
    (result,) = graph.insert_before(node, Transpose(permutation), [moved], node.location, [name])
    moved.source = result.source = source
    graph.replace_uses(output, result)
    graph.erase(node)
    return True


def _common_permutation(node: Node) -> Permutation | None:
    """The permutation of the transposes that feed a node, where all its computed inputs come from
    transposes alike and there is one at least."""
    found: Permutation | None = None
    for value in node.inputs:
        if value.constant is not None:
            continue
        producer = value.producer
        if producer is None or not isinstance(producer.op, Transpose):
            return None
        if found is not None and found != producer.op.permutation:
            return None
        found = producer.op.permutation
    if found is None or any(v.type.rank > len(found) for v in node.inputs):
        return None
    return found


def _before_transpose(graph: Graph, node: Node, value: Value, permutation: Permutation) -> Value:
    if value.constant is None:
        assert value.producer is not None
        return value.producer.inputs[0]
    array = value.constant
    if array.size == 1:
        return value
    array = array.reshape((1,) * (len(permutation) - array.ndim) + array.shape)
    array = np.ascontiguousarray(array.transpose(inverse(permutation)))
    return graph.constant(array, value.type.with_shape(array.shape), node.location, f"{value.name}.permuted")
