"""Graphs: values and nodes with identity, explicit uses, and locations that lead back to the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from compiler.ir.diagnostics import Location, NodeError, TypeMismatchError
from compiler.ir.literal import Constant
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from compiler.numerics.element import Array


@dataclass(eq=False, slots=True)
class Value:
    """One tensor: a graph input, or an output of `producer`.

    source: the tensor of the original model that holds the same numbers, perhaps transposed; it is where
    calibration finds the range. uses: (node, input index) pairs, one per use, maintained by Graph.
    """

    name: str
    type: TensorType
    producer: Node | None = None
    source: str | None = None
    uses: list[tuple[Node, int]] = field(default_factory=list["tuple[Node, int]"])

    @property
    def constant(self) -> Array | None:
        """The codes or numbers, where the producer is a Constant."""
        if self.producer is not None and isinstance(self.producer.op, Constant):
            return self.producer.op.value.array
        return None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(eq=False, slots=True)
class Node:
    op: Op
    inputs: list[Value]
    outputs: list[Value]
    location: Location

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    def error(self, message: str, hint: str | None = None) -> NodeError:
        return NodeError(self.location, self.op.mnemonic, message, hint)

    def __repr__(self) -> str:
        return f"{self.outputs} = {self.op.mnemonic}({self.inputs}) at {self.location}"


class Graph:
    """A model. `nodes` is in topological order at all times; the verifier checks it.

    Edits go through `append`, `insert_before`, `set_op`, `set_input`, `replace_uses` and `erase`, which
    keep uses and types right; nothing else writes to values and nodes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self._names: set[str] = set()

    def add_input(self, name: str, type_: TensorType) -> Value:
        value = Value(self.fresh_name(name), type_, source=name)
        self.inputs.append(value)
        return value

    def fresh_name(self, wanted: str) -> str:
        """`wanted`, or with a number behind it, so that no two values share a name."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}.{number}", number + 1
        self._names.add(name)
        return name

    def append(
        self,
        op: Op,
        inputs: Sequence[Value],
        location: Location,
        names: Sequence[str] | None = None,
    ) -> list[Value]:
        """Adds a node at the end; its outputs' types come from `op.infer`.

        Errors: NodeError where the operator refuses the inputs' types.
        """
        return self._insert(len(self.nodes), op, inputs, location, names)

    def insert_before(
        self,
        anchor: Node,
        op: Op,
        inputs: Sequence[Value],
        location: Location,
        names: Sequence[str] | None = None,
    ) -> list[Value]:
        """As `append`, in front of `anchor`."""
        return self._insert(self.nodes.index(anchor), op, inputs, location, names)

    def insert_after(
        self,
        anchor: Node,
        op: Op,
        inputs: Sequence[Value],
        location: Location,
        names: Sequence[str] | None = None,
    ) -> list[Value]:
        """As `append`, right behind `anchor`."""
        return self._insert(self.nodes.index(anchor) + 1, op, inputs, location, names)

    def _insert(
        self, position: int, op: Op, inputs: Sequence[Value], location: Location, names: Sequence[str] | None
    ) -> list[Value]:
        types = self._infer(op, inputs, location)
        names = names or [f"{op.mnemonic}_{len(self._names)}"] * len(types)
        node = Node(op, list(inputs), [], location)
        node.outputs = [Value(self.fresh_name(n), t, node) for n, t in zip(names, types, strict=True)]
        for index, value in enumerate(node.inputs):
            value.uses.append((node, index))
        self.nodes.insert(position, node)
        return node.outputs

    @staticmethod
    def _infer(op: Op, inputs: Sequence[Value], location: Location) -> tuple[TensorType, ...]:
        try:
            return op.infer([v.type for v in inputs])
        except TypeMismatchError as error:
            raise NodeError(location, op.mnemonic, str(error)) from error

    def constant(self, array: Array, type_: TensorType, location: Location, name: str) -> Value:
        """A new constant at the start of the graph, where every node can use it."""
        return self._insert(0, Constant.of(array, type_), [], location, [name])[0]

    def set_op(self, node: Node, op: Op, inputs: Sequence[Value] | None = None) -> None:
        """Changes a node in place and infers its outputs' types anew."""
        if inputs is not None:
            for index in range(len(node.inputs)):
                self._drop_use(node, index)
            node.inputs = list(inputs)
            for index, value in enumerate(node.inputs):
                value.uses.append((node, index))
        for value, type_ in zip(node.outputs, self._infer(op, node.inputs, node.location), strict=True):
            value.type = type_
        node.op = op

    def set_input(self, node: Node, index: int, value: Value) -> None:
        """Changes one input; the caller sees to types (`set_op` infers them anew)."""
        self._drop_use(node, index)
        node.inputs[index] = value
        value.uses.append((node, index))

    @staticmethod
    def _drop_use(node: Node, index: int) -> None:
        uses = node.inputs[index].uses
        uses.remove(next(u for u in uses if u[0] is node and u[1] == index))

    def replace_uses(self, old: Value, new: Value, but: Node | None = None) -> None:
        """Lets every user of `old` (except the node `but`), and the graph's outputs, take `new`."""
        for node, index in list(old.uses):
            if node is not but:
                self.set_input(node, index, new)
        self.outputs = [new if v is old else v for v in self.outputs]

    def rename(self, value: Value, name: str) -> None:
        """Gives a value a name of its own choice (or one like it, where that is taken)."""
        self._names.discard(value.name)
        value.name = self.fresh_name(name)

    def erase(self, node: Node) -> None:
        """Removes a node whose outputs nobody uses."""
        for value in node.outputs:
            if value.uses or any(v is value for v in self.outputs):
                raise ValueError(f"{value!r} is still used")
            self._names.discard(value.name)
        for index in range(len(node.inputs)):
            self._drop_use(node, index)
        self.nodes.remove(node)

    def values(self) -> Iterator[Value]:
        """Inputs, then every node's outputs in order."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs

    def is_output(self, value: Value) -> bool:
        return any(v is value for v in self.outputs)

    def activations(self) -> Iterable[Node]:
        """The nodes that compute something at run time."""
        return (n for n in self.nodes if not isinstance(n.op, Constant))
