"""Between ONNX's channels-first tensors and the IR's channels-last ones, at import.

Importers of spatial operators wrap them in transposes; the layout pass cancels those that meet.
"""

from __future__ import annotations

from compiler.ir.graph import Value
from compiler.ops.importing import OnnxNode
from compiler.ops.shape import Reshape, Transpose


def channels_last(node: OnnxNode, x: Value) -> Value:
    """[N, C, H, W] -> [N, H, W, C]; [N, C, L] -> [N, 1, L, C].

    Errors: NodeError for other ranks.
    """
    if x.type.rank == 3:
        n, channels, length = x.type.shape
        x = node.emit(Reshape((n, channels, 1, length)), x)
    if x.type.rank != 4:
        raise node.error(f"{x.type} has {x.type.rank} axes; one or two spatial axes are supported")
    return node.emit(Transpose((0, 2, 3, 1)), x)


def channels_first(node: OnnxNode, x: Value, rank: int = 4) -> Value:
    """[N, H, W, C] -> [N, C, H, W], or [N, 1, L, C] -> [N, C, L] for rank 3."""
    x = node.emit(Transpose((0, 3, 1, 2)), x)
    if rank == 3:
        n, channels, _, length = x.type.shape
        x = node.emit(Reshape((n, channels, length)), x)
    return x
