"""Sliding windows at import: strides, dilations, pads and auto_pad of an ONNX node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.ir.graph import Value
from compiler.numerics.convolve import Window
from compiler.ops.importing import OnnxNode


def import_window(node: OnnxNode, x: Value, kernel: Sequence[int]) -> Window:
    """The node's window over x [N, H, W, C]; with one spatial axis, that axis is W and H is 1.

    Errors: NodeError for negative pads, for lists of the wrong length, and for an unknown auto_pad.
    """
    spatial = len(kernel)
    if spatial not in (1, 2):
        raise node.error(f"a window over {spatial} axes; one or two spatial axes are supported")
    stride = _per_axis(node, "strides", spatial, (1,) * spatial)
    dilation = _per_axis(node, "dilations", spatial, (1,) * spatial)
    extents = x.type.shape[3 - spatial : 3]
    match node.text("auto_pad", "NOTSET"):
        case "NOTSET":
            pads = _per_axis(node, "pads", 2 * spatial, (0,) * 2 * spatial)
        case "VALID":
            pads = (0,) * 2 * spatial
        case "SAME_UPPER":
            pads = _same(extents, kernel, stride, dilation, upper=True)
        case "SAME_LOWER":
            pads = _same(extents, kernel, stride, dilation, upper=False)
        case other:
            raise node.error(f'auto_pad "{other}" is unknown', "NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    if min(pads) < 0:
        raise node.error(f"negative pads {list(pads)}", "crop with a Slice in front of the node")
    if spatial == 1:
        return Window((1, kernel[0]), (1, stride[0]), (1, dilation[0]), (0, pads[0], 0, pads[1]))
    return Window(
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (dilation[0], dilation[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )


def _per_axis(node: OnnxNode, name: str, length: int, default: tuple[int, ...]) -> tuple[int, ...]:
    found = node.tuple_of(name, default)
    if len(found) != length:
        raise node.error(f"{name} {list(found)} has {len(found)} entries, not {length}")
    return found


def _same(
    extents: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    upper: bool,
) -> tuple[int, ...]:
    """Pads (all begins, then all ends) that give ceil(extent / stride) outputs; the odd one goes to the
    end where `upper`."""
    totals = [
        max((-(-e // s) - 1) * s + d * (k - 1) + 1 - e, 0)
        for e, k, s, d in zip(extents, kernel, stride, dilation, strict=True)
    ]
    halves, rests = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*halves, *rests) if upper else (*rests, *halves)


def with_partial_windows(window: Window, height: int, width: int) -> Window:
    """The window of ceil_mode: further pads at the end, so that a last window which begins inside the
    image (or the pads before it) is computed even where it does not fit."""
    pads = list(window.pads)
    for axis, extent in enumerate((height, width)):
        kernel, stride = window.kernel[axis], window.stride[axis]
        reach = window.dilation[axis] * (kernel - 1) + 1
        begin, end = window.pads[axis], window.pads[axis + 2]
        count = -(-(extent + begin + end - reach) // stride) + 1
        if (count - 1) * stride >= extent + begin:
            count -= 1
        pads[axis + 2] = max(end, (count - 1) * stride + reach - extent - begin)
    return replace(window, pads=(pads[0], pads[1], pads[2], pads[3]))
