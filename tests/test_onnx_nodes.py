"""The node tests of the onnx package, for every operator that has an importer.

A test's model is imported, run by the interpreter, and held against the outputs that onnx expects. Inputs
that are not float32 (shapes, axes) become constants; where the importer refuses the node for an input that
is computed, all inputs but the first become constants.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase

from compiler.frontend import Model, import_graph
from compiler.interpreter import run
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.ir.verifier import verify
from compiler.numerics.element import Array
from compiler.ops import IMPORTERS

# What the front end computes from shapes and constants, wherever it stands.
KNOWN_AT_IMPORT = ("Constant", "ConstantOfShape", "Shape", "Size", "Range")
# Where onnxruntime, which calibrates, computes other numbers than onnx's reference, we follow it.
LIKE_ONNXRUNTIME = {
    # onnx divides by the length before rounding, onnxruntime by the length that the output has.
    "test_resize_downsample_scales_linear_align_corners",
}
# One bit has no code for 0, which onnx's sign gives of 0: it counts as positive.
OF_ONE_BIT = {"test_sign"}
# Why importers may refuse a test. Each reason occurs; a refusal for any other reason is a loss.
REFUSALS = (
    r"\(AveragePool\): .* has 5 axes; one or two spatial axes are supported",
    r"\(MaxPool\): .* has 5 axes; one or two spatial axes are supported",
    r"\(MaxPool\): the output Indices is not supported",
    r"\(BatchNormalization\): the node updates its statistics",
    r"\(Dropout\): training_mode is true",
    'the output "z" is constant: it depends on no input',  # Dropout's mask, which is all true.
    r"\(Pow\): the exponent differs by element",
    r"\(Range\): this operator is not supported",
    r'\(Resize\): mode "cubic" is not supported',
    r'\(Resize\): coordinate_transformation_mode "tf_crop_and_resize" is not supported',
    r"\(Resize\): antialias is not supported",
    # Tensors without elements.
    r"\(clip\): the bounds .* are empty",
    r"\(Slice\): nothing is left of axis",
    r"\(Split\): parts of .* do not make axis",
    "the shapes of 1 of its inputs are not fixed",
)


def node_tests() -> list[TestCase]:
    """The tests of imported operators from float32 to float32, those written out as functions too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases()
    return [case for case in found if _is_ours(case.model)]


def _is_ours(model: onnx.ModelProto) -> bool:
    graph = model.graph
    if not graph.input or not graph.node:
        return False
    ends = (graph.input[0], graph.output[0])
    supported = all((n.domain, n.op_type) in IMPORTERS or n.op_type in KNOWN_AT_IMPORT for n in graph.node)
    return supported and all(e.type.tensor_type.elem_type == TensorProto.FLOAT for e in ends)


def imported(case: TestCase, arrays: dict[str, Array]) -> Graph:
    """Errors: BitloomError where the node is refused in both ways."""
    names = list(arrays)
    integers = [n for n in names if arrays[n].dtype != np.float32]
    try:
        return import_graph(_with_constants(case, arrays, integers))
    except BitloomError:
        return import_graph(_with_constants(case, arrays, names[1:]))


def _with_constants(case: TestCase, arrays: dict[str, Array], names: Iterable[str]) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    proto.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in names)
    return Model(Path(f"{case.name}.onnx"), proto)


def _arrays(infos: Iterable[onnx.ValueInfoProto], values: Iterable[Array | TensorProto]) -> dict[str, Array]:
    return {
        info.name: numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
        for info, value in zip(infos, values, strict=True)
    }


def difference(case: TestCase) -> str | None:
    """What is wrong with the outputs, None where nothing is. Errors: BitloomError for a refused node."""
    proto = case.model.graph
    for values, results in case.data_sets:
        arrays, expected = _arrays(proto.input, values), _arrays(proto.output, results)
        graph = imported(case, arrays)
        verify(graph)
        computed = run(graph, arrays)
        for name, array in expected.items():
            if computed[name].shape != array.shape:
                return f"{name} has the shape {computed[name].shape}, not {array.shape}"
            if not np.allclose(
                computed[name], array, rtol=case.rtol, atol=max(case.atol, 1e-6), equal_nan=True
            ):
                return f"{name} differs by {np.abs(computed[name] - array).max()}"
    return None


def test_nodes_compute_what_onnx_expects() -> None:
    refused: dict[str, str] = {}
    wrong: dict[str, str] = {}
    cases = node_tests()
    for case in cases:
        try:
            found = difference(case)
        except BitloomError as error:
            refused[case.name] = error.message
            continue
        if found is not None and case.name not in LIKE_ONNXRUNTIME | OF_ONE_BIT:
            wrong[case.name] = found
    reasons = {name: _reason(message) for name, message in refused.items()}
    print(f"{len(cases)} tests, {len(refused)} refused:", *Counter(reasons.values()).items(), sep="\n  ")
    assert wrong == {}
    assert {name: refused[name] for name, reason in reasons.items() if reason is None} == {}
    assert set(reasons.values()) == set(REFUSALS)
    assert len(cases) > 450 and len(refused) < 70


def _reason(message: str) -> str | None:
    return next((r for r in REFUSALS if re.search(r, message)), None)
