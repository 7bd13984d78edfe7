"""ONNX element-wise operators: the imported graph computes what onnxruntime does, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.ir.diagnostics import NodeError
from compiler.numerics.element import Array
from compiler.ops.activation import Clip
from tests.onnx_nodes import assert_imported, computed, import_node, known

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def scalar(x: float) -> Array:
    return np.array(x, np.float32)


def mnemonics(graph: Any) -> list[str]:
    return [n.op.mnemonic for n in graph.activations()]


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Min", "Max"])
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 1, 4))])
@pytest.mark.parametrize("constant", [None, 0, 1])
def test_two_operands_broadcast(
    op_type: str, shapes: tuple[tuple[int, ...], ...], constant: int | None
) -> None:
    operands = [(known if i == constant else computed)(normal(*s)) for i, s in enumerate(shapes)]
    graph = assert_imported(op_type, operands, 8)
    for node in graph.activations():
        if node.op.mnemonic != "reshape":
            assert {v.type.rank for v in node.inputs} == {3}


@pytest.mark.parametrize("op_type", ["Sum", "Min", "Max"])
def test_many_operands(op_type: str) -> None:
    assert_imported(op_type, [computed(normal(2, 3)), computed(normal(3)), computed(normal(2, 1))], 13)


def test_the_same_tensor_twice() -> None:
    graph = import_node("Pow", [computed(normal(2, 3)), known(scalar(2))], 13)
    (node,) = graph.activations()
    assert node.inputs[0] is node.inputs[1]


def test_a_bound_by_a_known_number_is_a_clip() -> None:
    graph = assert_imported("Min", [computed(normal(2, 3)), known(scalar(0.5))])
    assert mnemonics(graph) == ["clip"]


def test_division_by_a_constant_is_a_product() -> None:
    graph = assert_imported("Div", [computed(normal(2, 3)), known(scalar(0.3))])
    assert mnemonics(graph) == ["mul"]


def test_a_number_divided_by_a_tensor_is_a_function() -> None:
    graph = assert_imported("Div", [known(scalar(0.3)), computed(normal(2, 3))])
    assert mnemonics(graph) == ["unary"]


@pytest.mark.parametrize("exponent", [1, 2, 3, 0.5, -1, -0.7])
def test_powers(exponent: float) -> None:
    assert_imported("Pow", [computed(np.abs(normal(2, 3)) + 0.1), known(scalar(exponent))])


def test_what_is_refused_says_why() -> None:
    x = computed(normal(2, 3))
    with pytest.raises(NodeError, match=r'"the Div".*divisor is a constant with zeros'):
        import_node("Div", [x, known(np.zeros(3, np.float32))], 13)
    with pytest.raises(NodeError, match=r'"the Pow".*input 1 must be a constant, but %x1 is computed'):
        import_node("Pow", [x, x], 13)
    with pytest.raises(NodeError, match="exponent differs by element"):
        import_node("Pow", [x, known(normal(3))], 13)
    with pytest.raises(NodeError, match=r"f32\[2,3\] and f32\[1,4\] cannot be broadcast"):
        import_node("Add", [x, known(normal(4))], 13)
    with pytest.raises(NodeError, match="int64 tensors are not supported as data"):
        import_node("Add", [x, known(np.arange(3))], 13)
    with pytest.raises(NodeError, match='approximate = "sine" is unknown'):
        import_node("Gelu", [x], 20, approximate="sine")


PLAIN = [
    ("Abs", 13, {}),
    ("Neg", 13, {}),
    ("Relu", 7, {}),
    ("Relu", 14, {}),
    ("LeakyRelu", 7, {}),
    ("LeakyRelu", 16, {"alpha": 0.3}),
    ("Sigmoid", 13, {}),
    ("Tanh", 13, {}),
    ("HardSigmoid", 7, {}),
    ("HardSigmoid", 7, {"alpha": 0.25, "beta": 0.4}),
    ("HardSwish", 14, {}),
    ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}),
    ("Erf", 13, {}),
    ("Exp", 13, {}),
    ("Reciprocal", 13, {}),
    ("Elu", 7, {}),
    ("Elu", 7, {"alpha": 0.5}),
    ("Celu", 12, {"alpha": 0.7}),
    ("Selu", 7, {}),
    ("Softplus", 7, {}),
    ("Softsign", 7, {}),
    ("Mish", 18, {}),
    ("Sin", 7, {}),
    ("Cos", 7, {}),
]


@pytest.mark.parametrize(("op_type", "opset", "attributes"), PLAIN)
def test_functions_of_one_number(op_type: str, opset: int, attributes: dict[str, Any]) -> None:
    assert_imported(op_type, [computed(normal(2, 3, 4) * 3)], opset, **attributes)


@pytest.mark.parametrize("op_type", ["Log", "Sqrt"])
def test_functions_of_positive_numbers(op_type: str) -> None:
    assert_imported(op_type, [computed(np.abs(normal(2, 3)))], 13)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1,), (1, 3, 1, 1)])
def test_slopes_per_channel(shape: tuple[int, ...]) -> None:
    assert_imported("PRelu", [computed(normal(2, 3, 4, 5)), known(normal(*shape))], 9)


def test_clip_takes_bounds_from_attributes_and_inputs() -> None:
    x = computed(normal(3, 4) * 3)
    assert_imported("Clip", [x], 7, min=-0.5, max=2.0)
    assert_imported("Clip", [x], 10, max=2.0)
    for bounds in ([known(scalar(-1)), known(scalar(1))], [known(scalar(-1))], [None, known(scalar(1))], []):
        assert_imported("Clip", [x, *bounds], 13)


def test_clip_reads_the_largest_float_as_no_bound() -> None:
    graph = import_node("Clip", [computed(normal(3))], 6, min=0.0, max=3.4028234663852886e38)
    assert [n.op for n in graph.activations()] == [Clip(0.0)]
