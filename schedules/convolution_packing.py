"""Constants of a convolution in the order in which its kernel reads them.

Weights: per group of channels and panel of a micro-tile's channels, [segment, step group, vector, lane,
product] bytes. Codes narrower than a byte put the weights of `fields` successive steps into one byte,
the first in the lowest bits: so one vector load serves several steps. They are in two's complement where
products are lifted (`Geometry.lift`) or the machine shifts bytes, and else unsigned, from the lowest code
on.
Channels: per panel a row for each of ChannelField, all int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np

from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from schedules.convolution_geometry import Geometry


class ChannelField(IntEnum):
    """Rows of a panel's constants. A requantizing kernel computes, with exact integers,

        a = clamp(accumulator, ~LIMIT, LIMIT) << LEFT      (skipped where all LEFT of the layer are 0)
        ((a * MULTIPLIER >> 32) + ROUNDING) >> SHIFT

    which is floor(accumulator * multiplier / 2**shift + 1/2): for shift >= 33 because floors nest, for
    smaller shifts because moving the accumulator left makes the shift 33. LIMIT keeps that move within
    32 bits; beyond it the result lies outside every 16-bit clamp, on the same side.

    On Arm, SQDMULH gives a * MULTIPLIER >> 31 and SRSHL rounds by itself, so that 32 takes the place of 33,
    SQSHL needs no LIMIT, and SHIFT is negative, as SRSHL wants it.
    """

    BIAS = 0
    MULTIPLIER = 1
    ROUNDING = 2
    SHIFT = 3
    LIMIT = 4
    LEFT = 5


class Parameter(IntEnum):
    """Fields of the packed parameters, which include the offset of stored activations. For a b1 result, LOW
    is the sum above which the code is +1."""

    PADDING = 0
    ZERO_POINT = 1
    LOW = 2
    HIGH = 3
    MOVES_LEFT = 4


def channel_fields(requantizes: bool) -> int:
    """Rows of a panel's constants: the bias alone for raw accumulators."""
    return len(ChannelField) if requantizes else 1


def panel_vectors(outputs: int, lanes: int, vectors: int) -> list[int]:
    """Vectors in each panel of `outputs` channels: `vectors` in all but perhaps the last."""
    total = -(-outputs // lanes)
    return [min(vectors, total - first) for first in range(0, total, vectors)]


def split_weights(weight: Array, geometry: Geometry, lanes: int, vectors: int) -> Array:
    """Codes [out_channels, kernel_height, kernel_width, in_channels / groups] as
    [group, vector, segment, step, lane, product], zero where there is no channel or tap."""
    g, products = geometry, geometry.dot.products
    panels = panel_vectors(g.group_outputs, lanes, vectors)
    codes = np.zeros((g.form.groups, sum(panels) * lanes, g.segments, g.steps * products), np.int8)
    codes[:, : g.group_outputs, :, : g.run] = weight.reshape(
        g.form.groups, g.group_outputs, g.segments, g.run
    )
    split = codes.reshape(g.form.groups, sum(panels), lanes, g.segments, g.steps, products)
    return split.transpose(0, 1, 3, 4, 2, 5)


def pack_weights(weight: Array, geometry: Geometry, machine: CpuMachine, lanes: int, vectors: int) -> Array:
    """int8 bytes of codes [out_channels, kernel_height, kernel_width, in_channels / groups]."""
    panels = panel_vectors(geometry.group_outputs, lanes, vectors)
    split, element = split_weights(weight, geometry, lanes, vectors), geometry.form.weight
    signed = element is not ElementType.B1 and (geometry.lift > 0 or machine.shifts_bytes)
    packed = _pack_fields(split, element, signed=signed)
    parts: list[Array] = []
    for group in packed:
        first = 0
        for count in panels:
            parts.append(group[first : first + count].transpose(1, 2, 0, 3, 4).reshape(-1))
            first += count
    return np.concatenate(parts)


def _pack_fields(codes: Array, element: ElementType, *, signed: bool) -> Array:
    """Bytes of codes whose axis 3 (steps) shrinks by the number of fields in a byte."""
    if element.bits == 8:
        return codes
    fields = 8 // element.bits
    if signed:
        unsigned = codes & ((1 << element.bits) - 1)
    else:
        unsigned = (codes > 0) if element is ElementType.B1 else codes - element.low
    steps = codes.shape[3]
    padding = [(0, 0)] * codes.ndim
    padding[3] = (0, -steps % fields)
    padded = np.pad(unsigned.astype(np.uint8), padding)
    split = padded.reshape(*codes.shape[:3], -1, fields, *codes.shape[4:])
    shifts = (np.arange(fields, dtype=np.uint8) * element.bits).reshape(-1, 1, 1)
    return np.bitwise_or.reduce(split << shifts, axis=4).view(np.int8)


def pack_channels(
    constants: Mapping[str, Array], geometry: Geometry, machine: CpuMachine, lanes: int, vectors: int
) -> Array:
    """Constants of the output channels, flat int32 [group, panel, field, vectors * lanes].

    The bias takes over the zero point of the stored activations: bias - (zero_point + offset) * sum(w).
    Its arithmetic wraps at 32 bits like the accumulators', so it is exact whenever the result fits.
    """
    rows = _requantization(constants, machine) if geometry.form.requantizes else []
    rows.insert(ChannelField.BIAS, constants["bias"])
    g = geometry
    panels = len(panel_vectors(g.group_outputs, lanes, vectors))
    table = np.zeros((len(rows), g.form.groups, panels * vectors * lanes), np.int32)
    table[:, :, : g.group_outputs] = np.stack(rows).reshape(len(rows), g.form.groups, g.group_outputs)
    split = table.reshape(len(rows), g.form.groups, panels, vectors * lanes)
    return np.ascontiguousarray(split.transpose(1, 2, 0, 3)).reshape(-1)


def corrected_bias(constants: Mapping[str, Array], stored_zero: int) -> Array:
    """bias - stored_zero * sum of each channel's weights, modulo 2**32, int32."""
    sums = constants["weight"].reshape(len(constants["bias"]), -1).sum(axis=1, dtype=np.int64)
    return (constants["bias"].astype(np.int64) - stored_zero * sums).astype(np.uint32).view(np.int32)


def least_shift(machine: CpuMachine) -> int:
    """Smaller shifts are raised to this one by moving the accumulator left."""
    return 33 if machine.is_x86 else 32


def _requantization(constants: Mapping[str, Array], machine: CpuMachine) -> list[Array]:
    """Fields after BIAS, in order. Shifts 1 and 2 send every accumulator but 0 outside the clamp, as
    shift 3 does: they are treated as 3, for which LIMIT is not yet 0."""
    shift = np.maximum(constants["shift"].astype(np.int64), 3)
    least = least_shift(machine)
    left = np.maximum(least - shift, 0)
    right = np.maximum(shift, least) - (least - 1)
    limit = np.int64(2**31 - 1) >> left
    rounding = np.int64(1) << (right - 1)
    return [constants["multiplier"], rounding, right if machine.is_x86 else -right, limit, left]


def pack_parameters(constants: Mapping[str, Array], geometry: Geometry, machine: CpuMachine) -> Array:
    """int32 fields in the order of Parameter."""
    zero_in, zero_out, low, high = (int(v) for v in constants["parameters"])
    form = geometry.form
    into = machine.activation_offset if form.input is ElementType.I8 else 0
    out = machine.activation_offset if form.output is ElementType.I8 else 0
    if form.output is ElementType.B1:
        return np.array([zero_in + into, 0, _largest_negative(low, high), 0, 0], np.int32)
    moves = form.requantizes and bool(np.any(constants["shift"] < least_shift(machine)))
    return np.array([zero_in + into, zero_out + out, low + out, high + out, int(moves)], np.int32)


def _largest_negative(low: int, high: int) -> int:
    """Sums above it give +1: -1, unless the clamp leaves one code. No sum is -2**31: the verifier bounds its
    magnitude."""
    limits = np.iinfo(np.int32)
    if low > 0:
        return int(limits.min)
    return int(limits.max) if high < 0 else -1


def pack_constants(
    constants: Mapping[str, Array], geometry: Geometry, machine: CpuMachine, lanes: int, vectors: int
) -> dict[str, Array]:
    """The kernel's constant operands from the form's: weight, bias, multiplier, shift, parameters."""
    weight = pack_weights(constants["weight"], geometry, machine, lanes, vectors)
    return pack_beside(weight, constants, geometry, machine, lanes, vectors)


def pack_beside(
    weight: Array,
    constants: Mapping[str, Array],
    geometry: Geometry,
    machine: CpuMachine,
    lanes: int,
    vectors: int,
) -> dict[str, Array]:
    """Weights that a template has packed in its own way, and the constants that all templates have."""
    parameters = pack_parameters(constants, geometry, machine)
    bias = corrected_bias(constants, int(parameters[Parameter.PADDING]))
    return {
        "weight": weight,
        "channels": pack_channels({**constants, "bias": bias}, geometry, machine, lanes, vectors),
        "parameters": parameters,
    }
