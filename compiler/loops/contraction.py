"""Runs convolutions in numpy: what the docstring of `Convolution` says, without a target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.convolve import Window, convolve
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import requantize


def evaluate_convolution(form: Convolution, x: Array, constants: Mapping[str, Array]) -> Array:
    """The output [N, OH, OW, O] of a form, in float64 (sums stay below 2**53)."""
    zero_in, zero_out, low, high = (int(p) for p in constants["parameters"])
    x = x.reshape(form.batch, form.in_height, form.in_width, form.in_channels)
    kernel = (form.kernel_height, form.kernel_width)
    needed = [
        (out - 1) * s + d * (k - 1) + 1
        for out, s, d, k in zip(
            (form.out_height, form.out_width), form.stride, form.dilation, kernel, strict=True
        )
    ]
    pads = (*form.pad, needed[0] - form.in_height - form.pad[0], needed[1] - form.in_width - form.pad[1])
    # A stride may leave rows at the bottom unread: negative padding.
    x = x[:, : x.shape[1] + min(pads[2], 0), : x.shape[2] + min(pads[3], 0)]
    window = Window(kernel, form.stride, form.dilation, (pads[0], pads[1], max(pads[2], 0), max(pads[3], 0)))
    weight = constants["weight"].reshape(form.out_channels, *kernel, form.in_channels // form.groups)
    products = convolve(x.astype(np.float64) - zero_in, weight.astype(np.float64), window, form.groups)
    accumulator = products.astype(np.int64) + constants["bias"]
    if form.output is ElementType.B1:
        return np.clip(np.where(accumulator >= 0, 1, -1), low, high).astype(np.int8)
    if not form.requantizes:
        return accumulator.astype(np.int32)
    codes = requantize(accumulator, constants["multiplier"], constants["shift"], zero_out, low, high)
    return codes.astype(form.output.dtype)
