"""Folds per-channel factors and offsets into the weights and bias of the contraction before them.

Batch normalization at inference is y = x * factor + offset per channel; so are multiplications by and
additions of per-channel constants. conv(x, W, b) * f + o = conv(x, W * f, b * f + o) exactly in real
numbers, and the scaled weights are quantized per channel afterwards, so nothing is lost. A batch
normalization without a contraction before it becomes a multiplication and an addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.types import f32
from compiler.numerics.element import Array, ElementType
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.ops.elementwise import Add, Mul, Sub
from compiler.ops.normalization import BatchNorm
from compiler.passes.base import Notes, Pass


@dataclass(frozen=True, slots=True)
class Affine:
    """y = x * factor + offset, per channel of the last axis, float64 [channels]."""

    x: Value
    factor: Array
    offset: Array


@dataclass(frozen=True, slots=True)
class FoldBatchNorm(Pass):
    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph, notes: Notes) -> int:
        count = 0
        for node in list(graph.nodes):
            affine = _affine(node)
            if affine is None:
                continue
            if _fold(graph, node, affine):
                count += 1
            elif isinstance(node.op, BatchNorm):
                _expand(graph, node, affine)
                count += 1
        return count


def _affine(node: Node) -> Affine | None:
    """The node as a per-channel affine function of its one computed input, or None."""
    arrays = [v.constant for v in node.inputs]
    if node.outputs[0].type.element is not ElementType.F32:
        return None
    match node.op:
        case BatchNorm(epsilon=epsilon):
            scale, bias, mean, variance = (np.asarray(a, np.float64) for a in arrays[1:] if a is not None)
            factor = scale / np.sqrt(variance + epsilon)
            return Affine(node.inputs[0], factor, bias - mean * factor)
        case Mul(clamp=None) | Add(clamp=None) | Sub(clamp=None) if len(node.inputs) == 2:
            return _affine_of_binary(node, arrays)
        case _:
            return None


def _affine_of_binary(node: Node, arrays: list[Array | None]) -> Affine | None:
    if (arrays[0] is None) == (arrays[1] is None):
        return None
    index = 0 if arrays[0] is None else 1
    constant, x = arrays[1 - index], node.inputs[index]
    channels = x.type.shape[-1] if x.type.rank else 1
    assert constant is not None
    per_channel = constant.shape[-1:] == (channels,) and constant.size == channels
    if node.output.type.shape != x.type.shape or not (constant.size == 1 or per_channel):
        return None
    numbers = np.broadcast_to(np.asarray(constant, np.float64).reshape(-1), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op:
        case Mul():
            return Affine(x, numbers, zero)
        case Add():
            return Affine(x, one, numbers)
        case _:
            return Affine(x, one, -numbers) if index == 0 else Affine(x, -one, numbers)


def _fold(graph: Graph, node: Node, affine: Affine) -> bool:
    """Into the producing contraction, where that feeds nothing else and has no activation yet."""
    producer = affine.x.producer
    if producer is None or len(affine.x.uses) != 1 or graph.is_output(affine.x):
        return False
    match producer.op:
        case Conv2D(clamp=None) | Dense(clamp=None):
            pass
        case _:
            return False
    weight = producer.inputs[1].constant
    bias = producer.inputs[2].constant if len(producer.inputs) == 3 else np.zeros(len(affine.factor))
    if weight is None or bias is None:
        return False
    factor = affine.factor.reshape(-1, *(1,) * (weight.ndim - 1))
    new_weight = np.asarray(weight, np.float64) * factor
    new_bias = np.asarray(bias, np.float64) * affine.factor + affine.offset
    location = producer.location.fuse(node.location)
    inputs = [
        producer.inputs[0],
        graph.constant(new_weight, producer.inputs[1].type, location, producer.inputs[1].name),
        graph.constant(new_bias, f32(len(new_bias)), location, f"{affine.x.name}.bias"),
    ]
    graph.set_op(producer, producer.op, inputs)
    producer.location = location
    take_over(graph, node, affine.x)
    return True


def take_over(graph: Graph, node: Node, value: Value) -> None:
    """`value` (computed by a fused producer) takes the place, name and source of `node`'s output."""
    old = node.output
    value.source = old.source
    name = old.name
    graph.rename(old, f"{name}.fused")
    graph.rename(value, name)
    graph.replace_uses(old, value)
    graph.erase(node)


def _expand(graph: Graph, node: Node, affine: Affine) -> None:
    channels = len(affine.factor)
    name = node.output.name
    factor = graph.constant(affine.factor, f32(channels), node.location, f"{name}.factor")
    offset = graph.constant(affine.offset, f32(channels), node.location, f"{name}.offset")
    (product,) = graph.insert_before(node, Mul(), [affine.x, factor], node.location, [f"{name}.scaled"])
    (total,) = graph.insert_before(node, Add(), [product, offset], node.location, [f"{name}.normalized"])
    take_over(graph, node, total)
