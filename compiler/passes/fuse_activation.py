"""Fuses clipping activations (ReLU, ReLU6, clip) into the clamp of the operator before them.

In integers the clamp is part of requantize and costs nothing, and calibrating the activation's result
instead of the operator's spends all codes on values that occur.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ops.activation import Clip
from compiler.passes.base import Notes, Pass
from compiler.passes.fold_batch_norm import take_over


@dataclass(frozen=True, slots=True)
class FuseActivation(Pass):
    name: ClassVar[str] = "fuse-activation"

    def run(self, graph: Graph, notes: Notes) -> int:
        return sum(_fuse(graph, node) for node in list(graph.nodes) if isinstance(node.op, Clip))


def _fuse(graph: Graph, node: Node) -> bool:
    x = node.inputs[0]
    producer = x.producer
    if producer is None or not has_clamp(producer.op) or len(x.uses) != 1 or graph.is_output(x):
        return False
    clip = cast(Clip, node.op)
    graph.set_op(producer, clamped(producer.op, clip.low, clip.high))
    producer.location = producer.location.fuse(node.location)
    take_over(graph, node, x)
    return True


def has_clamp(op: Op) -> bool:
    """Whether the operator's result may be clamped by an attribute of its own."""
    return any(f.name == "clamp" for f in fields(cast(Any, op)))


def clamped(op: Op, low: float, high: float) -> Op:
    """`op` with [low, high] applied behind the clamp that it has."""
    present = cast("tuple[float, float] | None", getattr(op, "clamp", None))
    if present is not None:
        bounded = [min(max(c, low), high) for c in present]
        low, high = bounded[0], bounded[1]
    return replace(cast(Any, op), clamp=(low, high))
