"""Integer clean-up: requantize fusion, and edges that undo each other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.edge import Dequantize, Quantize, Requantize
from compiler.passes.base import Notes, Pass
from compiler.passes.fold_batch_norm import take_over
from compiler.passes.fuse_activation import clamped, has_clamp
from compiler.passes.layout import bypass


@dataclass(frozen=True, slots=True)
class FuseRequantize(Pass):
    """An operator that requantizes its accumulator, followed by a requantize alone, goes to the second
    type at once: one rounding fewer. Raw accumulators (to = None) get their requantize fused likewise."""

    name: ClassVar[str] = "fuse-requantize"

    def run(self, graph: Graph, notes: Notes) -> int:
        return sum(_fuse(graph, n) for n in list(graph.nodes) if isinstance(n.op, Requantize))


def _fuse(graph: Graph, node: Node) -> bool:
    requantize = cast(Requantize, node.op)
    x = node.inputs[0]
    if x.type.is_quantized and x.type.codes == requantize.to and requantize.clamp is None:
        return bypass(graph, node)
    producer = x.producer
    if producer is None or len(x.uses) != 1 or graph.is_output(x) or not _requantizes(producer.op):
        return False
    if x.type.element is ElementType.B1:  # a sign, once taken, stays
        return False
    op: Op = replace(cast(Any, producer.op), to=requantize.to)
    if requantize.to.element is ElementType.B1 and not producer.op.gives_bits():
        return False
    if requantize.clamp is not None:
        if not has_clamp(op):
            return False
        op = clamped(op, *requantize.clamp)
    graph.set_op(producer, op)
    producer.location = producer.location.fuse(node.location)
    take_over(graph, node, x)
    return True


def _requantizes(op: Op) -> bool:
    """Whether the operator brings its result to a type of choice (an attribute `to`)."""
    names = {f.name for f in fields(cast(Any, op))}
    return "to" in names and (getattr(op, "clamp", None) is None or has_clamp(op)) and not _is_edge(op)


def _is_edge(op: Op) -> bool:
    return isinstance(op, Quantize)


@dataclass(frozen=True, slots=True)
class CancelEdges(Pass):
    """dequantize followed by quantize of the same type is nothing; of another type, one requantize."""

    name: ClassVar[str] = "cancel-edges"

    def run(self, graph: Graph, notes: Notes) -> int:
        count = 0
        for node in list(graph.nodes):
            producer = node.inputs[0].producer if node.inputs else None
            if not isinstance(node.op, Quantize) or producer is None:
                continue
            if isinstance(producer.op, Dequantize):
                _cancel(graph, node, producer, node.op.to)
                count += 1
        return count


def _cancel(graph: Graph, node: Node, dequantize: Node, to: QuantizedType) -> None:
    codes = dequantize.inputs[0]
    if codes.type.codes == to:
        graph.replace_uses(node.output, codes)
        graph.erase(node)
    else:
        graph.set_op(node, Requantize(to), [codes])
