"""Constants of a convolution of bipolar codes in the order in which its kernel reads them.

Weights: for each panel of a micro-tile's channels, [segment, word, vector, lane] words of 32 bits, as the
activations lie; bits that stand for no product are 0.
Bias: what the kernel takes twice the number of differing bits from. For a result of b1 it is halved, the
floor of it: the code is 1 where the number of differing bits is at most that, a threshold.
Borders: taps outside the image count as real 0, but their bits in scratch are 0 like those of -1. What
they add is known: -w for each weight w. A border is a set of kernel rows or columns that lie outside; every
pair of them has a bias of its own, which gives back the sum of those weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.element import Array, ElementType
from schedules.binary_geometry import WORD
from schedules.bits import pack_bits
from schedules.convolution_geometry import Geometry
from schedules.convolution_packing import panel_vectors


def pack_weight_bits(weight: Array, g: Geometry, lanes: int, vectors: int) -> Array:
    """int8 bytes of codes [out_channels, kernel_height, kernel_width, in_channels]."""
    panels = panel_vectors(g.group_outputs, lanes, vectors)
    table = np.zeros((sum(panels) * lanes, g.segments, g.steps * WORD), np.uint8)
    table[: g.group_outputs, :, : g.run] = pack_bits(weight).reshape(g.group_outputs, g.segments, g.run)
    # [vector, lane, segment, word, byte] -> [vector, segment, word, lane, byte]
    split = table.reshape(sum(panels), lanes, g.segments, g.steps, WORD).transpose(0, 2, 3, 1, 4)
    ends = np.cumsum(panels)
    parts = [split[end - n : end].transpose(1, 2, 0, 3, 4) for n, end in zip(panels, ends, strict=True)]
    return np.concatenate([part.reshape(-1) for part in parts]).view(np.int8)


def borders(form: Convolution, axis: int) -> tuple[tuple[int, ...], ...]:
    """For each output row (axis 0) or column (axis 1): the kernel rows or columns that lie outside."""
    size = (form.in_height, form.in_width)[axis]
    kernel = (form.kernel_height, form.kernel_width)[axis]
    stride, dilation, pad = form.stride[axis], form.dilation[axis], form.pad[axis]
    extent = (form.out_height, form.out_width)[axis]
    return tuple(
        tuple(k for k in range(kernel) if not 0 <= at * stride + k * dilation - pad < size)
        for at in range(extent)
    )


def border_offsets(form: Convolution, width: int) -> Array:
    """int32, for each output row and then each column: the two add up to the place of the pixel's biases, of
    `width` lanes for each pair of borders."""
    rows, columns = borders(form, 0), borders(form, 1)
    row_kinds, column_kinds = list(dict.fromkeys(rows)), list(dict.fromkeys(columns))
    by_row = [row_kinds.index(r) * len(column_kinds) * width for r in rows]
    by_column = [column_kinds.index(c) * width for c in columns]
    return np.array([*by_row, *by_column], np.int32)


def border_count(form: Convolution) -> int:
    """Pairs of borders, that of pixels inside included."""
    return len(set(borders(form, 0))) * len(set(borders(form, 1)))


def biases(constants: Mapping[str, Array], form: Convolution) -> Array:
    """int32 [pairs of borders, out_channels]; one pair where nothing is padded."""
    weight = constants["weight"].astype(np.int64)
    whole = constants["bias"].astype(np.int64) + form.taps
    found: list[Array] = []
    for rows in dict.fromkeys(borders(form, 0)):
        for columns in dict.fromkeys(borders(form, 1)):
            outside = np.zeros(weight.shape[1:3], bool)
            outside[list(rows), :] = True
            outside[:, list(columns)] = True
            found.append(whole + weight[:, outside].sum(axis=(1, 2)))
    result = np.stack(found)
    if form.output is ElementType.B1:
        result = _thresholds(result, constants["parameters"])
    return result.astype(np.uint32).view(np.int32)  # modulo 2**32, as the kernel computes


def _thresholds(bias: Array, parameters: Array) -> Array:
    """Largest number of differing bits for which the code is +1; the clamp leaves one code or both."""
    _, _, low, high = (int(v) for v in parameters)
    limits = np.iinfo(np.int32)
    threshold = np.clip(bias >> 1, -1, limits.max)
    if low > 0:
        return np.full_like(threshold, limits.max)
    return np.full_like(threshold, -1) if high < 0 else threshold


def pack_biases(constants: Mapping[str, Array], form: Convolution, width: int) -> Array:
    """Flat int32 [pairs of borders, width]."""
    known = biases(constants, form)
    table = np.zeros((len(known), width), np.int32)
    table[:, : form.out_channels] = known
    return table.reshape(-1)
