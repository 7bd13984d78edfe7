"""Tensors that are known at import: shapes, and whatever is computed from constants alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.frontend.decoding import constant_value
from compiler.ir.graph import Value
from compiler.numerics.element import Array
from compiler.ops.importing import Input

if TYPE_CHECKING:
    from onnx import NodeProto

# Each run gives other numbers, so they are not constants although all their inputs are.
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
# What onnx's reference operators raise for inputs that they do not take.
_REFUSALS = (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def fold(
    node: NodeProto, inputs: Sequence[Input], attributes: Mapping[str, Any], opset: int
) -> list[Array] | None:
    """All outputs of a node that can be computed now; None where it must run later (or cannot run)."""
    match node.op_type, inputs:
        case ("Constant", _):
            value = constant_value(attributes)
            return None if value is None else [value]
        case ("Shape", (Value() as x,)):
            return [_shape(x.type.shape, attributes)]
        case ("Size", (Value() as x,)):
            return [np.array(x.type.count, np.int64)]
        case ("ConstantOfShape", (np.ndarray() as shape,)):
            value = np.asarray(attributes.get("value", np.zeros(1, np.float32))).reshape(())
            # A view of one number: large weights of synthetic models take no memory.
            return [np.broadcast_to(value, tuple(int(d) for d in shape))]
        case _:
            pass
    if node.op_type in _RANDOM or any(isinstance(x, Value) for x in inputs):
        return None
    return _evaluate(node, inputs, opset)


def _shape(shape: Sequence[int], attributes: Mapping[str, Any]) -> Array:
    return np.array(shape[attributes.get("start", 0) : attributes.get("end")], np.int64)


def _evaluate(node: NodeProto, inputs: Sequence[Input], opset: int) -> list[Array] | None:
    """The node by onnx's reference operators, in the semantics of `opset`."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [name for name in dict.fromkeys(node.input) if name]
    arrays = {name: x for name, x in zip(node.input, inputs, strict=True) if name}
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "fold",
        [helper.make_empty_tensor_value_info(n) for n in names],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
    )
    if node.op_type == "DequantizeLinear":
        # onnx's reference has it from opset 19 on only; what older models write means the same there.
        opset = max(opset, 19)
    try:
        results: Any = ReferenceEvaluator(graph, opsets={"": opset}).run(None, arrays)
    except _REFUSALS:
        return None
    found = dict(zip(outputs, results, strict=True))
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        return None
    return [np.asarray(found[name]) if name else np.empty(0) for name in node.output]
