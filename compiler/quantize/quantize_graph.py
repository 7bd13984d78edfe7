"""Float graph + quantized types -> quantized IR.

Every node becomes its integer form where the operator has one, between codes of the calibrated types.
A node without one stays in float32 between dequantize and quantize, and a note says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.op import Quantized, QuantizedOperand, Refusal
from compiler.ir.types import TensorType, quantized
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.edge import Dequantize, Quantize, Requantize
from compiler.passes.base import Notes


@dataclass(frozen=True, slots=True)
class WeightWidths:
    """Element types of weights: one for all, and exceptions by the name of an ONNX node. by_channel: each
    output channel has a scale of its own; else a layer has one."""

    default: ElementType = ElementType.I8
    layers: Mapping[str, ElementType] = field(default_factory=dict[str, ElementType])
    by_channel: bool = True

    def of(self, location: Location) -> ElementType:
        return next((self.layers[n] for n in location.names if n in self.layers), self.default)


def quantize_graph(
    graph: Graph, types: Mapping[Value, QuantizedType], weights: WeightWidths, notes: Notes
) -> Graph:
    """A new graph with float32 inputs and outputs of the same names, integer inside."""
    return _Quantizer(graph, types, weights, notes).run()


class _Quantizer:
    def __init__(
        self, graph: Graph, types: Mapping[Value, QuantizedType], weights: WeightWidths, notes: Notes
    ) -> None:
        self.old, self.types, self.weights, self.notes = graph, types, weights, notes
        self.new = Graph(graph.name)
        self.codes: dict[Value, Value] = {}  # old value -> its codes in the new graph
        self.reals: dict[Value, Value] = {}  # old value -> its float32 in the new graph

    def run(self) -> Graph:
        for value in self.old.inputs:
            self.reals[value] = self.new.add_input(value.name, value.type)
        for node in self.old.nodes:
            if node.outputs[0].constant is None:
                self._node(node)
        for value in self.old.outputs:
            output = self.real(value)
            if output.name != value.name and not any(v is output for v in self.new.inputs):
                self._claim_name(output, value.name)
            self.new.outputs.append(output)
        return self.new

    def _claim_name(self, output: Value, name: str) -> None:
        """The graph's output takes its ONNX name; codes that held it step aside."""
        for value in self.new.values():
            if value.name == name:
                self.new.rename(value, f"{name}.codes")
        self.new.rename(output, name)

    def _node(self, node: Node) -> None:
        weights = self.weights.of(node.location)
        operands = quantized_operands(node, self.types, weights, self.weights.by_channel)
        to = [self.types[v] for v in node.outputs]
        verdict = node.op.quantize(operands, to, weights)
        if isinstance(verdict, Refusal):
            self.notes.add(node.location, "quantize", f"stays in float32: {verdict.reason}")
            self._float_node(node)
        else:
            if verdict.note is not None:
                self.notes.add(node.location, "quantize", verdict.note)
            self._integer_node(node, verdict, operands, to)

    def _float_node(self, node: Node) -> None:
        inputs = [self._constant(v) if v.constant is not None else self.real(v) for v in node.inputs]
        outputs = self.new.append(node.op, inputs, node.location, [v.name for v in node.outputs])
        for old, new in zip(node.outputs, outputs, strict=True):
            new.source = old.source
            self.reals[old] = new

    def _integer_node(
        self, node: Node, verdict: Quantized, operands: list[QuantizedOperand], to: list[QuantizedType]
    ) -> None:
        inputs: list[Value] = []
        for index in range(max(len(node.inputs), *(i + 1 for i in verdict.constants), 0)):
            if index in verdict.constants:
                type_, array = verdict.constants[index]
                old = node.inputs[index] if index < len(node.inputs) else None
                name = f"{node.outputs[0].name}.bias" if old is None else old.name
                inputs.append(self.new.constant(array, type_, node.location, name))
            else:
                value = node.inputs[index]
                wanted = to[0] if node.op.keeps_quantization else None
                if value.constant is None and self.types[value].element is ElementType.B1:
                    wanted = operands[index].type.codes
                inputs.append(self.codes_of(value, wanted))
        outputs = self.new.append(verdict.op, inputs, node.location, [v.name for v in node.outputs])
        for old, new in zip(node.outputs, outputs, strict=True):
            new.source = old.source
            self.codes[old] = new

    def _constant(self, value: Value) -> Value:
        if value not in self.reals:
            assert value.constant is not None and value.producer is not None
            self.reals[value] = self.new.constant(
                value.constant, value.type, value.producer.location, value.name
            )
        return self.reals[value]

    def codes_of(self, value: Value, wanted: QuantizedType | None) -> Value:
        """Codes of an old value, requantized where an operator wants another type."""
        if value not in self.codes:
            where = value.producer.location if value.producer is not None else Location((value.name,))
            real = self._constant(value) if value.constant is not None else self.reals[value]
            (codes,) = self.new.append(Quantize(self.types[value]), [real], where, [f"{value.name}.codes"])
            codes.source = value.source
            self.codes[value] = codes
        codes = self.codes[value]
        if wanted is None or codes.type.codes == wanted:
            return codes
        where = value.producer.location if value.producer is not None else Location((value.name,))
        (moved,) = self.new.append(Requantize(wanted), [codes], where, [f"{value.name}.requantized"])
        moved.source = value.source
        return moved

    def real(self, value: Value) -> Value:
        """float32 of an old value."""
        if value not in self.reals:
            where = value.producer.location if value.producer is not None else Location()
            (real,) = self.new.append(Dequantize(), [self.codes[value]], where, [f"{value.name}.real"])
            self.reals[value] = real
        return self.reals[value]


def quantized_operands(
    node: Node, types: Mapping[Value, QuantizedType], weights: ElementType, by_channel: bool = True
) -> list[QuantizedOperand]:
    """What `Op.quantize` gets. Activations of b1 are widened to i8 where the operator cannot read bits."""
    operands = [
        QuantizedOperand(v.type, v.constant, by_channel)
        if v.constant is not None
        else QuantizedOperand(quantized(v.type.shape, types[v]))
        for v in node.inputs
    ]
    if node.op.takes_bits(operands, weights):
        return operands
    return [
        o if o.type.element is not ElementType.B1 else QuantizedOperand(widened(o.type)) for o in operands
    ]


def widened(bits: TensorType) -> TensorType:
    """The codes of a b1 tensor, -1 and +1, as i8."""
    return TensorType(bits.shape, ElementType.I8, bits.quantization)


def weight_bytes(graph: Graph) -> int:
    """Packed bytes of all constants of the graph."""
    return sum(v.type.packed_bytes for v in graph.values() if v.constant is not None)
