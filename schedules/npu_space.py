"""All tilings of a product that fit the scratchpads, in columns: one entry for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compiler.numerics.element import ElementType
from schedules.npu_tiling import MAX_COUNT, Fold, Shape, Tiling, folded_taps, folds_of
from sim.config import PARAMETER_BYTES, NpuConfig
from sim.fields import Column

_OUTPUT_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # blocks of the array's columns in one product
_STORED_STEPS = (1, 2, 4, 8, 1 << 12)  # products whose results leave together
_REDUCTION_PARTS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 30, 40, 60)
_COLUMN_PARTS = (1, 2, 3, 4, 7, 8, 16, 32, 64)
_ROW_PARTS = (1, 2, 3, 4, 8)
_KINDS = ("fold", "whole_image", "weights_first", "blocks_shared")  # fields that are no numbers
_Integer = TypeVar("_Integer", int, Column)
_ROW_LENGTH = 1 << 15  # bytes of a row of `Load`


@dataclass(frozen=True, slots=True)
class Space:
    """Columns of the fields of `Tiling`, and of what follows from them: local extents of the image in pixels,
    bytes of such a pixel, positions of the kernel and channels that each adds to the reduction, and bytes of
    the weights of one product."""

    fold: Column
    rows: Column
    columns: Column
    outputs: Column
    reduction: Column
    whole_image: Column
    stored: Column
    weights_first: Column
    blocks_shared: Column
    image_engines: Column
    weight_engines: Column
    accumulators: Column
    image_slots: Column
    image_slot_bytes: Column
    result_slots: Column
    result_slot_bytes: Column
    weight_slots: Column
    weight_slot_bytes: Column
    height: Column
    width: Column
    pixel_bytes: Column
    taps: Column
    channels: Column
    weight_bytes: Column

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, chosen: NDArray[np.bool_] | Column) -> Space:
        return Space(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def tiling(self, at: int) -> Tiling:
        counts = {f.name: int(getattr(self, f.name)[at]) for f in fields(Tiling) if f.name not in _KINDS}
        return Tiling(
            fold=Fold(int(self.fold[at])),
            whole_image=bool(self.whole_image[at]),
            weights_first=bool(self.weights_first[at]),
            blocks_shared=bool(self.blocks_shared[at]),
            **counts,
        )


def tiling_space(shape: Shape, config: NpuConfig) -> Space:
    """Empty where not even a tile of one output fits."""
    parts = list(_parts(shape, config)) or [np.zeros((0, 10), np.int64)]
    return _fitting(shape, config, np.concatenate(parts))


def fits(shape: Shape, config: NpuConfig) -> bool:
    """Whether there is any."""
    return any(len(_fitting(shape, config, part)) for part in _parts(shape, config))


def _parts(shape: Shape, config: NpuConfig) -> Iterator[NDArray[np.int64]]:
    found = (_of_outputs(shape, config, outputs) for outputs in _outputs(shape, config))
    return (part for part in found if len(part))


def _of_outputs(shape: Shape, config: NpuConfig, outputs: int) -> NDArray[np.int64]:
    """Choices that go with blocks of so many channels: fold, reduction, whole image; rows, columns; stored,
    weights first; blocks shared; banks of a weight slot."""
    pads = config.scratchpad
    lists = [
        list(_reductions(shape, config, outputs)),
        list(_extents(shape, config, outputs)),
        list(_orders(shape, outputs)),
        [(n,) for n in ((0, 1) if config.cores > 1 else (0,))],
        [(n,) for n in sorted({1, max(1, pads.weight_banks // 2), pads.weight_banks})],
    ]
    if not all(lists):
        return np.zeros((0, 10), np.int64)
    indices = [i.reshape(-1) for i in np.indices([len(n) for n in lists])]
    columns = [np.array(n, np.int64)[i] for n, i in zip(lists, indices, strict=True)]
    return np.concatenate([np.full((len(indices[0]), 1), outputs), *columns], axis=1)


def _outputs(shape: Shape, config: NpuConfig) -> list[int]:
    form, mac, pads = shape.form, config.mac, config.scratchpad
    bits = form.input.bits, form.weight.bits
    lanes = mac.depthwise_lanes(*bits) if form.depthwise else mac.output_lanes(*bits)
    parameters = pads.parameter_bytes // pads.parameter_banks // PARAMETER_BYTES
    most = min(shape.group_outputs, parameters, MAX_COUNT, pads.accumulator_words // 2 * 2)
    sizes = {lanes * k for k in _OUTPUT_STEPS if lanes * k < most} | {most}
    even = {ceil(most / lanes / n) * lanes for n in (2, 3, 4)}  # blocks of one size
    if config.cores > 1:  # as many for each core
        even |= {ceil(shape.group_outputs / config.cores / n) for n in (1, 2, 4)}
    if not form.depthwise:  # narrow weights fill more lanes than the accumulators take in a cycle
        taken = mac.accumulator_port_bits // 32
        sizes |= {n for n in (taken, 2 * taken) if n < min(lanes, most)}
    sizes |= even
    if form.output is ElementType.B1:  # blocks begin at bytes
        sizes = {n if n == shape.group_outputs else n // 8 * 8 for n in sizes}
    return sorted(n for n in sizes if 0 < n <= most)


def _reductions(shape: Shape, config: NpuConfig, outputs: int) -> Iterator[tuple[int, int, int]]:
    """(fold, channels of a product, whether all of the image are loaded at once)."""
    form, channels = shape.form, shape.group_inputs
    if form.depthwise:
        yield from ((0, 1, 0), (0, 1, 1))
        return
    lanes, pads = config.mac.reduction_lanes(form.input.bits), config.scratchpad
    for fold in folds_of(form, lanes):
        yield int(fold), channels, 1
    pixels = form.kernel_height * form.kernel_width
    most = pads.weight_bytes // (pixels * _row_bytes(shape, config, outputs))
    parts = {ceil(ceil(channels / n) / lanes) * lanes for n in _REDUCTION_PARTS}
    if most < lanes or pixels * form.input.bytes_for(lanes) > pads.activation_bytes // 2:
        least = 8 if form.input is ElementType.B1 else 1  # pieces begin at bytes
        parts |= {least, min(most, max(1, lanes // 4)) // least * least}
    for part in sorted(n for n in parts if 0 < n < channels and n <= most):
        yield from ((0, part, 0), (0, part, 1))


def _extents(shape: Shape, config: NpuConfig, outputs: int) -> Iterator[tuple[int, int]]:
    """(rows, columns) of tiles of one size, of as many outputs as one half of the accumulators or all of them
    hold, and of parts of that."""
    form, words = shape.form, config.scratchpad.accumulator_words // 2
    found: set[tuple[int, int]] = set()
    for parts in {*_COLUMN_PARTS, form.out_width}:
        columns = min(ceil(form.out_width / parts), MAX_COUNT)
        for held in (words, 2 * words):
            most = min(form.out_height, held // (columns * outputs), MAX_COUNT)
            for rows in {ceil(most / n) for n in _ROW_PARTS} - {0}:
                found.add((ceil(form.out_height / ceil(form.out_height / rows)), columns))
    yield from sorted(found)


def _orders(shape: Shape, outputs: int) -> Iterator[tuple[int, int]]:
    """(channels stored together, whether weights come first)."""
    every = shape.form.out_channels
    of_group = every if shape.groups == 1 or shape.group_outputs <= outputs else shape.group_outputs
    for stored in sorted({min(outputs * n, of_group) for n in _STORED_STEPS}):
        yield stored, 0
        if stored < every:
            yield stored, 1


def _fitting(shape: Shape, config: NpuConfig, choices: NDArray[np.int64]) -> Space:
    form, pads = shape.form, config.scratchpad
    outputs, fold, reduction, whole, rows, columns, stored, first, shared, banks = choices.T
    pairs = [folded_taps(form, f) for f in Fold]
    taps, by = (np.array(n, np.int64)[fold] for n in zip(*pairs, strict=True))
    if form.depthwise:
        held, weights = np.where(whole == 1, stored, outputs), taps * ceil_div(outputs * form.weight.bits, 8)
    else:
        held = np.where(whole == 1, shape.group_inputs, reduction)
        weights = taps * by * reduction * _row_bytes(shape, config, outputs)
    pixel = ceil_div(held * form.input.bits, 8) * np.where(fold == Fold.WINDOW, form.kernel_height, 1)
    height = (rows - 1) * form.stride[0] + (form.kernel_height - 1) * form.dilation[0] + 1
    height = np.where(fold == Fold.WINDOW, rows, np.minimum(height, form.in_height))
    width = (columns - 1) * form.stride[1] + (form.kernel_width - 1) * form.dilation[1] + 1
    width = np.where(fold == Fold.NONE, np.minimum(width, form.in_width), width)
    bank = pads.activation_bytes // pads.activation_banks
    i = ceil_div(height * width * pixel, bank)
    r = ceil_div(rows * columns * ceil_div(stored * form.output.bits, 8), bank)
    w = pads.weight_bytes // pads.weight_banks * banks
    words = rows * columns * outputs
    accumulators = np.where(words <= pads.accumulator_words // 2, 2, 1)
    results = np.where(2 * i + 2 * r <= pads.activation_banks, 2, 1)
    images = np.maximum(pads.activation_banks - results * r, 0) // np.maximum(i, 1)
    columns_of = (
        fold, rows, columns, outputs, reduction, whole, stored, first, shared,
        np.ones_like(rows), np.ones_like(rows), accumulators,
        images, i * bank, results, r * bank, pads.weight_banks // banks, w,
        height, width, pixel, taps, np.where(form.depthwise, 1, reduction * by), weights,
    )  # fmt: skip
    space = Space(*columns_of)
    fits = (i + r <= pads.activation_banks) & (weights <= w) & (words <= pads.accumulator_words // 2 * 2)
    fits &= np.maximum(height, width) <= MAX_COUNT
    one_tile = (form.batch == 1) & (rows == form.out_height) & (columns == form.out_width)
    fits &= ~(one_tile & (first == 1))  # the same order twice
    return space.where(fits & (width * pixel < _ROW_LENGTH))


def with_two_engines(space: Space, shape: Shape) -> Space:
    """The same tilings, and those with images or weights by LOAD and FETCH: one's latency hides behind the
    other's bursts. Not where constants come to SRAM first, for then FETCH has no time left."""
    variants: dict[str, Space] = {}
    if shape.constants_dram:
        # Where elements are scattered the strides inside of the core would change for each load of weights.
        variants["image_engines"] = space.where((space.image_slots > 1) & (space.fold != Fold.WINDOW))
        variants["weight_engines"] = space
    parts = [space]
    for name, part in variants.items():
        columns = {f.name: getattr(part, f.name) for f in fields(Space)}
        parts.append(Space(**{**columns, name: np.full(len(part), 2)}))
    return Space(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Space)))


def ceil_div(a: Column, b: int) -> Column:
    return -(-a // b)


def _row_bytes(shape: Shape, config: NpuConfig, outputs: _Integer) -> _Integer:
    """Of the weights of one element of the reduction."""
    bits = shape.form.weight.bits
    lanes = config.mac.output_lanes(shape.form.input.bits, bits)
    return outputs // lanes * ceil(lanes * bits / 8) + -(-(outputs % lanes * bits) // 8)
