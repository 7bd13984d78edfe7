"""ONNX Conv, MatMul and Gemm: the imported graph computes what onnxruntime does, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.ir.diagnostics import NodeError
from compiler.numerics.element import Array
from tests.onnx_nodes import Operand, assert_imported, computed, import_node, known

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 1], "pads": [0, 1, 2, 3], "dilations": [1, 2]},
        {"group": 2, "pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID"},
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_conv(attributes: dict[str, Any], biased: bool) -> None:
    weight = normal(6, 4 // attributes.get("group", 1), 3, 2)
    operands = [computed(normal(2, 4, 7, 9)), known(weight)] + [known(normal(6))] * biased
    assert_imported("Conv", operands, **attributes)


@pytest.mark.parametrize("attributes", [{}, {"pads": [2, 0], "strides": [2]}, {"auto_pad": "SAME_LOWER"}])
def test_conv_over_one_axis_runs_at_height_1(attributes: dict[str, Any]) -> None:
    graph = assert_imported("Conv", [computed(normal(2, 3, 11)), known(normal(5, 3, 4))], **attributes)
    (conv,) = [n for n in graph.nodes if n.op.mnemonic == "conv2d"]
    assert conv.inputs[0].type.shape[1] == 1


def test_conv_with_computed_weights_is_refused_by_name() -> None:
    with pytest.raises(NodeError, match=r'node "the Conv" \(Conv\): input 1 must be a constant, but %x1'):
        import_node("Conv", [computed(normal(1, 3, 5, 5)), computed(normal(2, 3, 3, 3))], 13)


def test_conv_over_three_axes_is_refused() -> None:
    with pytest.raises(NodeError, match="5 axes; one or two spatial axes are supported"):
        import_node("Conv", [computed(normal(1, 3, 5, 5, 5)), known(normal(2, 3, 3, 3, 3))], 13)


def test_conv_of_other_channels_names_both_sides() -> None:
    with pytest.raises(NodeError, match=r"input f32\[1,5,5,3\] has C=3, weight f32\[2,3,3,4\] wants 4"):
        import_node("Conv", [computed(normal(1, 3, 5, 5)), known(normal(2, 4, 3, 3))], 13)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (computed(normal(3, 4)), known(normal(4, 5))),
        (computed(normal(2, 3, 4)), known(normal(4, 5))),
        (computed(normal(2, 3, 4)), known(normal(1, 4, 5))),
        (computed(normal(4)), known(normal(4, 5))),
        (computed(normal(3, 4)), known(normal(4))),
        (known(normal(3, 4)), computed(normal(4, 5))),
        (known(normal(4)), computed(normal(2, 4, 5))),
        (known(normal(3, 4)), computed(normal(2, 4, 5))),
    ],
)
def test_matmul_by_a_constant_matrix_is_a_dense_layer(a: Operand, b: Operand) -> None:
    graph = assert_imported("MatMul", [a, b])
    assert "dense" in {n.op.mnemonic for n in graph.nodes}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (computed(normal(3, 4)), computed(normal(4, 5))),
        (computed(normal(2, 1, 3, 4)), computed(normal(5, 4, 2))),
        (computed(normal(4)), computed(normal(4))),
        (computed(normal(4)), computed(normal(2, 4, 5))),
        (computed(normal(2, 3, 4)), computed(normal(4))),
        (computed(normal(3, 4)), known(normal(2, 4, 5))),
        (known(normal(2, 3, 4)), computed(normal(4))),
        (known(normal(3, 4)), computed(normal(4))),
    ],
)
def test_other_matmuls_are_matrix_products(a: Operand, b: Operand) -> None:
    graph = assert_imported("MatMul", [a, b])
    assert "matmul" in {n.op.mnemonic for n in graph.nodes}


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, normal(5), normal(1, 5), normal(1)])
@pytest.mark.parametrize("known_index", [0, 1])
def test_gemm(trans_a: int, trans_b: int, bias: Array | None, known_index: int) -> None:
    matrices = [normal(*((4, 3) if trans_a else (3, 4))), normal(*((5, 4) if trans_b else (4, 5)))]
    operands = [known(m) if i == known_index else computed(m) for i, m in enumerate(matrices)]
    if bias is not None:
        operands.append(known(bias if known_index == 1 or bias.size == 1 else normal(3, 1)))
    assert_imported("Gemm", operands, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)


def test_gemm_of_two_computed_matrices() -> None:
    operands = [computed(normal(4, 3)), computed(normal(4, 5))]
    assert_imported("Gemm", operands, transA=1, alpha=0.5)


@pytest.mark.parametrize("at_run_time", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (3, 1), (5,), ()])
@pytest.mark.parametrize("known_index", [0, 1, None])
def test_gemm_adds_what_is_no_bias(
    at_run_time: bool, shape: tuple[int, ...], known_index: int | None
) -> None:
    operands = [computed(normal(3, 4)), computed(normal(4, 5))]
    if known_index is not None:
        operands[known_index] = known(normal(*((3, 4) if known_index == 0 else (4, 5))))
    c = normal(*shape)
    assert_imported("Gemm", [*operands, computed(c) if at_run_time else known(c)], alpha=0.5, beta=2.0)


def test_gemm_of_a_bias_that_does_not_fit_names_both_shapes() -> None:
    operands = [computed(normal(3, 4)), known(normal(4, 5)), known(normal(4))]
    with pytest.raises(NodeError, match=r"C \[4\] does not broadcast to \[3, 5\]"):
        import_node("Gemm", operands, 13)


def test_a_matmul_of_other_sizes_names_both_sides() -> None:
    with pytest.raises(NodeError, match=r"has K=4, weight .* has K=6"):
        import_node("MatMul", [computed(normal(3, 4)), known(normal(6, 5))], 13)
