"""One-node ONNX models: the imported float graph beside onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compiler.interpreter import run
from compiler.ir.graph import Graph, Value
from compiler.ir.types import f32
from compiler.ir.verifier import verify
from compiler.numerics.element import Array
from compiler.ops import IMPORTERS
from compiler.ops.importing import Input, OnnxNode

Operand = tuple[Array, bool] | None


def computed(array: Any) -> Operand:
    """An input that is known at run time only."""
    return np.asarray(array, np.float32), True


def known(array: Any) -> Operand:
    """An input that is an initializer of the model."""
    return np.asarray(array), False


def import_node(
    op_type: str, operands: Sequence[Operand], opset: int, outputs: int = 1, **attributes: Any
) -> Graph:
    """The graph that the importer of `op_type` builds, verified; its inputs are x0, x1, …"""
    graph = Graph(op_type)
    inputs: list[Input] = []
    for i, operand in enumerate(operands):
        if operand is None:
            inputs.append(None)
            continue
        array, at_run_time = operand
        inputs.append(graph.add_input(f"x{i}", f32(*array.shape)) if at_run_time else array)
    names = tuple(f"y{i}" for i in range(outputs))
    node = OnnxNode(graph, op_type, opset, f"the {op_type}", tuple(inputs), names, attributes)
    results = IMPORTERS["", op_type](node)
    assert all(isinstance(r, Value) for r in results)
    graph.outputs = [r for r in results if isinstance(r, Value)]
    verify(graph)
    return graph


def run_onnx(op_type: str, operands: Sequence[Operand], opset: int, **attributes: Any) -> Array:
    """The first output of the same node by onnxruntime, in float32."""
    names = ["" if o is None else f"x{i}" for i, o in enumerate(operands)]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    present = [(n, *o) for n, o in zip(names, operands, strict=True) if o is not None]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape)
        for n, a, at_run_time in present
        if at_run_time
    ]
    initializers = [numpy_helper.from_array(a, n) for n, a, at_run_time in present if not at_run_time]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {n: a for n, a, at_run_time in present if at_run_time})[0])


def assert_imported(
    op_type: str, operands: Sequence[Operand], opset: int = 13, tolerance: float = 1e-4, **attributes: Any
) -> Graph:
    """Checks that the imported graph computes what onnxruntime does; returns it."""
    graph = import_node(op_type, operands, opset, **attributes)
    inputs = {f"x{i}": o[0] for i, o in enumerate(operands) if o is not None and o[1]}
    result = run(graph, inputs)[graph.outputs[0].name]
    expected = run_onnx(op_type, operands, opset, **attributes)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    return graph
