"""ONNX Resize and Upsample: coordinates of all modes and opsets, computed in float32 as onnxruntime does."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias, TypeVar

import numpy as np

from compiler.ir.graph import Value
from compiler.numerics.element import Array
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.layout import channels_first, channels_last
from compiler.ops.resize import ResizeBilinear, ResizeNearest

_E = TypeVar("_E", bound=Enum)
# Output extent of an axis, and output per input.
Scale: TypeAlias = tuple[int, np.float32]


class Coordinates(Enum):
    """How an output index becomes a place in the input."""

    HALF_PIXEL = "half_pixel"
    HALF_PIXEL_SYMMETRIC = "half_pixel_symmetric"
    PYTORCH_HALF_PIXEL = "pytorch_half_pixel"
    TF_HALF_PIXEL_FOR_NN = "tf_half_pixel_for_nn"
    ALIGN_CORNERS = "align_corners"
    ASYMMETRIC = "asymmetric"


class Rounding(Enum):
    """How a place becomes the nearest pixel."""

    ROUND_PREFER_FLOOR = "round_prefer_floor"
    ROUND_PREFER_CEIL = "round_prefer_ceil"
    FLOOR = "floor"
    CEIL = "ceil"


@imports("Resize", "Upsample")
def import_resize(node: OnnxNode) -> Results:
    """Two neighbouring axes of a tensor with three or four are resized; all others keep their extents."""
    x = node.value(0)
    scales = _scales(node, x)
    sizes = [size for size, _ in scales]
    changed = {d for d, size in enumerate(sizes) if size != x.type.shape[d] or scales[d][1] != 1}
    if not changed:
        return (x,)
    rank = x.type.rank
    if rank == 4 and changed <= {1, 2} and changed != {2}:
        return (_resize(node, x, scales[1:3]),)
    if rank not in (3, 4) or not changed <= {2, 3}:
        raise node.error(f"{x.type} is resized to {sizes}; only images of one or two axes are supported")
    # A single spatial axis is the width of an image of height 1.
    y = _resize(node, channels_last(node, x), scales[2:] if rank == 4 else [(1, np.float32(1)), scales[2]])
    return (channels_first(node, y, rank),)


def _resize(node: OnnxNode, x: Value, scales: list[Scale]) -> Value:
    """x [N, H, W, C] with output extent and scale of H and W."""
    extents = x.type.shape[1:3]
    places = [_places(node, n, size, scale) for n, (size, scale) in zip(extents, scales, strict=True)]
    match node.text("mode", "nearest"):
        case "nearest":
            rounded = [
                _nearest(node, p, n, scale) for p, n, (_, scale) in zip(places, extents, scales, strict=True)
            ]
            return node.emit(ResizeNearest(*rounded), x)
        case "linear" | "bilinear":
            downsized = any(scale < 1 for _, scale in scales)
            if node.integer("antialias", 0) and downsized:
                raise node.error("antialias is not supported", "pool before resizing")
            inside = [
                tuple(float(v) for v in np.clip(p, 0, n - 1)) for p, n in zip(places, extents, strict=True)
            ]
            return node.emit(ResizeBilinear(*inside), x)
        case mode:
            raise node.error(f'mode "{mode}" is not supported', "resize by mode nearest or linear")


def _scales(node: OnnxNode, x: Value) -> list[Scale]:
    """Output extent and scale of every axis."""
    shape = x.type.shape
    axes = [a % len(shape) for a in node.tuple_of("axes", range(len(shape)))]
    result: list[Scale] = [(extent, np.float32(1)) for extent in shape]
    scales = _scale_factors(node)
    if scales is not None:
        _check_length(node, "scales", len(scales), len(axes))
        for axis, scale in zip(axes, scales, strict=True):
            result[axis] = int(np.float32(shape[axis]) * scale), scale
        return result
    sizes = list(node.integers(3))
    _check_length(node, "sizes", len(sizes), len(axes))
    ratios = [np.float32(size) / np.float32(shape[axis]) for axis, size in zip(axes, sizes, strict=True)]
    match node.text("keep_aspect_ratio_policy", "stretch"):
        case "stretch":
            pairs = zip(sizes, ratios, strict=True)
        case "not_larger" | "not_smaller" as policy:
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            pairs = ((int(np.floor(ratio * shape[a] + np.float32(0.5))), ratio) for a in axes)
        case policy:
            raise node.error(f'keep_aspect_ratio_policy "{policy}" is unknown')
    for axis, pair in zip(axes, pairs, strict=True):
        result[axis] = pair
    return result


def _scale_factors(node: OnnxNode) -> Array | None:
    """The given scales, float32; None where sizes are given. Opset 7 has an attribute, 9 and 10 input 1."""
    if "scales" in node.attributes:
        return np.asarray(node.attributes["scales"], np.float32)
    found = node.array(1) if node.opset < 11 or node.op_type == "Upsample" else None
    if found is None and node.has(2):
        found = node.array(2)
    return None if found is None or not found.size else np.asarray(found, np.float32)


def _check_length(node: OnnxNode, name: str, length: int, wanted: int) -> None:
    if length != wanted:
        raise node.error(f"{length} {name} for {wanted} axes")


def _places(node: OnnxNode, extent: int, size: int, scale: np.float32) -> Array:
    """Where each output index lies in the input, float32, perhaps outside of it."""
    index, half = np.arange(size, dtype=np.float32), np.float32(0.5)
    if scale == 1:
        return index
    match _coordinates(node):
        case Coordinates.ASYMMETRIC:
            return index / scale
        case Coordinates.TF_HALF_PIXEL_FOR_NN:
            return (index + half) / scale
        case Coordinates.HALF_PIXEL:
            return (index + half) / scale - half
        case Coordinates.PYTORCH_HALF_PIXEL:
            return (index + half) / scale - half if size > 1 else np.zeros(1, np.float32)
        case Coordinates.ALIGN_CORNERS:
            return (
                index * np.float32(extent - 1) / np.float32(size - 1) if size > 1 else np.zeros(1, np.float32)
            )
        case Coordinates.HALF_PIXEL_SYMMETRIC:
            adjustment = np.float32(size) / (scale * np.float32(extent))
            offset = np.float32(extent) / 2 * (1 - adjustment)
            return offset + (index + half) / scale - half


def _coordinates(node: OnnxNode) -> Coordinates:
    if _is_early(node):
        return Coordinates.ASYMMETRIC
    return _known(node, "coordinate_transformation_mode", Coordinates, Coordinates.HALF_PIXEL)


def _nearest(node: OnnxNode, places: Array, extent: int, scale: np.float32) -> tuple[int, ...]:
    """The nearest pixel of each place. Before opset 11: floor, but ceil where the image shrinks."""
    if _is_early(node):
        mode = Rounding.CEIL if scale < 1 else Rounding.FLOOR
    else:
        mode = _known(node, "nearest_mode", Rounding, Rounding.ROUND_PREFER_FLOOR)
    match mode:
        case Rounding.FLOOR:
            rounded = np.floor(places)
        case Rounding.CEIL:
            rounded = np.ceil(places)
        case Rounding.ROUND_PREFER_FLOOR:
            rounded = np.ceil(places - np.float32(0.5))
        case Rounding.ROUND_PREFER_CEIL:
            rounded = np.floor(places + np.float32(0.5))
    return tuple(int(p) for p in np.clip(rounded, 0, extent - 1))


def _is_early(node: OnnxNode) -> bool:
    return node.opset < 11 or node.op_type == "Upsample"


def _known(node: OnnxNode, attribute: str, choices: type[_E], default: _E) -> _E:
    found = node.text(attribute, default.value)
    try:
        return choices(found)
    except ValueError:
        known = ", ".join(c.value for c in choices)
        raise node.error(f'{attribute} "{found}" is not supported', f"one of {known}") from None
