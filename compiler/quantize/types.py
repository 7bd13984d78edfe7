"""Which quantization each activation gets: calibrated ranges, joined where operators only move codes."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.graph import Graph, Value
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType, from_range
from compiler.quantize.observers.base import Range

# Operators that only move codes (concat, max pool) want one quantization for inputs and output. An input
# whose own range is much smaller keeps its own, finer scale and is requantized in front of the operator:
# at this ratio it would lose two of its eight bits.
JOIN_RATIO = 4.0


class _Groups:
    """Disjoint sets of values that share a quantization."""

    def __init__(self) -> None:
        self.parent: dict[Value, Value] = {}

    def find(self, value: Value) -> Value:
        root = value
        while self.parent.get(root, root) is not root:
            root = self.parent[root]
        self.parent[value] = root
        return root

    def join(self, a: Value, b: Value) -> None:
        self.parent[self.find(a)] = self.find(b)


def activation_types(
    graph: Graph, ranges: Mapping[Value, Range], element: ElementType
) -> dict[Value, QuantizedType]:
    """The quantized type of every computed value of a float graph.

    ranges: the calibrated range of every computed value and input.
    """
    groups = _joined(graph, ranges)
    members: dict[Value, list[Value]] = {}
    for value in graph.values():
        if value.constant is None:
            members.setdefault(groups.find(value), []).append(value)
    types: dict[Value, QuantizedType] = {}
    for group in members.values():
        shared = _type_of(group, ranges, element)
        types.update(dict.fromkeys(group, shared))
    return types


def _joined(graph: Graph, ranges: Mapping[Value, Range]) -> _Groups:
    groups = _Groups()
    for node in graph.nodes:
        if not node.op.keeps_quantization:
            continue
        computed = [v for v in node.inputs if v.constant is None]
        for output in node.outputs:
            for value in computed:
                close = ranges[value].width * JOIN_RATIO >= ranges[output].width
                if len(computed) == 1 or close:
                    groups.join(value, output)
    return groups


def _type_of(group: list[Value], ranges: Mapping[Value, Range], element: ElementType) -> QuantizedType:
    fixed = [
        v.producer.op.fixed_output(element)
        for v in group
        if v.producer is not None and not v.producer.op.keeps_quantization
    ]
    if fixed and fixed[0] is not None and all(f == fixed[0] for f in fixed):
        return fixed[0]
    union = ranges[group[0]]
    for value in group[1:]:
        union = union.union(ranges[value])
    return QuantizedType(element, from_range(union.low, union.high, element))
