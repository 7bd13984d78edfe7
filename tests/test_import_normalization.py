"""ONNX Softmax and BatchNormalization: the imported graph computes what onnxruntime does, or says why not."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.ir.diagnostics import NodeError
from compiler.numerics.element import Array
from tests.onnx_nodes import Operand, assert_imported, computed, import_node, known

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def statistics(channels: int) -> list[Operand]:
    scale, bias, mean = (known(normal(channels)) for _ in range(3))
    return [scale, bias, mean, known(np.abs(normal(channels)))]


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1, -2])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax(axis: int | None, opset: int) -> None:
    attributes = {} if axis is None else {"axis": axis}
    assert_imported("Softmax", [computed(normal(2, 3, 4, 5))], opset, 1e-5, **attributes)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (2, 3)])
@pytest.mark.parametrize("opset", [8, 9, 15])
def test_batch_normalization(shape: tuple[int, ...], opset: int) -> None:
    assert_imported("BatchNormalization", [computed(normal(*shape)), *statistics(3)], opset, epsilon=0.01)


def test_batch_normalization_in_training_is_refused() -> None:
    with pytest.raises(NodeError, match="updates its statistics"):
        import_node("BatchNormalization", [computed(normal(2, 3, 4, 5)), *statistics(3)], 15, training_mode=1)
