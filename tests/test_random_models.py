"""Random ONNX models through the whole compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import bitloom
from bitloom.verification import verify
from compiler.driver import Imported, QuantizeOptions, import_float, quantize_imported
from compiler.frontend import import_graph, load_model
from compiler.interpreter import run
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.lowering.program import lower_program
from compiler.numerics.element import Array, ElementType
from compiler.ops import OPS
from compiler.quantize.calibration_run import tensor_stream
from tests.onnx_models import save
from tests.program_executor import Executor, ReferencePlan
from tests.random_models import onnx_models
from tests.rounding import assert_rounded
from tests.test_random_graphs import steps

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
Sample = dict[str, Array]


def random_samples(graph: Graph, count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        {v.name: rng.normal(size=v.type.shape).astype(np.float32) for v in graph.inputs} for _ in range(count)
    ]


def assert_close(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        limit = 1e-4 * max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=limit, err_msg=name)


def imported(proto: onnx.ModelProto) -> Imported:
    with tempfile.TemporaryDirectory() as folder:
        return import_float(save(proto, Path(folder)))


@settings(ANY, max_examples=100)
@given(onnx_models())
def test_import_and_float_passes_keep_the_meaning(proto: onnx.ModelProto) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(save(proto, Path(folder)))
    graph = import_graph(model)
    after = imported(proto)
    names = [v.name for v in graph.outputs]
    assert [v.name for v in after.graph.outputs] == names
    (sample,) = random_samples(graph, 1, 0)
    (expected,) = tensor_stream(model, names, [sample])
    assert_close(run(graph, sample), expected)
    assert_close(run(after.graph, sample), expected)


@settings(ANY, max_examples=100)
@given(onnx_models(), st.sampled_from([ElementType.I8, ElementType.I8, ElementType.I16]))
def test_a_quantized_model_means_what_its_operators_mean(
    proto: onnx.ModelProto, element: ElementType
) -> None:
    model = imported(proto)
    samples = random_samples(model.graph, 3, 1)
    names = [v.name for v in model.graph.outputs]
    graph = quantize_imported(model, samples, QuantizeOptions(activations=element)).graph
    assert [v.name for v in graph.outputs] == names
    assert graph_text(parse_graph(graph_text(graph), OPS)) == graph_text(graph)
    sample = samples[0]
    for node, operands, results in steps(graph, sample):
        if any(v.type.element is not ElementType.F32 for v in (*node.inputs, *node.outputs)):
            assert_rounded(node.op, [v.type for v in node.inputs], operands, results)
    expected = run(graph, sample)
    found = Executor(lower_program(graph, ReferencePlan)).run(sample)
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def check_compiled(proto: onnx.ModelProto) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = save(proto, folder)
        samples = random_samples(import_graph(load_model(path)), 3, 2)
        artifact = bitloom.compile(path, calibration=samples, output=folder / "out", cache=False)
        for threads in (1, 2):
            assert verify(artifact.path, samples, threads=threads)


@settings(ANY, max_examples=3, phases=[Phase.generate], database=None)
@given(onnx_models())
def test_a_model_compiles_and_equals_the_interpreter(proto: onnx.ModelProto) -> None:
    check_compiled(proto)


@pytest.mark.slow
@settings(ANY, max_examples=200, phases=[Phase.generate], database=None)
@given(onnx_models())
def test_many_models_compile_and_equal_the_interpreter(proto: onnx.ModelProto) -> None:
    check_compiled(proto)
