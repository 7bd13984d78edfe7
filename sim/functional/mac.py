"""What MAC does: products of codes into int32 accumulators, exactly, by floating-point BLAS."""

from __future__ import annotations

import numpy as np

from compiler.numerics import convolve
from compiler.numerics.convolve import integer_convolve
from compiler.numerics.element import Array
from sim.functional.core import Core
from sim.functional.memory import Bytes, row_bytes, unpack_rows
from sim.isa import Depthwise, Engine, Gemm, Memory, Operands, Window


def gemm(core: Core, i: Gemm) -> None:
    window, operands = core.get(Window, Engine.MAC), core.get(Operands, Engine.MAC)
    weight = _weights(core, i, window, operands)
    _accumulate(core, i, _products(core, i, window, operands, weight, 1), i.outputs)


def depthwise(core: Core, i: Depthwise) -> None:
    window, operands = core.get(Window, Engine.MAC), core.get(Operands, Engine.MAC)
    taps, channels = window.kernel_y * window.kernel_x, operands.channels
    width = row_bytes(channels, operands.wgt_bits)
    weight = core.local[Memory.WEIGHT].read_rows(i.wgt, taps, width, channels, operands.wgt_bits)
    weight = weight.T.reshape(channels, window.kernel_y, window.kernel_x, 1).astype(np.int64)
    weight -= operands.wgt_zero
    _accumulate(core, i, _products(core, i, window, operands, weight, channels), channels)


def _products(
    core: Core, i: Gemm | Depthwise, window: Window, operands: Operands, weight: Array, groups: int
) -> Array:
    """int64 [rows, columns, outputs]."""
    image = read_image(
        core.activation,
        i.act,
        seen_extent(window, i.rows, i.columns),
        (operands.row_stride, operands.pixel_stride),
        operands.channels,
        operands.act_bits,
    )
    centred = image.astype(np.int32) - operands.act_zero
    placed, geometry = placed_window(centred, window, i.rows, i.columns, 0)
    return integer_convolve(placed[None], weight, geometry, groups)[0]


def _accumulate(core: Core, i: Gemm | Depthwise, products: Array, outputs: int) -> None:
    if i.accumulate:
        held = core.accumulators.read(i.acc, i.rows * i.columns * outputs)
        products = products + held.reshape(products.shape)
    core.accumulators.write(i.acc, products)


def _weights(core: Core, i: Gemm, window: Window, operands: Operands) -> Array:
    """OHWI int64 of the blocks of output lanes in the weight memory, zero point subtracted."""
    lanes = core.config.mac.output_lanes(operands.act_bits, operands.wgt_bits)
    rows = window.kernel_y * window.kernel_x * operands.channels
    at, blocks = i.wgt, list[Array]()
    for first in range(0, i.outputs, lanes):
        outputs = min(lanes, i.outputs - first)
        width = row_bytes(outputs, operands.wgt_bits)
        block = core.local[Memory.WEIGHT].read(at, (rows, width), (width, 1))
        blocks.append(unpack_rows(block, outputs, operands.wgt_bits))
        at += rows * width
    weight = np.concatenate(blocks, axis=1).astype(np.int64) - operands.wgt_zero
    return weight.T.reshape(i.outputs, window.kernel_y, window.kernel_x, operands.channels)


def seen_extent(window: Window, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the image up to the last pixel that rows x columns outputs see; 0: none."""
    bottom = (rows - 1) * window.stride_y + (window.kernel_y - 1) * window.dilation_y + 1 - window.pad_top
    right = (columns - 1) * window.stride_x + (window.kernel_x - 1) * window.dilation_x + 1 - window.pad_left
    return max(0, min(window.height, bottom)), max(0, min(window.width, right))


def read_image(
    memory: Bytes, base: int, extent: tuple[int, int], strides: tuple[int, int], channels: int, bits: int
) -> Array:
    """Codes [height, width, channels] of an image; strides of rows and pixels in bytes."""
    height, width = extent
    if 0 in extent:
        return np.zeros((height, width, channels), np.int8)
    size = row_bytes(channels, bits)
    data = memory.read(base, (height, width, size), (*strides, 1))
    return unpack_rows(data.reshape(-1, size), channels, bits).reshape(height, width, channels)


def placed_window(
    image: Array, window: Window, rows: int, columns: int, outside: int
) -> tuple[Array, convolve.Window]:
    """What rows x columns outputs look at, `outside` where it is not in the image, and the geometry that
    is left: no pads."""
    needed = (
        (rows - 1) * window.stride_y + (window.kernel_y - 1) * window.dilation_y + 1,
        (columns - 1) * window.stride_x + (window.kernel_x - 1) * window.dilation_x + 1,
    )
    placed = np.full((*needed, image.shape[2]), outside, image.dtype)
    top, left = window.pad_top, window.pad_left
    inside = image[: max(0, needed[0] - top), : max(0, needed[1] - left)]
    placed[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    geometry = convolve.Window(
        (window.kernel_y, window.kernel_x),
        (window.stride_y, window.stride_x),
        (window.dilation_y, window.dilation_x),
    )
    return placed, geometry
