"""ONNX pooling and reductions: the imported graph computes what onnxruntime does, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.ir.diagnostics import NodeError
from compiler.ir.types import quantized
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.reduction import Mean
from tests.onnx_nodes import assert_imported, computed, import_node, known

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 0], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 2], "auto_pad": "VALID", "strides": [2, 2]},
]


@pytest.mark.parametrize("window", [*WINDOWS, {"kernel_shape": [2, 2], "dilations": [2, 3]}])
def test_max_pool(window: dict[str, Any]) -> None:
    assert_imported("MaxPool", [computed(normal(2, 3, 8, 9))], 12, **window)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("opset", [11, 19])
def test_average_pool(window: dict[str, Any], count_include_pad: int, opset: int) -> None:
    attributes = {**window, "count_include_pad": count_include_pad}
    assert_imported("AveragePool", [computed(normal(2, 3, 8, 9))], opset, **attributes)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pooling_over_one_axis(op_type: str) -> None:
    window: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}
    assert_imported(op_type, [computed(normal(2, 3, 8))], 11, **window)


def test_the_indices_of_max_pool_are_refused() -> None:
    with pytest.raises(NodeError, match="the output Indices is not supported"):
        import_node("MaxPool", [computed(normal(1, 1, 4, 4))], 12, outputs=2, kernel_shape=[2, 2])


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 5)])
def test_global_pools(op_type: str, shape: tuple[int, ...]) -> None:
    assert_imported(op_type, [computed(normal(*shape))])


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum", "ReduceMax"])
@pytest.mark.parametrize("axes", [None, [1], [-1], [2, 3], [0, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reductions(op_type: str, axes: list[int] | None, keepdims: int, opset: int) -> None:
    operands = [computed(normal(2, 3, 4, 5))]
    attributes: dict[str, Any] = {"keepdims": keepdims}
    if axes is not None and opset >= (13 if op_type == "ReduceSum" else 18):
        operands.append(known(np.array(axes, np.int64)))
    elif axes is not None:
        attributes["axes"] = axes
    assert_imported(op_type, operands, opset, **attributes)


def test_no_axes_may_mean_no_reduction() -> None:
    assert_imported("ReduceSum", [computed(normal(2, 3))], 13, noop_with_empty_axes=1)


def test_a_long_mean_of_wide_codes_stays_exact_to_a_step() -> None:
    """2**17 codes of 16 bits at their extreme pass int32 sixteen-fold."""
    of = QuantizedType(ElementType.I16, Quantization((0.5,), -32768))
    type_ = quantized((1 << 17, 1), of)
    (result,) = Mean((0,), to=of).reference([type_], [np.full(type_.shape, 32767, np.int16)])
    assert result.item() == 32767
