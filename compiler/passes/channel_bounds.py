"""What codes each channel of a quantized graph can hold, whatever the inputs are: intervals, exact bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.types import TensorType
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.contraction import requantized
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense

_CODES = (ElementType.I8, ElementType.I16)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least and largest code of each channel (index of the last axis), int64 [channels]."""

    low: Array
    high: Array

    @property
    def constant(self) -> Array:
        """bool [channels]: the channel holds one code everywhere, for every input."""
        return self.low == self.high


@dataclass(frozen=True, slots=True)
class Contraction:
    """A convolution or dense layer between codes of 8 or 16 bits, with constant weights.

    weight: int64 [outputs, taps, inputs of a group]; padded: its window looks beyond the image.
    """

    node: Node
    weight: Array
    bias: Array
    groups: int
    padded: bool
    to: QuantizedType

    @property
    def by_channel(self) -> bool:
        """Each output channel is made of the input channel of the same number."""
        return self.groups > 1 and self.groups == self.weight.shape[0] and self.weight.shape[2] == 1

    @property
    def zero_point(self) -> int:
        """Of the input."""
        return self.node.inputs[0].type.codes.zero_point

    def sums(self, x: Bounds) -> tuple[Array, Array]:
        """Bounds of the accumulators."""
        low, high = x.low - self.zero_point, x.high - self.zero_point
        if self.padded:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        outputs, _, inputs = self.weight.shape
        group = np.arange(outputs) // (outputs // self.groups)
        sides = [self.weight * side.reshape(self.groups, 1, inputs)[group] for side in (low, high)]
        least, most = np.minimum(*sides), np.maximum(*sides)
        return least.sum(axis=(1, 2)) + self.bias, most.sum(axis=(1, 2)) + self.bias

    def codes(self, sums: Array) -> Array:
        """Codes of one accumulator of each output channel, int64."""
        op = self.node.op
        assert isinstance(op, Conv2D | Dense)
        types = [v.type for v in self.node.inputs]
        return requantized(sums, types, self.to, op.clamp).astype(np.int64)


def contraction(node: Node) -> Contraction | None:
    """None where a node is something else, or gives bits or raw accumulators."""
    op = node.op
    if not isinstance(op, Conv2D | Dense) or op.to is None or op.to.element not in _CODES:
        return None
    weight, bias = node.inputs[1].constant, node.inputs[2].constant
    if node.inputs[0].type.element not in _CODES or weight is None or bias is None:
        return None
    if node.inputs[1].type.element is ElementType.B1:  # has no zero
        return None
    wide = weight.astype(np.int64).reshape(weight.shape[0], -1, weight.shape[-1])
    groups, padded = (op.groups, any(op.pads)) if isinstance(op, Conv2D) else (1, False)
    return Contraction(node, wide, bias.astype(np.int64), groups, padded, op.to)


def channels(type_: TensorType) -> int | None:
    """Extent of the last axis of codes that have bounds; None of other tensors."""
    return type_.shape[-1] if type_.rank and type_.element in _CODES else None


def channel_bounds(graph: Graph) -> Mapping[Value, Bounds]:
    """Of every value of codes of 8 or 16 bits. Contractions are followed by interval arithmetic, operators
    that keep channels apart (`Op.of_channels`) by their reference; of all else, any code is assumed."""
    found: dict[Value, Bounds] = {}
    for value in graph.values():
        count = channels(value.type)
        if count is None:
            continue
        made = None if value.producer is None else _bounds(value.producer, found)
        found[value] = made or Bounds(*(np.full(count, n, np.int64) for n in _range(value.type)))
    return found


def _range(type_: TensorType) -> tuple[int, int]:
    return type_.element.low, type_.element.high


def _bounds(node: Node, found: Mapping[Value, Bounds]) -> Bounds | None:
    if not node.inputs or (x := found.get(node.inputs[0])) is None:
        return None
    if (c := contraction(node)) is not None:
        return Bounds(*(c.codes(side) for side in c.sums(x)))
    of = node.inputs[0].type
    if node.op.of_channels(of, of.shape[-1]) is None:
        return None
    # Rising functions of one channel: all positions at the least code, and at the largest.
    sides = [np.broadcast_to(side, of.shape).astype(of.element.dtype) for side in (x.low, x.high)]
    low, high = (node.op.reference([of], [side])[0] for side in sides)
    axes = tuple(range(low.ndim - 1))
    return Bounds(low.min(axis=axes).astype(np.int64), high.max(axis=axes).astype(np.int64))
