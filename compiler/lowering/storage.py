"""Where each value of the quantized graph lies: which buffer, at which offset, with which strides.

Three kinds of sharing save memory and copies: a view lies where its input lies; the parts of a
concatenation are written straight into its result; a slice is read straight out of its input. Sharing is
decided here once, by one rule: an operator at the other end must be able to walk the strides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from compiler.ir.graph import Graph, Node, Value
from compiler.numerics.element import ElementType
from compiler.ops.shape import Reshape
from compiler.ops.slicing import Concat, Slice

Strides = tuple[int, ...]


@dataclass(eq=False, slots=True)
class StorageBuffer:
    """A piece of memory: of the caller (input or output number `port`), or of the arena (port None)."""

    size: int
    input_port: int | None = None
    output_port: int | None = None
    values: list[Value] = field(default_factory=list[Value])

    @property
    def is_external(self) -> bool:
        return self.input_port is not None or self.output_port is not None


@dataclass(frozen=True, slots=True)
class Place:
    """A value inside a buffer. offset: elements from the buffer's start; strides: elements, None for C
    order."""

    buffer: StorageBuffer
    offset: int = 0
    strides: Strides | None = None


def dense_strides(shape: tuple[int, ...]) -> Strides:
    """Strides of C order, in elements."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 2, -1, -1):
        strides[d] = strides[d + 1] * shape[d + 1]
    return tuple(strides)


def place_values(graph: Graph) -> dict[Value, Place]:
    """The place of every value that is computed or given at run time."""
    return _Placer(graph).run()


class _Placer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.places: dict[Value, Place] = {}

    def run(self) -> dict[Value, Place]:
        for port, value in enumerate(self.graph.inputs):
            self._own(value, input_port=port)
        for port, value in enumerate(self.graph.outputs):
            if value not in self.places:
                self._own(value, output_port=port)
        # Backwards, so that a concatenation has its place before its parts ask for one.
        for node in reversed(self.graph.nodes):
            if isinstance(node.op, Concat):
                self._place_parts(node)
        for node in self.graph.nodes:
            for value in node.outputs:
                if value.constant is None and value not in self.places:
                    self._place_result(node, value)
        return self.places

    def _own(self, value: Value, input_port: int | None = None, output_port: int | None = None) -> None:
        external = input_port is not None or output_port is not None
        if external and value.type.element is ElementType.B1:
            raise ValueError(f"{value!r}: a library takes and gives no packed b1 codes; dequantize them")
        size = value.type.element.stored_bytes(value.type.shape)
        buffer = StorageBuffer(size, input_port, output_port)
        self._put(value, Place(buffer))

    def _put(self, value: Value, place: Place) -> None:
        place.buffer.values.append(value)
        self.places[value] = place

    def _place_parts(self, node: Node) -> None:
        """Lets the inputs of a concatenation be written into its result, where their producers can and the
        result is not the caller's: external buffers are addressed at their start alone."""
        result = node.output
        if result not in self.places:
            self._own(result)
        whole = self.places[result]
        if whole.buffer.is_external:
            return
        strides = whole.strides or dense_strides(result.type.shape)
        for value, part in zip(node.inputs, part_places(node, whole), strict=True):
            if self._may_be_part(value, node, strides):
                self._put(value, part)

    def _may_be_part(self, value: Value, node: Node, strides: Strides) -> bool:
        producer = value.producer
        if producer is None or value.constant is not None or value in self.places:
            return False
        if sum(user is node for user, _ in value.uses) > 1:
            return False
        others = [user for user, _ in value.uses if user is not node]
        walkers = [producer, *others]
        return all(n.op.takes_strides(value.type.shape, strides) for n in walkers)

    def _place_result(self, node: Node, value: Value) -> None:
        x = node.inputs[0] if node.inputs else None
        if x is not None and x in self.places and not self.graph.is_output(value):
            place = self.places[x]
            if isinstance(node.op, Reshape) and place.strides is None:
                self._put(value, Place(place.buffer, place.offset))
                return
            if isinstance(node.op, Slice) and self._put_slice(node.op, value, x):
                return
        self._own(value)

    def _put_slice(self, op: Slice, value: Value, x: Value) -> bool:
        """Lets a slice be read out of its input, where all its readers can."""
        whole = self.places[x]
        if whole.buffer.is_external or any(step < 1 for step in op.step):
            return False
        place = slice_place(op, x, whole)
        strides = place.strides or dense_strides(op.shape)
        if not all(user.op.takes_strides(op.shape, strides) for user, _ in value.uses):
            return False
        self._put(value, place)
        return True


def part_places(node: Node, whole: Place) -> list[Place]:
    """Where each input of a concatenation would lie inside its result, which lies at `whole`."""
    assert isinstance(node.op, Concat)
    strides = whole.strides or dense_strides(node.output.type.shape)
    places: list[Place] = []
    offset = whole.offset
    for value in node.inputs:
        places.append(Place(whole.buffer, offset, _normalized(value.type.shape, strides)))
        offset += value.type.shape[node.op.axis] * strides[node.op.axis]
    return places


def slice_place(op: Slice, x: Value, whole: Place) -> Place:
    """Where a slice with positive steps lies inside its input `x`, which lies at `whole`."""
    strides = whole.strides or dense_strides(x.type.shape)
    offset = whole.offset + sum(b * s for b, s in zip(op.begin, strides, strict=True))
    moved = tuple(s * step for s, step in zip(strides, op.step, strict=True))
    return Place(whole.buffer, offset, _normalized(op.shape, moved))


def _normalized(shape: tuple[int, ...], strides: Strides) -> Strides | None:
    """None where the strides are those of C order along every axis that has more than one element."""
    dense = dense_strides(shape)
    same = all(s == d for n, s, d in zip(shape, strides, dense, strict=True) if n != 1)
    return None if same else strides
