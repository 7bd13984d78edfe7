"""Depthwise convolution on CPUs: planning and packing. The code itself is made by `depthwise_tir`.

A depthwise filter has no reduction over channels, so vectors run over channels and the dot-product
instruction sums over filter *rows*: a lane of `depth` products holds one channel of `depth` input rows.
A kernel takes `rows` output rows at a time through three stages:

    gather    the input rows that these output rows need are interleaved, `depth` rows to a lane, into
              a band in scratch, padded with the zero point to left, right, top and bottom;
    contract  per output row and filter column, one dot product for each lane-group of rows that the
              output row needs (rows that it does not need have weight 0);
    rescale   64-bit products, narrowing, store.

One interleaved column serves every filter column and all `rows` output rows.

In-register interleaving leaves channels in the order of `DepthwiseLayout.channel_order`; bias, weights and
factors are packed in that order, and narrowing with the matching pack instructions undoes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import Array, ElementType
from schedules.depthwise_layout import VECTORS, ChannelGroup, DepthwiseConfig, DepthwiseLayout

MAX_ROWS = 8
MAX_COLUMNS = 8
ARM_COLUMNS = 5
TILE_MACS = 400_000  # 5 to 10 microseconds of work at the speeds seen


@dataclass(frozen=True, slots=True)
class DepthwisePlan:
    """The kernel of one depthwise form: `KernelPlan`.

    Packed operands, each flat over channel groups: weight [row, step, 4, lanes, depth]; bias [4, lanes] int32
    with the input's zero point and storage offset folded in; rescale [4, 3, lanes] int64 (multiplier,
    rounding term, shift); parameters int32 [4] in stored codes.
    """

    form: Convolution
    machine: CpuMachine
    config: DepthwiseConfig

    @property
    def layout(self) -> DepthwiseLayout:
        return DepthwiseLayout(self.form, self.machine, self.config)

    @property
    def symbol(self) -> str:
        f, c = self.form, self.config
        kind = {ElementType.I8: "qs8", ElementType.I16: "qs16"}[f.input]
        digest = structural_digest(f, self.machine, c)[:8]
        tile = f"{c.rows}x{c.columns}x{VECTORS * c.lanes}"
        return f"{kind}_depthwise_{tile}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        rescale = ("rescale",) if self.form.requantizes else ()
        return ("input", "weight", "bias", *rescale, "parameters", "output", "scratch")

    @property
    def tiles(self) -> int:
        return self.form.batch * self.layout.tiles_per_image

    @property
    def scratch_bytes(self) -> int:
        return self.layout.scratch_bytes

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        layout, f = self.layout, self.form
        offset = self.machine.activation_offset
        zp_in, zp_out, low, high = (int(p) for p in constants["parameters"])
        stored_zero = zp_in + (offset if f.input is ElementType.I8 else 0)
        stored = offset if f.output is ElementType.I8 else 0
        weight = np.asarray(constants["weight"]).reshape(f.out_channels, f.kernel_height, f.kernel_width)
        bias = np.asarray(constants["bias"], np.int64) - stored_zero * weight.sum((1, 2), dtype=np.int64)
        packed: dict[str, Array] = {
            "weight": np.concatenate([_pack_weight(layout, g, weight) for g in layout.groups]),
            "bias": np.concatenate([_lanes(layout, g, bias).ravel() for g in layout.groups]).astype(np.int32),
        }
        scale_up = 0
        if f.requantizes:
            scale_up = int(np.any(np.asarray(constants["shift"]) < layout.least_shift))
            factors = np.asarray(constants["multiplier"], np.int64), np.asarray(constants["shift"], np.int64)
            packed["rescale"] = np.concatenate([_pack_rescale(layout, g, *factors) for g in layout.groups])
        parameters = [stored_zero, zp_out + stored, low + stored, high + stored, scale_up]
        packed["parameters"] = np.array(parameters, np.int32)
        return packed

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from schedules.depthwise_tir import depthwise_function

        function = depthwise_function(self.layout, self.symbol)
        return build_object({self.symbol: function}, dict(self.machine.target))


def _lanes(layout: DepthwiseLayout, group: ChannelGroup, values: Array) -> Array:
    """Per-channel values (last axis) in lane order [..., 4, lanes]; lanes that are not stored get channel
    0's."""
    channel = layout.channel_order(group.lanes)
    return values[..., np.where(channel < group.stored, group.start + channel, 0)]


def _pack_weight(layout: DepthwiseLayout, group: ChannelGroup, weight: Array) -> Array:
    by_tap = np.moveaxis(weight, 0, -1)  # [kh, kw, channel]
    zero = np.zeros(by_tap.shape[-1], by_tap.dtype)
    packed: list[Array] = []
    for row, steps in enumerate(layout.steps):
        for kw, row_group in steps:
            taps = [zero if k is None else by_tap[k, kw] for k in layout.filter_rows(row, row_group)]
            packed.append(np.moveaxis(_lanes(layout, group, np.stack(taps)), 0, -1).ravel())
    return np.concatenate(packed).astype(layout.weight_dtype)


def _pack_rescale(layout: DepthwiseLayout, group: ChannelGroup, multiplier: Array, shift: Array) -> Array:
    """[4, FACTORS, lanes] int32: multiplier, rounding, shift, limit, scale_up.

    Nested floors compose: for shift >= 33, rescaling is
    (floor(a * m / 2**32) + 2**(shift - 33)) >> (shift - 32).
    A smaller shift is raised to 33, and the accumulator, clamped to +-limit, is multiplied by 2**scale_up
    before: with limit = 2**(31 - scale_up) - 1, a larger accumulator's result is 2**27 or more, beyond every
    code. Below shift 8 every accumulator but 0 is beyond every code, so that 8 does as well.
    On Arm 32 takes the place of 33, SQSHL that of the clamp, and shift is negative for SRSHL.
    """
    least = layout.least_shift
    scale_up = np.maximum(0, least - np.maximum(shift, 8))
    raised = np.maximum(shift, least)
    right = raised - (least - 1)
    signed = right if layout.machine.is_x86 else -right
    factors = [multiplier, np.int64(1) << (right - 1), signed, (1 << (31 - scale_up)) - 1, scale_up]
    return np.moveaxis(_lanes(layout, group, np.stack(factors)), 0, 1).ravel().astype(np.int32)


def plan_depthwise(
    form: Convolution, machine: CpuMachine, config: DepthwiseConfig | None = None
) -> DepthwisePlan:
    """Errors: ValueError where the form is no depthwise convolution of codes or the configuration is not
    legal for it."""
    if not form.depthwise:
        raise ValueError(f"{form.in_channels}->{form.out_channels} in {form.groups} groups is not depthwise")
    if form.input not in (ElementType.I8, ElementType.I16):
        raise ValueError(f"a depthwise input is i8 or i16, not {form.input.value}")
    if form.output not in (ElementType.I8, ElementType.I16, ElementType.I32):
        raise ValueError(f"a depthwise output is i8, i16 or i32, not {form.output.value}")
    config = config or default_config(form, machine)
    if config.lanes not in lane_choices(machine):
        raise ValueError(f"{config.lanes} lanes: {machine.name} has {lane_choices(machine)}")
    if not (1 <= config.rows <= form.out_height and 1 <= config.columns <= form.out_width):
        raise ValueError(f"tile {config.rows}x{config.columns} exceeds {form.out_height}x{form.out_width}")
    if config.rows > MAX_ROWS or config.columns > MAX_COLUMNS or config.bands < 1:
        raise ValueError(f"{config} is outside the search space")
    return DepthwisePlan(form, machine, config)


def lane_choices(machine: CpuMachine) -> tuple[int, ...]:
    return tuple(n for n in (4, 8, 16) if n <= machine.lanes)


def default_config(form: Convolution, machine: CpuMachine) -> DepthwiseConfig:
    """Widest vectors that the channels fill; rows and columns of least `estimated_cost`; bands for
    `TILE_MACS`."""
    lanes = max(n for n in lane_choices(machine) if n == 4 or VECTORS * n // 2 < form.out_channels)
    # Fewer registers take fewer columns, and rows only lengthen the code that addresses them one by one.
    scarce = machine.dot is DotProduct.VMLAL
    widest = MAX_COLUMNS if machine.is_x86 else ARM_COLUMNS // 2 if scarce else ARM_COLUMNS
    shapes = [
        (r, c)
        for r in range(1, min(2 if scarce else 4, form.out_height) + 1)
        for c in range(1, min(widest, form.out_width) + 1)
    ]
    rows, columns = min(shapes, key=lambda s: estimated_cost(form, machine, lanes, *s))
    per_band = rows * form.out_width * form.out_channels * form.kernel_height * form.kernel_width
    bands = max(1, min(TILE_MACS // per_band, -(-form.out_height // rows)))
    return DepthwiseConfig(lanes=lanes, rows=rows, columns=columns, bands=bands)


def estimated_cost(form: Convolution, machine: CpuMachine, lanes: int, rows: int, columns: int) -> float:
    """Vector instructions per useful output vector: dot products and rescaling of each (some done twice where
    tiles overlap), loads of constants per tile of columns, and gathering per band. Fitted to measurements on
    one AVX512-VNNI core."""
    layout = DepthwiseLayout(form, machine, DepthwiseConfig(lanes=lanes, rows=rows, columns=columns, bands=1))
    if layout.keeps_words:
        return _arm_instructions(layout) / (form.out_height * form.out_width)
    tiles = -(-form.out_width // columns)
    dots = [len(s) for s in layout.steps]
    per_row = sum(tiles * (columns * (d + 10) + d / 2 + 3 + max(0, columns - 7) * 8) for d in dots)
    gather = layout.band_columns * layout.row_groups * (layout.depth + 1)
    if layout.band_bytes > machine.l1_bytes // 2:
        gather *= 1.5  # the band falls out of the first cache between writing and reading
    return layout.bands * (per_row + gather) / (form.out_height * form.out_width)


def _arm_instructions(layout: DepthwiseLayout) -> float:
    """Instructions per image and channel group. Constants and columns come into registers once per tile;
    the results of more than four columns leave no registers for them."""
    f, columns = layout.form, layout.config.columns
    span = (columns - 1) * f.stride[1] + (f.kernel_width - 1) * f.dilation[1] + 1
    bytes_of_column = VECTORS * layout.config.lanes * layout.lane_bytes
    per_row = 0.0
    for steps in layout.steps:
        used = len(steps) // f.kernel_width
        loads = (span * used + len(steps)) * bytes_of_column / 16 + 3 * VECTORS / 2
        per_column = VECTORS * (len(steps) + 3) + 11 + 8 * (columns > 4)
        per_row += loads + columns * per_column + 10
    tiles = -(-f.out_width // columns)
    gather = 6 + layout.row_groups * (19 if layout.depth == 4 else 8)
    return layout.bands * (tiles * per_row + layout.band_columns * gather)


def candidate_configs(form: Convolution, machine: CpuMachine) -> Iterator[DepthwiseConfig]:
    """The tuner's search space: at most 3 x 4 x 8 configurations of default tile size."""
    bands = default_config(form, machine).bands
    rows_of_tile = bands * default_config(form, machine).rows
    for lanes in lane_choices(machine):
        for rows in (r for r in (1, 2, 3, 4) if r <= form.out_height):
            for columns in range(1, min(MAX_COLUMNS, form.out_width) + 1):
                yield DepthwiseConfig(
                    lanes=lanes, rows=rows, columns=columns, bands=max(1, rows_of_tile // rows)
                )
