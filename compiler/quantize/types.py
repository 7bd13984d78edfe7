"""Which quantization each activation gets: calibrated ranges, joined where operators only move codes."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.op import QuantizedOperand
from compiler.ir.types import quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType, from_range
from compiler.ops.sign import Sign
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
    fixed = _fixed_types(graph, ranges, element)
    groups = _joined(graph, ranges, fixed)
    members: dict[Value, list[Value]] = {}
    for value in graph.values():
        if value.constant is None:
            members.setdefault(groups.find(value), []).append(value)
    types: dict[Value, QuantizedType] = {}
    for group in members.values():
        shared = fixed.get(group[0]) or _calibrated(group, ranges, element)
        types.update(dict.fromkeys(group, shared))
    return types


def _fixed_types(
    graph: Graph, ranges: Mapping[Value, Range], element: ElementType
) -> dict[Value, QuantizedType]:
    """Types that no calibration changes: an operator's `fixed_output`, and of what only moves codes of one
    such type (unless it adds constants that lie outside)."""
    fixed: dict[Value, QuantizedType] = {}
    for node in graph.nodes:
        computed = [v for v in node.inputs if v.constant is None]
        if node.op.keeps_quantization and computed:
            moved = {fixed.get(v) for v in computed}
            given = moved.pop() if len(moved) == 1 else None
            if given is not None and given.element is ElementType.B1 and not _takes_bits(node, given):
                given = QuantizedType(ElementType.I8, given.quantization)
            if given is not None and not all(_holds(given, ranges[v]) for v in node.outputs):
                given = None
        else:
            given = node.op.fixed_output(element)
        if given is not None:
            fixed.update((v, given) for v in node.outputs if v.constant is None)
    for value in [*graph.inputs, *(v for n in graph.nodes if n.op.gives_bits() for v in n.outputs)]:
        if signs := _only_signs(graph, value):
            fixed[value] = fixed[signs[0].output]
    return fixed


def _takes_bits(node: Node, given: QuantizedType) -> bool:
    operands = [QuantizedOperand(quantized(v.type.shape, given), v.constant) for v in node.inputs]
    return node.op.takes_bits(operands, ElementType.I8)


def _only_signs(graph: Graph, value: Value) -> list[Node]:
    """The nodes that read a value of which nobody needs more than the sign; so a sum need not be rounded to
    codes first."""
    users = [node for node, _ in value.uses]
    signs = [node for node in users if isinstance(node.op, Sign)]
    return signs if len(signs) == len(users) and not graph.is_output(value) else []


def _holds(type_: QuantizedType, seen: Range) -> bool:
    """Whether the codes reach all of `seen`, to within one step."""
    low, high = ((code - type_.zero_point) * type_.scale for code in (type_.element.low, type_.element.high))
    return low - type_.scale <= seen.low and seen.high <= high + type_.scale


def _joined(graph: Graph, ranges: Mapping[Value, Range], fixed: Mapping[Value, QuantizedType]) -> _Groups:
    """Values that must or should share a type. All of a group have the same fixed type, or none has one."""
    groups = _Groups()
    for node in graph.nodes:
        if not node.op.keeps_quantization:
            continue
        computed = [v for v in node.inputs if v.constant is None]
        for output in node.outputs:
            for value in computed:
                close = ranges[value].width * JOIN_RATIO >= ranges[output].width
                if fixed.get(value) == fixed.get(output) and (len(computed) == 1 or close):
                    groups.join(value, output)
    return groups


def _calibrated(group: list[Value], ranges: Mapping[Value, Range], element: ElementType) -> QuantizedType:
    union = ranges[group[0]]
    for value in group[1:]:
        union = union.union(ranges[value])
    return QuantizedType(element, from_range(union.low, union.high, element))
