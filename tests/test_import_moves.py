"""ONNX operators that move elements: the imported graph computes what onnxruntime does, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.interpreter import run
from compiler.ir.diagnostics import NodeError
from compiler.numerics.element import Array
from tests.onnx_nodes import Operand, assert_imported, computed, import_node, known

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*numbers: int) -> Operand:
    return known(np.array(numbers, np.int64))


@pytest.mark.parametrize("shape", [(24,), (0, -1), (2, 0, 4), (-1, 2, 3), (4, 6, 1)])
def test_reshape(shape: tuple[int, ...]) -> None:
    assert_imported("Reshape", [computed(normal(2, 3, 4)), ints(*shape)])


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
def test_flatten(axis: int) -> None:
    assert_imported("Flatten", [computed(normal(2, 3, 4))], 13, axis=axis)


def test_squeeze_and_unsqueeze_take_axes_as_attribute_and_as_input() -> None:
    x = computed(normal(1, 3, 1, 4))
    assert_imported("Squeeze", [x], 11)
    assert_imported("Squeeze", [x], 11, axes=[2])
    assert_imported("Squeeze", [x, ints(0, -2)], 13)
    assert_imported("Unsqueeze", [x], 11, axes=[0, 3])
    assert_imported("Unsqueeze", [x, ints(-1, 1)], 13)


def test_transpose() -> None:
    assert_imported("Transpose", [computed(normal(2, 3, 4))])
    assert_imported("Transpose", [computed(normal(2, 3, 4))], perm=[1, 0, 2])


@pytest.mark.parametrize("axis", [0, 2, -2])
def test_concat(axis: int) -> None:
    shapes = [[2, 3, 4] for _ in range(3)]
    shapes[1][axis] = 1
    operands = [computed(normal(*shapes[0])), known(normal(*shapes[1])), computed(normal(*shapes[2]))]
    assert_imported("Concat", operands, 13, axis=axis)


INT_MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1, 0), (3, 2), None, None),
        ((1, -3), (INT_MAX, -1), (2, 0), None),
        ((-1,), (-INT_MAX - 1,), (1,), (-1,)),
        ((0, 6), (100, 0), (0, -1), (2, -3)),
    ],
)
def test_slice(starts: Any, ends: Any, axes: Any, steps: Any) -> None:
    operands = [computed(normal(5, 6, 7)), ints(*starts), ints(*ends)]
    operands += [None if a is None else ints(*a) for a in (axes, steps)]
    while operands[-1] is None:
        operands.pop()
    assert_imported("Slice", operands)


def test_slice_by_attributes() -> None:
    assert_imported("Slice", [computed(normal(5, 6))], 9, starts=[1, -2], ends=[4, 100])
    assert_imported("Slice", [computed(normal(5, 6))], 9, starts=[1], ends=[-1], axes=[1])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pad(mode: str) -> None:
    x = computed(normal(4, 5))
    assert_imported("Pad", [x], 10, pads=[1, 2, 3, 0], mode=mode)
    assert_imported("Pad", [x, ints(1, 2, 3, 0)], 13, mode=mode)
    assert_imported("Pad", [x, ints(0, 2), None, ints(-1)], 18, mode=mode)


def test_pad_with_a_value_and_negative_pads() -> None:
    x = computed(normal(4, 5))
    assert_imported("Pad", [x], 10, pads=[1, 2, 3, 0], value=0.5)
    assert_imported("Pad", [x, ints(1, -2, -1, 1), known(np.array(0.5, np.float32))])


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1), (5, 2, 3, 4), (3, 4)])
def test_expand(shape: tuple[int, ...]) -> None:
    assert_imported("Expand", [computed(normal(3, 1)), ints(*shape)])


def test_tile() -> None:
    assert_imported("Tile", [computed(normal(2, 1, 3)), ints(3, 2, 2)])


@pytest.mark.parametrize("indices", [1, -1, [2, 0, -1], [[0, 1], [3, 3]]])
@pytest.mark.parametrize("axis", [0, -2])
def test_gather(indices: Any, axis: int) -> None:
    assert_imported("Gather", [computed(normal(4, 5, 3)), known(np.array(indices))], axis=axis)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    assert_imported("DepthToSpace", [computed(normal(2, 12, 3, 4))], 13, blocksize=2, mode=mode)


def test_space_to_depth() -> None:
    assert_imported("SpaceToDepth", [computed(normal(2, 3, 4, 6))], 13, blocksize=2)


def test_identity_cast_and_dropout_are_their_inputs() -> None:
    x = computed(normal(2, 3))
    for graph in (
        import_node("Identity", [x], 13),
        import_node("Cast", [x], 13, to=1),
        import_node("Dropout", [x], 7, ratio=0.3),
        import_node("Dropout", [x, known(np.array(0.5, np.float32)), known(np.array(False))], 13),
    ):
        assert graph.outputs == graph.inputs and not graph.nodes


@pytest.mark.parametrize(
    ("opset", "read", "inputs", "attributes", "sizes"),
    [
        (11, 2, [], {"split": [3, 4]}, [3, 4]),
        (13, 3, [ints(1, 4, 2)], {}, [1, 4, 2]),
        (18, 3, [], {"num_outputs": 3}, [3, 3, 1]),
        (13, 1, [ints(1, 4, 2)], {}, [1, 4, 2]),
        (13, 1, [], {}, [7]),
    ],
)
def test_split(
    opset: int, read: int, inputs: list[Operand], attributes: dict[str, Any], sizes: list[int]
) -> None:
    x = np.tile(np.arange(7, dtype=np.float32), (2, 1))
    graph = import_node("Split", [computed(x), *inputs], opset, outputs=read, axis=1, **attributes)
    results = run(graph, {"x0": x})
    parts = [results[v.name] for v in graph.outputs]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), x)
    assert [p.shape[1] for p in parts] == sizes


def test_what_is_refused_says_why() -> None:
    x = computed(normal(2, 3))
    refused: list[tuple[str, str, list[Operand], dict[str, Any]]] = [
        ("Cast", "cast to integers", [x], {"to": 7}),
        ("Dropout", "training_mode is true", [x, None, known(np.array(True))], {}),
        ("Reshape", r"cannot reshape f32\[2,3\] to \[4, 2\]", [x, ints(4, 2)], {}),
        ("Reshape", "copies an axis", [x, ints(6, 1, 0)], {}),
        ("Slice", "nothing is left of axis 1", [x, ints(5), ints(9), ints(1)], {}),
        ("Pad", 'mode "wrap" is not supported', [x, ints(0, 0, 1, 1)], {"mode": "wrap"}),
        ("Pad", "cannot reflect 3 elements of axis 1", [x, ints(0, 3, 0, 0)], {"mode": "reflect"}),
        ("Gather", "indices leave axis 0", [x, ints(2)], {}),
        ("Gather", "input 1 must be a constant", [x, x], {}),
        ("Expand", "cannot be broadcast", [x, ints(2, 4)], {}),
        ("Concat", "the other extents differ", [x, computed(normal(3, 3))], {"axis": 1}),
        ("Squeeze", "not all of extent 1", [x, ints(0)], {}),
        ("Split", "do not make axis 0", [x, ints(2, 2)], {}),
        ("Unsqueeze", r"axes \[4\] of a tensor with 3 axes", [x, ints(4)], {}),
    ]
    for op_type, message, operands, attributes in refused:
        with pytest.raises(NodeError, match=f'"the {op_type}".*{message}'):
            import_node(op_type, operands, 13, **attributes)
