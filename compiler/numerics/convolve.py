"""Convolution and matrix products of arrays: exact on integers by way of floating-point BLAS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compiler.numerics.element import Array


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a sliding window over height and width; pads: top, left, bottom, right."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Output extent; 0 or less where the window does not fit once."""
        extents = (height + self.pads[0] + self.pads[2], width + self.pads[1] + self.pads[3])
        h, w = (
            (e - d * (k - 1) - 1) // s + 1
            for e, d, k, s in zip(extents, self.dilation, self.kernel, self.stride, strict=True)
        )
        return h, w


def integer_matmul(a: Array, b: Array) -> Array:
    """a @ b of integer arrays as int64, exactly, by BLAS.

    float32 holds sums below 2**24 exactly, float64 below 2**53, in any order of summation.
    Errors: ValueError where the worst case passes 2**53.
    """
    bound = a.shape[-1] * _magnitude(a) * _magnitude(b)
    if bound >= 1 << 53:
        raise ValueError(f"sums up to {bound} are not exact in float64")
    dtype = np.float32 if bound < 1 << 24 else np.float64
    return np.matmul(a.astype(dtype), b.astype(dtype)).astype(np.int64)


def integer_convolve(x: Array, weight: Array, window: Window, groups: int) -> Array:
    """`convolve` of integer arrays as int64, exactly (see `integer_matmul`)."""
    bound = int(np.prod(weight.shape[1:])) * _magnitude(x) * _magnitude(weight)
    if bound >= 1 << 53:
        raise ValueError(f"sums up to {bound} are not exact in float64")
    dtype = np.float32 if bound < 1 << 24 else np.float64
    return convolve(x.astype(dtype), weight.astype(dtype), window, groups).astype(np.int64)


def convolve(x: Array, weight: Array, window: Window, groups: int) -> Array:
    """NHWC by OHWI convolution with zero padding, in the arrays' floating type.

    x [N, H, W, C]; weight [O, KH, KW, C / groups]; result [N, OH, OW, O]. One matrix product per tap:
    no copy of the input per tap (im2col), which keeps large images in memory.
    """
    top, left, bottom, right = window.pads
    out_h, out_w = window.output(x.shape[1], x.shape[2])
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    result = np.zeros((x.shape[0], out_h, out_w, weight.shape[0]), x.dtype)
    for i, j, tap in taps(x, window):
        result += _tap(tap, weight[:, i, j, :], groups)
    return result


def taps(x: Array, window: Window) -> Iterator[tuple[int, int, Array]]:
    """Row and column in the kernel, and what the window sees there: views [N, OH, OW, C] of the padded x."""
    out_h, out_w = Window(window.kernel, window.stride, window.dilation).output(x.shape[1], x.shape[2])
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            row, column = i * window.dilation[0], j * window.dilation[1]
            rows = slice(row, row + (out_h - 1) * window.stride[0] + 1, window.stride[0])
            columns = slice(column, column + (out_w - 1) * window.stride[1] + 1, window.stride[1])
            yield i, j, x[:, rows, columns, :]


def _tap(x: Array, weight: Array, groups: int) -> Array:
    """x [N, H, W, C] times weight [O, C / groups] within each group of channels."""
    if groups == 1:
        return x @ weight.T
    per_group = weight.shape[0] // groups
    if weight.shape[1] == 1:
        repeated = x if per_group == 1 else np.repeat(x, per_group, axis=-1)
        return repeated * weight[:, 0]
    grouped = x.reshape(*x.shape[:-1], groups, -1).swapaxes(-2, 0)  # groups first: a batch of products
    blocks = weight.reshape(groups, per_group, -1).swapaxes(-1, -2)
    product = grouped @ blocks.reshape(groups, *(1,) * (grouped.ndim - 3), *blocks.shape[1:])
    return product.swapaxes(-2, 0).reshape(*x.shape[:-1], -1)


def _magnitude(x: Array) -> int:
    return max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0
