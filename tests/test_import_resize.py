"""ONNX Resize and Upsample: the imported graph computes what onnxruntime does, or says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.ir.diagnostics import NodeError
from compiler.numerics.element import Array
from tests.onnx_nodes import Operand, assert_imported, computed, import_node, known

RNG = np.random.default_rng(0)
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
SCALES = [(2.0, 2.0), (1.5, 3.0), (0.5, 0.7), (1.0, 2.7)]


def image(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def floats(*numbers: float) -> Operand:
    return known(np.array(numbers, np.float32))


def integers(*numbers: int) -> Operand:
    return known(np.array(numbers, np.int64))


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("nearest_mode", NEAREST)
def test_nearest(scales: tuple[float, float], coordinates: str, nearest_mode: str) -> None:
    operands = [computed(image(1, 2, 6, 5)), None, floats(1, 1, *scales)]
    assert_imported(
        "Resize",
        operands,
        19,
        mode="nearest",
        coordinate_transformation_mode=coordinates,
        nearest_mode=nearest_mode,
    )


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_linear(scales: tuple[float, float], coordinates: str) -> None:
    operands = [computed(image(1, 2, 6, 5)), None, floats(1, 1, *scales)]
    assert_imported("Resize", operands, 19, mode="linear", coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("size", [(7, 11), (3, 5), (12, 10), (1, 1)])
@pytest.mark.parametrize("opset", [11, 13])
def test_sizes(mode: str, size: tuple[int, int], opset: int) -> None:
    operands = [computed(image(1, 2, 6, 5)), floats(), floats(), integers(1, 2, *size)]
    assert_imported("Resize", operands, opset, mode=mode)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_sizes_of_some_axes(policy: str) -> None:
    operands = [computed(image(1, 2, 6, 5)), None, None, integers(9, 10)]
    assert_imported("Resize", operands, 18, mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op_type", "opset"), [("Resize", 10), ("Upsample", 9)])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.5, 3.0), (1.0, 2.0)])
def test_early_opsets_take_scales_alone(
    mode: str, op_type: str, opset: int, scales: tuple[float, float]
) -> None:
    assert_imported(op_type, [computed(image(1, 2, 6, 5)), floats(1, 1, *scales)], opset, mode=mode)


def test_the_first_upsample_has_its_scales_as_an_attribute() -> None:
    assert_imported("Upsample", [computed(image(1, 2, 3, 4))], 7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])


def test_images_may_be_channels_last_or_have_one_axis() -> None:
    last = assert_imported("Resize", [computed(image(1, 6, 5, 2)), None, floats(1, 2, 2, 1)], mode="linear")
    assert [n.op.mnemonic for n in last.activations()] == ["resize_bilinear"]
    assert_imported("Resize", [computed(image(1, 2, 6)), None, floats(1, 1, 2.5)], mode="nearest")


def test_a_resize_to_the_same_size_is_none() -> None:
    graph = assert_imported("Resize", [computed(image(1, 2, 6, 5)), None, floats(1, 1, 1, 1)], mode="cubic")
    assert graph.nodes == []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "cubic"}, 'mode "cubic" is not supported'),
        ({"mode": "nearest", "coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
        ({"mode": "linear", "antialias": 1}, "antialias is not supported"),
    ],
)
def test_what_is_not_supported_says_so(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(NodeError, match=message):
        import_node("Resize", [computed(image(1, 2, 6, 5)), None, floats(1, 1, 0.5, 2)], 18, **attributes)
