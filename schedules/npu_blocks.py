"""Output channels of a product in blocks, the reduction in pieces, and constants as products read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import numpy as np

from compiler.loops.form import Convolution
from compiler.numerics.element import Array
from schedules.npu_tiling import Fold, Tiling
from sim.compression import deflate
from sim.config import NpuConfig
from sim.functional.memory import pack_rows
from sim.parameters import pack_parameters

_T = TypeVar("_T")
_NO_RESCALE = (1 << 30, 30)  # multiplier and shift where nothing is rescaled: sums, or their signs
_SAMPLE = 4096  # weights of a row, and an eighth of the bytes, that tell how well all can be compressed
Key = tuple[int, int]  # first channel of a block, first channel of a piece


@dataclass(frozen=True, slots=True)
class Block:
    """Output channels [first, first + count), from channels of the image that begin at `input`."""

    first: int
    count: int
    input: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Weights that are fetched at once. offsets: where each product's begin; bytes: of all."""

    key: Key
    offsets: Mapping[Key, int]
    bytes: int


def blocks_of(form: Convolution, tiling: Tiling) -> list[Block]:
    if form.depthwise:
        starts = range(0, form.out_channels, tiling.outputs)
        return [Block(o, min(tiling.outputs, form.out_channels - o), o) for o in starts]
    inputs, outputs = form.in_channels // form.groups, form.out_channels // form.groups
    return [
        Block(g * outputs + o, min(tiling.outputs, outputs - o), g * inputs)
        for g in range(form.groups)
        for o in range(0, outputs, tiling.outputs)
    ]


def blocks_of_core(form: Convolution, tiling: Tiling, core: int, cores: int) -> list[Block]:
    blocks = blocks_of(form, tiling)
    return share(blocks, core, cores) if tiling.blocks_shared else blocks


def share(items: list[_T], core: int, cores: int) -> list[_T]:
    return items[len(items) * core // cores : len(items) * (core + 1) // cores]


def groups_of(blocks: Sequence[Block], capacity: int) -> list[list[Block]]:
    """Neighbouring blocks together, as many as have no more than `capacity` channels."""
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and block.first + block.count - groups[-1][0].first <= capacity:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def pieces_of(form: Convolution, tiling: Tiling) -> list[tuple[int, int]]:
    """Begin and length of each piece of the reduction's channels."""
    if form.depthwise:
        return [(0, 1)]
    channels = form.in_channels // form.groups
    return [(c, min(tiling.reduction, channels - c)) for c in range(0, channels, tiling.reduction)]


def units_of(form: Convolution, tiling: Tiling, blocks: Sequence[Block], config: NpuConfig) -> list[Unit]:
    """Weights in the order of their use, as many together as fill a slot."""
    ends = {g[-1].first for g in groups_of(blocks, tiling.stored)} if tiling.weights_first else set[int]()
    units: list[Unit] = []
    items: dict[Key, int] = {}
    size = 0

    def close() -> None:
        nonlocal items, size
        if items:
            units.append(Unit(next(iter(items)), items, size))
        items, size = {}, 0

    for block in blocks:
        for first, count in pieces_of(form, tiling):
            more = weight_bytes(form, block.count, count, config)
            if size + more > tiling.weight_slot_bytes:
                close()
            items[block.first, first] = size
            size += more
        if block.first in ends:
            close()
    close()
    return units


def weight_bytes(form: Convolution, outputs: int, channels: int, config: NpuConfig) -> int:
    """Of one product."""
    taps, bits = form.kernel_height * form.kernel_width, form.weight.bits
    if form.depthwise:
        return taps * _packed(outputs, bits)
    lanes = config.mac.output_lanes(form.input.bits, bits)
    whole, rest = divmod(outputs, lanes)
    return taps * channels * (whole * _packed(lanes, bits) + _packed(rest, bits))


def pack_weights(
    form: Convolution, tiling: Tiling, weight: Array, config: NpuConfig
) -> Iterator[tuple[Key, Array]]:
    """Bytes of each unit, as `Gemm` and `Depthwise` read them. weight: OHWI codes."""
    by_first = {b.first: b for b in blocks_of(form, tiling)}
    lengths = dict(pieces_of(form, tiling))
    for core in range(config.cores if tiling.blocks_shared else 1):
        for unit in units_of(form, tiling, blocks_of_core(form, tiling, core, config.cores), config):
            parts = [
                _packed_product(form, tiling, weight, by_first[first], (at, lengths[at]), config)
                for first, at in unit.offsets
            ]
            yield unit.key, np.concatenate(parts)


def _packed_product(
    form: Convolution, tiling: Tiling, weight: Array, block: Block, piece: tuple[int, int], config: NpuConfig
) -> Array:
    bits = form.weight.bits
    part = weight[block.first : block.first + block.count]
    if form.depthwise:
        return pack_rows(part.reshape(block.count, -1).T, bits).reshape(-1)
    lanes = config.mac.output_lanes(form.input.bits, bits)
    at, count = piece
    part = part[..., at : at + count]
    if tiling.fold is Fold.WINDOW:
        part = part.transpose(0, 2, 3, 1)  # rows of the kernel are neighbours in the local image
    rows = part.reshape(block.count, -1).T
    columns = [rows[:, o : o + lanes] for o in range(0, block.count, lanes)]
    return np.concatenate([pack_rows(np.ascontiguousarray(c), bits).reshape(-1) for c in columns])


def weight_ratio(weight: Array, bits: int) -> float:
    """Compressed bytes of a layer's weights by those of the weights, in sixteenths: equal layers with about
    equal weights share a tiling. weight: OHWI codes."""
    rows = np.ascontiguousarray(weight.reshape(weight.shape[0], -1)[:, :_SAMPLE].T)
    raw = pack_rows(rows[:, :_SAMPLE], bits).reshape(-1)[: _SAMPLE * 8]
    return min(1.0, ceil(deflate(raw).size / raw.size * 16) / 16)


def pack_channel_parameters(form: Convolution, constants: Mapping[str, Array]) -> Array:
    """Bytes of the parameter memory for all output channels."""
    bias = constants["bias"]
    if form.requantizes:
        return pack_parameters(bias, constants["multiplier"], constants["shift"])
    return pack_parameters(bias, *(np.full(bias.shape, n) for n in _NO_RESCALE))


def _packed(count: int, bits: int) -> int:
    return -(-count * bits // 8)
