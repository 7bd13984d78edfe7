"""What MAC does: products of codes into int32 accumulators, exactly, by floating-point BLAS.

float32 holds sums below 2**24 exactly, float64 below 2**53, in any order of summation; no reduction
whose weights a core holds passes the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.numerics import convolve
from compiler.numerics.element import Array
from sim.functional.core import Core
from sim.functional.memory import ELEMENTS, Bytes, row_bytes, unpack_rows
from sim.isa import Depthwise, Engine, Gemm, Memory, Operands, Window


@dataclass(frozen=True, slots=True)
class _Weights:
    """values: float [taps, channels, outputs], of a depthwise product [taps, channels]; dtype: that holds all
    sums with the activations that they were made for."""

    values: Array
    dtype: np.dtype[Any]


def gemm(core: Core, i: Gemm) -> None:
    window, operands = core.get(Window, Engine.MAC), core.get(Operands, Engine.MAC)
    weights = _dense_weights(core, i, window, operands)
    patches = _patches(core, i, window, operands, weights.dtype)
    lines = patches.reshape(i.rows * i.columns, -1)
    _accumulate(core, i, lines @ weights.values.reshape(lines.shape[1], -1))


def depthwise(core: Core, i: Depthwise) -> None:
    window, operands = core.get(Window, Engine.MAC), core.get(Operands, Engine.MAC)
    weights = _depthwise_weights(core, i, window, operands)
    patches = _patches(core, i, window, operands, weights.dtype)
    kernel = weights.values.reshape(window.kernel_y, window.kernel_x, -1)
    _accumulate(core, i, np.einsum("yxijc,ijc->yxc", patches, kernel))


def _accumulate(core: Core, i: Gemm | Depthwise, products: Array) -> None:
    """products: whole numbers."""
    if products.dtype == np.float64:
        products = products.astype(np.int64)  # wraps on the way to int32, which floats do not
    sums = products.astype(np.int32).reshape(-1)
    if i.accumulate:
        sums += core.accumulators.read(i.acc, sums.size)
    core.accumulators.write(i.acc, sums)


def _dense_weights(core: Core, i: Gemm, window: Window, operands: Operands) -> _Weights:
    """Of the blocks of output lanes in the weight memory, zero point subtracted."""
    lanes = core.config.mac.output_lanes(operands.act_bits, operands.wgt_bits)
    rows = window.kernel_y * window.kernel_x * operands.channels
    bits = operands.wgt_bits
    whole, rest = divmod(i.outputs, lanes)
    widths = [lanes] * whole + [rest] * (rest > 0)
    size = rows * sum(row_bytes(n, bits) for n in widths)
    memory = core.local[Memory.WEIGHT]
    data = memory.read(i.wgt, (size,), (1,))

    def make(data: Array) -> _Weights:
        at, blocks = 0, list[Array]()
        for outputs in widths:
            end = at + rows * row_bytes(outputs, bits)
            blocks.append(unpack_rows(data[at:end].reshape(rows, -1), outputs, bits))
            at = end
        values = np.concatenate(blocks, axis=1).astype(np.int64) - operands.wgt_zero
        return _exact(values, operands, np.abs(values).sum(axis=0).max())

    return memory.derive(i.wgt, data, (i.outputs, rows, lanes, operands), make)


def _depthwise_weights(core: Core, i: Depthwise, window: Window, operands: Operands) -> _Weights:
    taps, channels, bits = window.kernel_y * window.kernel_x, operands.channels, operands.wgt_bits
    width = row_bytes(channels, bits)
    memory = core.local[Memory.WEIGHT]
    data = memory.read(i.wgt, (taps * width,), (1,))

    def make(data: Array) -> _Weights:
        values = unpack_rows(data.reshape(taps, width), channels, bits).astype(np.int64) - operands.wgt_zero
        return _exact(values, operands, np.abs(values).sum(axis=0).max())

    return memory.derive(i.wgt, data, (taps, operands), make)


def _exact(values: Array, operands: Operands, weight: int) -> _Weights:
    """weight: the largest sum of magnitudes that one result takes."""
    element = ELEMENTS[operands.act_bits]
    activation = max(element.high - operands.act_zero, operands.act_zero - element.low)
    dtype = np.dtype(np.float32 if weight * activation < 1 << 24 else np.float64)
    return _Weights(values.astype(dtype), dtype)


def _patches(
    core: Core, i: Gemm | Depthwise, window: Window, operands: Operands, dtype: np.dtype[Any]
) -> Array:
    """What each output sees, zero point subtracted: [rows, columns, kernel_y, kernel_x, channels]."""
    image = read_image(
        core.activation,
        i.act,
        seen_extent(window, i.rows, i.columns),
        (operands.row_stride, operands.pixel_stride),
        operands.channels,
        operands.act_bits,
    )
    zero = dtype.type(operands.act_zero)
    height, width = _needed(window, i.rows, i.columns)
    if image.shape[:2] == (height, width) and not (window.pad_top or window.pad_left):
        placed = np.subtract(image, zero, dtype=dtype)
    else:
        placed = np.zeros((height, width, operands.channels), dtype)
        np.subtract(image, zero, out=_inside(placed, image, window), dtype=dtype)
    row, column, channel = placed.strides
    shape = (i.rows, i.columns, window.kernel_y, window.kernel_x, operands.channels)
    steps = (row * window.stride_y, column * window.stride_x)
    taps = (row * window.dilation_y, column * window.dilation_x)
    return np.ndarray(shape, dtype, placed, 0, (*steps, *taps, channel))


def seen_extent(window: Window, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the image up to the last pixel that rows x columns outputs see; 0: none."""
    bottom, right = _needed(window, rows, columns)
    return (
        max(0, min(window.height, bottom - window.pad_top)),
        max(0, min(window.width, right - window.pad_left)),
    )


def _needed(window: Window, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the image, pads included, that rows x columns outputs look at."""
    return (
        (rows - 1) * window.stride_y + (window.kernel_y - 1) * window.dilation_y + 1,
        (columns - 1) * window.stride_x + (window.kernel_x - 1) * window.dilation_x + 1,
    )


def _inside(placed: Array, image: Array, window: Window) -> Array:
    """Where the image lies between its pads; of an image that is cut off to what is seen."""
    top, left = window.pad_top, window.pad_left
    return placed[top : top + image.shape[0], left : left + image.shape[1]]


def read_image(
    memory: Bytes, base: int, extent: tuple[int, int], strides: tuple[int, int], channels: int, bits: int
) -> Array:
    """Codes [height, width, channels] of an image; strides of rows and pixels in bytes."""
    height, width = extent
    if 0 in extent:
        return np.zeros((height, width, channels), np.int8)
    size = row_bytes(channels, bits)
    data = memory.read(base, (height, width, size), (*strides, 1))
    if bits == 8:
        return data.view(np.int8)
    return unpack_rows(data.reshape(-1, size), channels, bits).reshape(height, width, channels)


def placed_window(
    image: Array, window: Window, rows: int, columns: int, outside: int
) -> tuple[Array, convolve.Window]:
    """What rows x columns outputs look at, `outside` where it is not in the image, and the geometry that
    is left: no pads."""
    placed = np.full((*_needed(window, rows, columns), image.shape[2]), outside, image.dtype)
    _inside(placed, image, window)[...] = image
    geometry = convolve.Window(
        (window.kernel_y, window.kernel_x),
        (window.stride_y, window.stride_x),
        (window.dilation_y, window.dilation_x),
    )
    return placed, geometry
