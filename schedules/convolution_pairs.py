"""8-bit weights for VPMADDUBSW, exactly: steps that cannot saturate come first, the others another way.

The instruction adds two products of unsigned activations a and signed weights w in 16 bits, saturating. A
step of four products per lane is *direct* in a panel where no pair of its weights, in any lane, can leave
16 bits: positive weights of a pair sum to at most 128, negative ones to at least -128, because
128 * 255 = 32640. Such pairs are most of them; large weights are rare.

Any other step takes magnitudes |w| as the unsigned operand and a ^ flip as the signed one, where flip is
0x80 for w >= 0 and 0x7f for w < 0. As a signed byte, a ^ 0x80 is a - 128 and a ^ 0x7f is 127 - a, both in
[-128, 127], and 2 * 127 * 128 = 32512 fits. The sum of |w| * (a ^ flip) falls short of that of w * a by
128 * w for w >= 0 and 127 * w for w < 0: the bias takes it. That costs one instruction more than a direct
step, as much as VPMADDWD on 16-bit operands.

Packed per panel: direct steps [step, vector, lane, product], then the others
[step, vector, (magnitudes, flips), lane, product]. The table of a panel holds the byte where its weights
begin, the number of direct steps, and for each step, in that order, where its activations stand relative to
those of the first tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from compiler.numerics.element import Array
from schedules.convolution_geometry import Geometry
from schedules.convolution_packing import panel_vectors, split_weights

_LARGEST_SUM = 128


class StepTable(IntEnum):
    """Columns of a panel's row of the table; offsets fill it from FIRST_STEP on."""

    WEIGHTS = 0
    DIRECT_STEPS = 1
    FIRST_STEP = 2


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """weight: int8 bytes. steps: int32 table. bias: what the bias of each channel gains, int64."""

    weight: Array
    steps: Array
    bias: Array


def table_width(g: Geometry) -> int:
    return StepTable.FIRST_STEP + g.segments * g.steps


def is_direct(weights: Array) -> Array:
    """Of int8 [step, …, product], which steps VPMADDUBSW sums exactly whatever the activations."""
    pairs = weights.astype(np.int64).reshape(len(weights), -1, 2)
    above, below = np.maximum(pairs, 0).sum(2), np.minimum(pairs, 0).sum(2)
    return np.all((above <= _LARGEST_SUM) & (below >= -_LARGEST_SUM), axis=1)


def pack_pairs(weight: Array, g: Geometry, row_pitch: int, lanes: int, vectors: int) -> PackedPairs:
    """weight: codes [out_channels, kernel_height, kernel_width, in_channels / groups]; row_pitch: elements
    between the rows that the kernel reads."""
    counts = panel_vectors(g.group_outputs, lanes, vectors)
    offsets = _step_offsets(g, row_pitch)
    parts: list[Array] = []
    rows: list[Array] = []
    gains: list[Array] = []
    end = 0
    for group in split_weights(weight, g, lanes, vectors):
        first = 0
        gain: list[Array] = []
        for count in counts:
            # [vector, segment, step, lane, product] -> [step, vector, lane, product]
            panel = group[first : first + count].reshape(count, -1, lanes, g.dot.products).swapaxes(0, 1)
            first += count
            direct = is_direct(panel)
            packed = np.concatenate([panel[direct].ravel(), _flipped(panel[~direct]).ravel()])
            order = np.concatenate([offsets[direct], offsets[~direct]])
            rows.append(np.array([end, np.count_nonzero(direct), *order]))
            parts.append(packed)
            gain.append(_shortfall(panel[~direct]).ravel())
            end += packed.size
        gains.append(np.concatenate(gain)[: g.group_outputs])
    return PackedPairs(np.concatenate(parts), np.concatenate(rows).astype(np.int32), np.concatenate(gains))


def _step_offsets(g: Geometry, row_pitch: int) -> Array:
    """Elements from the first tap's activations to those of each step, in order of segments and steps."""
    row = np.arange(g.segment_rows) * g.form.dilation[0] * row_pitch
    column = np.arange(g.segment_columns) * g.form.dilation[1] * g.pixel_pitch
    step = np.arange(g.steps) * g.dot.products
    return (row[:, None, None] + column[:, None] + step).ravel()


def _flipped(panel: Array) -> Array:
    """Magnitudes and flips of [step, vector, lane, product], as a new axis behind vectors."""
    magnitudes = np.abs(panel)
    flips = np.where(panel < 0, 0x7F, 0x80).astype(np.uint8).view(np.int8)
    return np.stack([magnitudes, flips], axis=2)


def _shortfall(panel: Array) -> Array:
    """What the flipped steps leave out, [vector, lane]."""
    wide = panel.astype(np.int64)
    return (np.where(wide < 0, 127, 128) * wide).sum(axis=(0, 3))


def with_bias(constants: Mapping[str, Array], gain: Array) -> dict[str, Array]:
    """The constants with a bias that has `gain` added, modulo 2**32."""
    bias = (constants["bias"].astype(np.int64) + gain).astype(np.uint32).view(np.int32)
    return {**constants, "bias": bias}
