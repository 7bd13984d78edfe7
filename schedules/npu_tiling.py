"""What a product (convolution, dense, depthwise) is cut into: the parameters of its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import ceil

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from sim.config import NpuConfig

_WAITING = 16
MAX_COUNT = 4095  # rows, columns and outputs have 12 bits


class Fold(IntEnum):
    """Which part of the kernel counts as channels of the reduction, so that images of few channels fill the
    array.

    ROW: kernel_width neighbouring pixels, which lie one behind the other; pads then lie in the local image.
    WINDOW: the whole kernel; each local pixel holds the kernel_height pixels below one another that an
    output row sees.
    """

    NONE = 0
    ROW = 1
    WINDOW = 2


@dataclass(frozen=True, slots=True)
class Tiling:
    """rows x columns outputs by `outputs` channels are one product, or several of `reduction` channels each.

    whole_image: all channels that the stored ones need of the image are loaded at once. stored: channels
    whose results leave together, a multiple of `outputs`. weights_first: all tiles of the stored channels
    come before the next channels. blocks_shared: cores share blocks of channels, not tiles. image_engines,
    weight_engines: LOAD alone brings images and FETCH weights, or both do in turn. Slots by memory;
    accumulators: 1 or 2 of them.
    """

    fold: Fold
    rows: int
    columns: int
    outputs: int
    reduction: int
    whole_image: bool
    stored: int
    weights_first: bool
    blocks_shared: bool
    image_engines: int
    weight_engines: int
    accumulators: int
    image_slots: int
    image_slot_bytes: int
    result_slots: int
    result_slot_bytes: int
    weight_slots: int
    weight_slot_bytes: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What a tiling depends on. *_dram: where image, result, weights and parameters lie. weight_ratio: bytes
    of the compressed weights by those of the weights."""

    form: Convolution
    image_dram: bool
    result_dram: bool
    weight_ratio: float = 1.0
    constants_dram: bool = True

    @property
    def group_inputs(self) -> int:
        return self.form.in_channels // self.form.groups

    @property
    def group_outputs(self) -> int:
        """Output channels that blocks are made of: all channels of a depthwise layer are one group."""
        f = self.form
        return f.out_channels if f.depthwise else f.out_channels // f.groups

    @property
    def groups(self) -> int:
        return 1 if self.form.depthwise else self.form.groups


def waits_for_weights(form: Convolution, ratio: float, config: NpuConfig) -> bool:
    """Whether DRAM takes so much longer for a layer's weights than the array for its products that most of
    them cannot have come to SRAM (see schedules/npu_staging.py) before they are used. ratio: of `Shape`."""
    loading = form.out_channels * form.taps * form.weight.bits / 8 * ratio / config.dram.bytes_per_cycle
    return loading > _WAITING * form.macs / config.macs_per_cycle


def folded_taps(form: Convolution, fold: Fold) -> tuple[int, int]:
    """Positions of the kernel that are left, and how many channels each one of the image counts as."""
    height, width = form.kernel_height, form.kernel_width
    return {
        Fold.NONE: (height * width, 1),
        Fold.ROW: (height, width),
        Fold.WINDOW: (1, height * width),
    }[fold]


def folds_of(form: Convolution, lanes: int) -> list[Fold]:
    """Those that make the array's work less, none first. lanes: of the reduction."""
    found = [Fold.NONE]
    if form.depthwise or (form.dilation[1] > 1 and form.kernel_width > 1):
        return found
    if form.input is ElementType.B1:
        return found  # no code says that a pixel lies outside of the image
    channels = form.in_channels // form.groups

    def steps(fold: Fold) -> int:
        taps, by = folded_taps(form, fold)
        return taps * ceil(channels * by / lanes)

    for fold in (Fold.ROW, Fold.WINDOW):
        if steps(fold) < steps(found[-1]):
            found.append(fold)
    return found
