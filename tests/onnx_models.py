"""Small ONNX models for tests of the front end, and the comparison of a graph with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend import Model, import_graph
from compiler.interpreter import run
from compiler.ir.graph import Graph
from compiler.ir.verifier import verify
from compiler.numerics.element import Array
from compiler.quantize.calibration_run import tensor_stream

Extents = Sequence[int | str | None]


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """inputs and outputs: names with spaces between them."""
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Extents | None],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def save(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def assert_equals_onnxruntime(model: Model, seed: int = 0, relative: float = 1e-4) -> Graph:
    """Holds every tensor of the imported graph, not only its outputs, beside onnxruntime's."""
    graph = import_graph(model)
    verify(graph)
    rng = np.random.default_rng(seed)
    sample = {v.name: rng.uniform(-1, 1, v.type.shape).astype(np.float32) for v in graph.inputs}
    ours: dict[str, Array] = {}
    run(graph, sample, lambda value, array: ours.update({value.name: array}))
    named = [v.name for v in graph.values() if v.source == v.name and v.constant is None]
    assert {v.name for v in graph.outputs} <= set(named)
    (theirs,) = tensor_stream(model, named, [sample])
    for name in named:
        bound = relative * max(float(np.abs(theirs[name]).max(initial=0)), 1e-6)
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=bound, err_msg=name)
    return graph
