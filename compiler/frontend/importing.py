"""From a model to a float graph: what is known is folded, what runs is imported by its operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from compiler.frontend.decoding import (
    decode_attributes,
    decode_tensor,
    domain_of,
    is_real,
    static_type,
    type_text,
)
from compiler.frontend.folding import fold
from compiler.frontend.reading import Model
from compiler.frontend.refusals import combined, operator_name, unsupported
from compiler.frontend.shapes import input_shapes
from compiler.ir.diagnostics import Location, NodeError
from compiler.ir.graph import Graph, Value
from compiler.ir.types import Shape, TensorType, f32
from compiler.ops import IMPORTERS
from compiler.ops.importing import Input, OnnxNode
from compiler.ops.shape import Reshape

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, ValueInfoProto


def import_graph(model: Model, shapes: Mapping[str, Shape] | None = None) -> Graph:
    """The float graph of a model. Inputs and outputs keep their names; every value that is a tensor of
    the model has its name, and its `source`, and so have the transposes and reshapes that lead to it.

    shapes: extents of inputs, by name, where the model leaves them open.
    Errors: BitloomError that lists every node that cannot be compiled, with the reason; and those of
    `input_shapes`.
    """
    return _Import(model, shapes).run()


class _Import:
    """The state of one import.

    known: tensors by their ONNX names, computed or constant. lost: tensors of nodes that failed, whose
    users are passed over in silence. named: values that carry the name of an ONNX tensor.
    """

    def __init__(self, model: Model, shapes: Mapping[str, Shape] | None) -> None:
        self.model = model
        self.shapes = shapes
        self.graph = Graph(model.name)
        self.known: dict[str, Input] = {"": None}
        self.lost: set[str] = set()
        self.named: set[Value] = set()
        self.errors: list[NodeError] = []
        self.inferred: Mapping[str, TensorType] | None = None

    def run(self) -> Graph:
        proto = self.model.proto.graph
        live, needed = _live(proto, {o.name for o in proto.output})
        self._add_inputs(proto, needed)
        self._bind_initializers(proto, needed)
        for index, node in live:
            self._import_node(node, node.name or f"{node.op_type}_{index}", needed)
        if self.errors:
            raise combined(self.model, self.errors)
        self.graph.outputs = self._outputs([o.name for o in proto.output])
        _erase_dead_nodes(self.graph)
        return self.graph

    def _add_inputs(self, proto: GraphProto, needed: set[str]) -> None:
        initialized = {t.name for t in proto.initializer}
        inputs = [i for i in proto.input if i.name not in initialized]
        strange = [i for i in inputs if i.name in needed and not is_real(i.type)]
        if strange:
            listed = ", ".join(f'"{i.name}" ({type_text(i.type)})' for i in strange)
            raise self.model.error(
                f"inputs must be tensors of real numbers: {listed}", "export the model with float inputs"
            )
        inputs = [i for i in inputs if is_real(i.type)]
        for name, shape in input_shapes(self.model, inputs, self.shapes).items():
            self.known[name] = value = self.graph.add_input(name, f32(*shape))
            self.named.add(value)

    def _bind_initializers(self, proto: GraphProto, needed: set[str]) -> None:
        for tensor in proto.initializer:
            if tensor.name in needed:
                self.known[tensor.name] = decode_tensor(tensor, self.model.path)

    def _import_node(self, node: NodeProto, name: str, needed: set[str], nested: bool = False) -> None:
        if not self.lost.isdisjoint(node.input):
            self._lose(node)
            return
        try:
            results = self._results(node, name, needed)
        except NodeError as error:
            self.errors.append(error)
            self._lose(node)
            return
        for tensor, result in zip(node.output, results, strict=False):
            self.known[tensor] = result if tensor else None
            if tensor and isinstance(result, Value) and not nested:
                self._name(result, tensor)

    def _results(self, node: NodeProto, name: str, needed: set[str]) -> Sequence[Input]:
        """Errors: NodeError where the node cannot be imported."""
        inputs = [self._input(node, name, tensor) for tensor in node.input]
        attributes = decode_attributes(node, self.model.path)
        if node.op_type == "If" and isinstance(inputs[0], np.ndarray):
            branch = attributes["then_branch" if inputs[0].item() else "else_branch"]
            return self._branch(branch, name)
        folded = fold(node, inputs, attributes, self.model.opset)
        if folded is not None:
            return folded
        importer = IMPORTERS.get((domain_of(node), node.op_type))
        if importer is None:
            raise unsupported(node, name)
        outputs = _used_outputs(node, needed)
        decoded = OnnxNode(
            self.graph, node.op_type, self.model.opset, name, tuple(inputs), outputs, attributes
        )
        try:
            results = importer(decoded)
        except (LookupError, TypeError, ValueError) as error:
            # Importers trust what the operator's specification promises: ranks, axes, counts of inputs.
            raise decoded.error(
                f"the node breaks its specification, or is misread ({type(error).__name__}: {error})",
                "check the model: python -m onnx.bin.checker FILE; report the node if it is valid",
            ) from error
        if len(results) < len(outputs):
            raise decoded.error(f'output {len(results)} ("{outputs[len(results)]}") is not supported')
        return results

    def _input(self, node: NodeProto, name: str, tensor: str) -> Input:
        if tensor not in self.known:
            raise NodeError(
                Location((name,)),
                operator_name(node),
                f'it reads "{tensor}", which no node before it computes',
                "check the model: python -m onnx.bin.checker FILE",
            )
        return self.known[tensor]

    def _branch(self, proto: GraphProto, prefix: str) -> Sequence[Input]:
        """The nodes of a subgraph in place of its If node.

        Errors: NodeError of the first node that fails.
        """
        live, needed = _live(proto, {o.name for o in proto.output})
        self._bind_initializers(proto, needed)
        for index, node in live:
            self._import_node(node, node.name or f"{prefix}/{node.op_type}_{index}", needed, nested=True)
        if any(o.name not in self.known for o in proto.output):
            raise self.errors.pop()
        return [self.known[o.name] for o in proto.output]

    def _lose(self, node: NodeProto) -> None:
        """Puts placeholders for the outputs of a node that failed, so that its users are tried too."""
        if self.inferred is None:
            self.inferred = _inferred_types(self.model, self.graph.inputs)
        for tensor in node.output:
            if tensor in self.inferred:
                self.known[tensor] = Value(self.graph.fresh_name(tensor), self.inferred[tensor])
            elif tensor:
                self.lost.add(tensor)

    def _name(self, value: Value, tensor: str) -> None:
        """Ties a value, and those before it that hold the same numbers, to a tensor of the model."""
        if value in self.named:
            return
        self.named.add(value)
        self.graph.rename(value, tensor)
        value.source = tensor
        before = _moved(value)
        while before is not None and before.source is None:
            before.source = tensor
            before = _moved(before)

    def _outputs(self, names: Iterable[str]) -> list[Value]:
        """The graph's outputs, each a value of its own that no caller gave us, under its name.

        Errors: BitloomError for an output that is constant or that nothing computes.
        """
        taken = set(self.graph.inputs)
        outputs: list[Value] = []
        for name in names:
            value = self.known.get(name)
            if value is None:
                raise self.model.error(f'no node computes the output "{name}"')
            if not isinstance(value, Value):
                raise self.model.error(
                    f'the output "{name}" is constant: it depends on no input',
                    "remove it from the model's outputs",
                )
            if value in taken:
                (value,) = self.graph.append(Reshape(value.type.shape), [value], Location(), [name])
                value.source = name
            taken.add(value)
            self._give_name(value, name)
            outputs.append(value)
        return outputs

    def _give_name(self, value: Value, name: str) -> None:
        """The exact name, even where an inner value has taken it."""
        for other in self.graph.values():
            if other is not value and other.name == name and other not in self.graph.inputs:
                self.graph.rename(other, f"{name}.inner")
        self.graph.rename(value, name)


def _moved(value: Value) -> Value | None:
    """The computed value that holds the same numbers in another order, if there is one."""
    node = value.producer
    if node is None or not node.op.keeps_quantization or len(node.inputs) != 1:
        return None
    (before,) = node.inputs
    same = before.type.count == value.type.count and before.constant is None
    return before if same else None


def _live(proto: GraphProto, outputs: set[str]) -> tuple[list[tuple[int, NodeProto]], set[str]]:
    """Nodes that the outputs need, with their positions, and the names of all tensors that they need."""
    needed = set(outputs)
    live: list[tuple[int, NodeProto]] = []
    for index in reversed(range(len(proto.node))):
        node = proto.node[index]
        if any(name in needed for name in node.output if name):
            live.append((index, node))
            needed.update(_read(node))
    return live[::-1], needed


def _read(node: NodeProto) -> Iterable[str]:
    """Names that a node reads, by its subgraphs too."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (o.name for o in attribute.g.output)
            for inner in attribute.g.node:
                yield from _read(inner)


def _used_outputs(node: NodeProto, needed: set[str]) -> tuple[str, ...]:
    """Names of the outputs; "" for those that nobody reads, which do not count at the end."""
    names = [name if name in needed else "" for name in node.output]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def _inferred_types(model: Model, inputs: Sequence[Value]) -> Mapping[str, TensorType]:
    """Static float types of tensors, as far as onnx can infer them."""
    from onnx import ModelProto, shape_inference

    proto = ModelProto()
    proto.CopyFrom(model.proto)
    shapes = {v.name: v.type.shape for v in inputs}
    for info in proto.graph.input:
        if info.name in shapes:
            dims = info.type.tensor_type.shape
            dims.Clear()
            for extent in shapes[info.name]:
                dims.dim.add().dim_value = extent
    try:
        graph = shape_inference.infer_shapes(proto, data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    infos = cast("Iterable[ValueInfoProto]", [*graph.value_info, *graph.output])
    types: Mapping[str, Any] = {i.name: static_type(i.type) for i in infos}
    return {name: type_ for name, type_ in types.items() if type_ is not None}


def _erase_dead_nodes(graph: Graph) -> None:
    """Removes what was imported only for its shape, and constants of nodes that were folded."""
    for node in reversed(graph.nodes[:]):
        if not any(v.uses or graph.is_output(v) for v in node.outputs):
            graph.erase(node)
