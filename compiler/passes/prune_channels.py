"""Exact pruning: channels that hold the same code for every input, and channels that nobody needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from compiler.numerics.element import Array
from compiler.numerics.quantization import Quantization
from compiler.ops.convolution import Conv2D
from compiler.passes.base import Notes, Pass
from compiler.passes.channel_bounds import Bounds, Contraction, channel_bounds, channels, contraction


@dataclass(frozen=True, slots=True)
class PruneChannels(Pass):
    """Leaves out channels without changing a bit of any result: trained networks often have channels whose
    activation never fires, or whose weights vanish beside the bias.

    A channel whose bounds meet is a constant: its consumers' biases take it up, where no padding stands
    beside it. A channel that then nobody needs is left out, in its producer, its consumers, and every
    operator in between that keeps channels apart. As many stay that a multiple of `multiple` remains, for
    lanes of vectors and arrays would be idle otherwise; the weights of constants that stay become zeros.
    """

    name: ClassVar[str] = "prune-channels"
    multiple: int = 16

    def run(self, graph: Graph, notes: Notes) -> int:
        bounds = channel_bounds(graph)
        kept = _kept(graph, _needed(graph, bounds), self.multiple)
        rewrites = [r for node in graph.nodes if (r := _rewrite(node, bounds, kept)) is not None]
        for rewrite in rewrites:
            rewrite.run(graph, notes)
        return len(rewrites)


def _needed(graph: Graph, bounds: Mapping[Value, Bounds]) -> dict[Value, Array]:
    """bool [channels] of each value: channels that some result depends on, were all constants folded."""
    needed = {v: np.full(len(b.low), graph.is_output(v)) for v, b in bounds.items()}
    for node in reversed(graph.nodes):
        c, x = contraction(node), node.inputs[0] if node.inputs else None
        if x is None:
            continue
        if c is not None:
            needed[x] |= _read(c, bounds[x], needed[node.output] & ~bounds[node.output].constant)
        elif (y := _passed(node)) is not None:
            needed[x] |= needed[y]
        else:
            for value in node.inputs:
                if value in needed:
                    needed[value][:] = True
    return needed


def _read(c: Contraction, x: Bounds, outputs: Array) -> Array:
    """bool [input channels]: those that the given output channels depend on and no bias can take up."""
    if c.by_channel:
        return outputs & c.weight.any(axis=(1, 2))
    if c.groups > 1:
        return np.ones(len(x.low), bool)
    return c.weight[outputs].any(axis=(0, 1)) & ~_foldable(c, x)


def _foldable(c: Contraction, x: Bounds) -> Array:
    return x.constant & ((x.low == c.zero_point) | (not c.padded))


def _passed(node: Node) -> Value | None:
    """The result of an operator that keeps channels apart."""
    of = node.inputs[0].type
    count = channels(of)
    if count is None or len(node.outputs) != 1 or node.op.of_channels(of, count) is None:
        return None
    return node.output


def _kept(graph: Graph, needed: dict[Value, Array], multiple: int) -> dict[Value, Array]:
    """bool [channels] of each value: what stays. Values joined by operators that keep channels apart lose
    the same ones, and only where a contraction makes them."""
    joined: dict[Value, Value] = {}  # a value -> the one that its channels come from
    for value, mine in needed.items():
        node, fixed = value.producer, False
        c = None if node is None else contraction(node)
        if node is not None and (c.by_channel if c is not None else node.inputs and _passed(node)):
            joined[value] = joined.get(node.inputs[0], node.inputs[0])
        else:
            fixed = c is None or c.groups > 1
            joined[value] = value
        needed[joined[value]] |= mine | fixed
    stay = {first: _whole(needed[first], multiple) for first in joined.values()}
    return {value: stay[first] for value, first in joined.items()}


def _whole(needed: Array, multiple: int) -> Array:
    """The needed ones, with as many of the first others as make a multiple."""
    count = max(1, int(needed.sum()))
    wanted = min(len(needed), -(-count // multiple) * multiple)
    kept = needed.copy()
    kept[np.flatnonzero(~needed)[: wanted - int(needed.sum())]] = True
    return kept


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """What a node becomes. weight, bias: of a contraction. kept: the channels of its result that stay."""

    node: Node
    op: Op
    kept: Array
    weight: Array | None = None
    bias: Array | None = None

    def run(self, graph: Graph, notes: Notes) -> None:
        node = self.node
        inputs = [node.inputs[0]]
        for value, array in zip(node.inputs[1:], (self.weight, self.bias), strict=False):
            assert array is not None
            type_ = _part(value.type, array.shape, self.kept)
            codes = array.astype(type_.element.dtype)
            inputs.append(graph.constant(codes, type_, node.location, value.name))
        graph.set_op(node, self.op, inputs)
        left_out = int((~self.kept).sum())
        if left_out:
            node.output.source = None
        if left_out and self.weight is not None:
            text = f"{left_out} of {len(self.kept)} channels never change or are never used: left out"
            notes.add(node.location, PruneChannels.name, text)


def _rewrite(node: Node, bounds: Mapping[Value, Bounds], kept: Mapping[Value, Array]) -> _Rewrite | None:
    if (c := contraction(node)) is not None:
        return _rewrite_contraction(c, bounds, kept)
    y = _passed(node) if node.inputs else None
    if y is None or y not in kept or kept[y].all():
        return None
    op = node.op.of_channels(node.inputs[0].type, int(kept[y].sum()))
    assert op is not None
    return _Rewrite(node, op, kept[y])


def _rewrite_contraction(
    c: Contraction, bounds: Mapping[Value, Bounds], kept: Mapping[Value, Array]
) -> _Rewrite | None:
    x, y = c.node.inputs[0], c.node.output
    outputs = kept[y]
    inputs = kept[x] if c.groups == 1 else np.ones(c.weight.shape[2], bool)
    constant = bounds[y].constant
    if outputs.all() and inputs.all() and not c.weight[constant].any():
        return None
    bias, weight = c.bias.copy(), c.weight.copy()
    if c.groups == 1:
        folded = np.where(inputs, 0, bounds[x].low - c.zero_point) * _foldable(c, bounds[x])
        bias += (weight * folded).sum(axis=(1, 2))
    # Any accumulator of a constant's interval gives its code.
    bias[constant], weight[constant] = c.sums(bounds[x])[0][constant], 0
    op = c.node.op
    if c.by_channel:
        assert isinstance(op, Conv2D)
        op = replace(op, groups=int(outputs.sum()))
    left = weight[outputs][..., inputs]
    shape = (left.shape[0], *c.node.inputs[1].type.shape[1:-1], left.shape[2])
    return _Rewrite(c.node, op, outputs, left.reshape(shape), bias[outputs])


def _part(of: TensorType, shape: tuple[int, ...], outputs: Array) -> TensorType:
    """The type of the channels that stay, of weights or bias."""
    q = of.codes.quantization
    if q.axis is not None:
        scales = tuple(s for s, stays in zip(q.scales, outputs, strict=True) if stays)
        q = Quantization(scales, q.zero_point, q.axis)
    return TensorType(shape, of.element, q)
