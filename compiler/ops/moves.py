"""ONNX import of operators that move elements: they become reshapes, transposes and slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from compiler.ir.graph import Value
from compiler.ir.types import Shape
from compiler.numerics.element import Array
from compiler.ops.importing import OnnxNode, Results, imports
from compiler.ops.layout import channels_first, channels_last
from compiler.ops.operands import reals
from compiler.ops.shape import Reshape, Transpose
from compiler.ops.slicing import Broadcast, Concat, Gather, Pad, PadMode, Slice

# Codes of TensorProto.DataType: float, float16, double, bfloat16.
_FLOATS = frozenset({1, 10, 11, 16})


@imports("Identity")
def import_identity(node: OnnxNode) -> Results:
    return [node.value(0)]


@imports("Dropout")
def import_dropout(node: OnnxNode) -> Results:
    """The input; the mask, which some exporters name and nobody reads, is all true."""
    if node.has(2) and bool(np.any(node.array(2))):
        raise node.error("training_mode is true", "export the model for inference")
    x = node.value(0)
    return [x, np.ones(x.type.shape, np.bool_)][: len(node.outputs)]


@imports("Cast")
def import_cast(node: OnnxNode) -> Results:
    if node.integer("to") not in _FLOATS:
        raise node.error("a computed tensor is cast to integers or booleans", "keep the tensor in float32")
    return [node.value(0)]


@imports("Reshape")
def import_reshape(node: OnnxNode) -> Results:
    """0 copies an extent (unless allowzero), one -1 takes what is left."""
    x, wanted = node.value(0), list(node.integers(1))
    if not node.integer("allowzero", 0):
        if any(n == 0 and d >= x.type.rank for d, n in enumerate(wanted)):
            raise node.error(f"shape {wanted} copies an axis that {x.type} does not have")
        wanted = [x.type.shape[d] if n == 0 else n for d, n in enumerate(wanted)]
    if wanted.count(-1) == 1:
        rest = math.prod(n for n in wanted if n != -1)
        wanted = [x.type.count // max(rest, 1) if n == -1 else n for n in wanted]
    if min(wanted, default=0) < 0 or math.prod(wanted) != x.type.count:
        raise node.error(f"cannot reshape {x.type} to {wanted}")
    return [_reshaped(node, x, wanted)]


@imports("Flatten")
def import_flatten(node: OnnxNode) -> Results:
    x, axis = node.value(0), node.integer("axis", 1)
    shape = x.type.shape
    axis += len(shape) if axis < 0 else 0
    return [_reshaped(node, x, (math.prod(shape[:axis]), math.prod(shape[axis:])))]


@imports("Squeeze")
def import_squeeze(node: OnnxNode) -> Results:
    x = node.value(0)
    given = _given_axes(node)
    if given is None:
        return [_reshaped(node, x, [n for n in x.type.shape if n != 1])]
    axes = _axes(node, given, x.type.rank)
    if any(x.type.shape[a] != 1 for a in axes):
        raise node.error(f"axes {list(axes)} of {x.type} are not all of extent 1")
    return [_reshaped(node, x, [n for d, n in enumerate(x.type.shape) if d not in axes])]


@imports("Unsqueeze")
def import_unsqueeze(node: OnnxNode) -> Results:
    x, given = node.value(0), _given_axes(node)
    if given is None:
        raise node.error("the axes are missing")
    axes = _axes(node, given, x.type.rank + len(given))
    rest = iter(x.type.shape)
    return [_reshaped(node, x, [1 if d in axes else next(rest) for d in range(x.type.rank + len(axes))])]


@imports("Transpose")
def import_transpose(node: OnnxNode) -> Results:
    x = node.value(0)
    permutation = node.tuple_of("perm", range(x.type.rank)[::-1])
    return [x if permutation == tuple(range(x.type.rank)) else node.emit(Transpose(permutation), x)]


@imports("Concat")
def import_concat(node: OnnxNode) -> Results:
    values = [node.value(i) for i in range(len(node.inputs))]
    (axis,) = _axes(node, (node.integer("axis"),), values[0].type.rank)
    return values if len(values) == 1 else [node.emit(Concat(axis), *values)]


@imports("Split")
def import_split(node: OnnxNode) -> Results:
    """All parts, also those that nobody reads: `node.outputs` ends with the last that is read."""
    x = node.value(0)
    (axis,) = _axes(node, (node.integer("axis", 0),), x.type.rank)
    sizes = _split_sizes(node, x.type.shape[axis])
    if len(sizes) < len(node.outputs) or sum(sizes) != x.type.shape[axis] or min(sizes) <= 0:
        raise node.error(f"parts of {list(sizes)} do not make axis {axis} of {x.type}")
    ends = accumulate(sizes)
    return [_sliced(node, x, {axis: range(end - size, end)}) for size, end in zip(sizes, ends, strict=True)]


def _split_sizes(node: OnnxNode, extent: int) -> tuple[int, ...]:
    """An attribute before opset 13, an input since; absent, the parts are equal, but for a shorter last one
    (their number is an attribute since opset 18)."""
    if node.has(1):
        return node.integers(1)
    if "split" in node.attributes:
        return node.tuple_of("split")
    parts = node.integer("num_outputs", len(node.outputs))
    size = -(-extent // parts)
    return (*[size] * (parts - 1), extent - size * (parts - 1))


@imports("Slice")
def import_slice(node: OnnxNode) -> Results:
    """Attributes before opset 10, inputs since; bounds clamp as in Python."""
    x = node.value(0)
    if node.opset < 10:
        starts, ends = node.tuple_of("starts"), node.tuple_of("ends")
        given, steps = node.tuple_of("axes", range(len(starts))), (1,) * len(starts)
    else:
        starts, ends = node.integers(1), node.integers(2)
        given = node.integers(3) if node.has(3) else tuple(range(len(starts)))
        steps = node.integers(4) if node.has(4) else (1,) * len(starts)
    axes = _axes(node, given, x.type.rank)
    ranges = {
        axis: range(*slice(start, end, step).indices(x.type.shape[axis]))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    if empty := [axis for axis, r in ranges.items() if len(r) == 0]:
        raise node.error(f"nothing is left of axis {empty[0]} of {x.type}")
    return [_sliced(node, x, ranges)]


@imports("Pad")
def import_pad(node: OnnxNode) -> Results:
    """Pads are an attribute before opset 11, an input since; negative ones cut."""
    x, mode = node.value(0), node.text("mode", "constant")
    if mode not in {m.value for m in PadMode}:
        raise node.error(f'mode "{mode}" is not supported; {", ".join(m.value for m in PadMode)} are')
    pads, value = _pads_and_value(node)
    given = node.integers(3) if node.has(3) else tuple(range(x.type.rank))
    axes = _axes(node, given, x.type.rank)
    before, after = [0] * x.type.rank, [0] * x.type.rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    cut = {
        d: range(max(-b, 0), n - max(-a, 0))
        for d, (b, n, a) in enumerate(zip(before, x.type.shape, after, strict=True))
        if min(b, a) < 0
    }
    x = _sliced(node, x, cut)
    low, high = tuple(max(b, 0) for b in before), tuple(max(a, 0) for a in after)
    return [node.emit(Pad(low, high, PadMode(mode), value), x) if any(low + high) else x]


def _pads_and_value(node: OnnxNode) -> tuple[tuple[int, ...], float]:
    if node.opset < 11:
        return node.tuple_of("pads"), node.number("value", 0.0)
    value = float(reals(node, node.array(2)).item()) if node.has(2) and np.size(node.array(2)) else 0.0
    return node.integers(1), value


@imports("Expand")
def import_expand(node: OnnxNode) -> Results:
    x, wanted = node.value(0), node.integers(1)
    try:
        shape = np.broadcast_shapes(x.type.shape, wanted)
    except ValueError:
        raise node.error(f"{x.type} cannot be broadcast to {list(wanted)}") from None
    return [x if shape == x.type.shape else node.emit(Broadcast(shape), x)]


@imports("Tile")
def import_tile(node: OnnxNode) -> Results:
    """[a, b] repeated (r, s) times is [1, a, 1, b] broadcast to [r, a, s, b]."""
    x, repeats = node.value(0), node.integers(1)
    shape = x.type.shape
    apart = [n for extent in shape for n in (1, extent)]
    spread = tuple(n for pair in zip(repeats, shape, strict=True) for n in pair)
    result = node.emit(Broadcast(spread), _reshaped(node, x, apart))
    return [_reshaped(node, result, [r * n for r, n in zip(repeats, shape, strict=True)])]


@imports("Gather")
def import_gather(node: OnnxNode) -> Results:
    x, indices = node.value(0), np.asarray(node.array(1), np.int64)
    (axis,) = _axes(node, (node.integer("axis", 0),), x.type.rank)
    extent = x.type.shape[axis]
    if indices.size == 0 or indices.min() < -extent or indices.max() >= extent:
        raise node.error(f"indices leave axis {axis} of {x.type}")
    flat: Array = np.where(indices < 0, indices + extent, indices).reshape(-1)
    taken = node.emit(Gather(axis, tuple(int(i) for i in flat)), x)
    shape = x.type.shape[:axis] + indices.shape + x.type.shape[axis + 1 :]
    return [_reshaped(node, taken, shape)]


@imports("DepthToSpace")
def import_depth_to_space(node: OnnxNode) -> Results:
    """Channels are [block, block, C] (mode DCR) or [C, block, block] (CRD)."""
    x, block = channels_last(node, node.value(0)), node.integer("blocksize")
    n, h, w, channels = x.type.shape
    depth = channels // block**2
    if depth * block**2 != channels:
        raise node.error(f"{channels} channels do not divide into blocks of {block} x {block}")
    if node.text("mode", "DCR") == "DCR":
        x = node.emit(Reshape((n, h, w, block, block, depth)), x)
        x = node.emit(Transpose((0, 1, 3, 2, 4, 5)), x)
    else:
        x = node.emit(Reshape((n, h, w, depth, block, block)), x)
        x = node.emit(Transpose((0, 1, 4, 2, 5, 3)), x)
    return [channels_first(node, _reshaped(node, x, (n, h * block, w * block, depth)))]


@imports("SpaceToDepth")
def import_space_to_depth(node: OnnxNode) -> Results:
    x, block = channels_last(node, node.value(0)), node.integer("blocksize")
    n, h, w, channels = x.type.shape
    if h % block or w % block:
        raise node.error(f"{h} x {w} does not divide into blocks of {block} x {block}")
    x = node.emit(Reshape((n, h // block, block, w // block, block, channels)), x)
    order = (0, 1, 3, 5, 2, 4) if node.text("mode", "DCR") == "CRD" else (0, 1, 3, 2, 4, 5)
    x = node.emit(Transpose(order), x)
    shape = (n, h // block, w // block, block * block * channels)
    return [channels_first(node, _reshaped(node, x, shape))]


def _reshaped(node: OnnxNode, x: Value, shape: Sequence[int]) -> Value:
    wanted = tuple(shape)
    return x if wanted == x.type.shape else node.emit(Reshape(wanted), x)


def _sliced(node: OnnxNode, x: Value, ranges: dict[int, range]) -> Value:
    """The elements at `ranges` of the given axes, and all of the others."""
    shape: Shape = x.type.shape
    every = [ranges.get(d, range(n)) for d, n in enumerate(shape)]
    if all(r == range(n) for r, n in zip(every, shape, strict=True)):
        return x
    begin, step = tuple(r.start for r in every), tuple(r.step for r in every)
    return node.emit(Slice(begin, tuple(len(r) for r in every), step), x)


def _given_axes(node: OnnxNode) -> tuple[int, ...] | None:
    """Axes of Squeeze and Unsqueeze: an attribute before opset 13, an input since."""
    if node.opset < 13:
        return node.tuple_of("axes") if "axes" in node.attributes else None
    return node.integers(1) if node.has(1) else None


def _axes(node: OnnxNode, given: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front. Errors: NodeError for one that a tensor of `rank` does not have."""
    if any(not -rank <= a < rank for a in given):
        raise node.error(f"axes {list(given)} of a tensor with {rank} axes")
    return tuple(a % rank for a in given)
