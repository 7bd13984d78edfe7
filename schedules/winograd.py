"""3x3 convolutions by Winograd's F(2x2, 3x3) in exact integers, for machines whose best product is VPMADDWD.

A tile of 2x2 outputs Y comes from a patch d of 4x4 inputs and a filter g by 16 products per channel and
filter instead of 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):

    4 Y = A' [U * V] A,   V = B' d B,   U = (2 G) g (2 G)'

where * is elementwise and summed over channels. Doubling G, which has halves, makes U an integer:

    B' = 1  0 -1  0     2 G = 2  0  0     A' = 1  1  1  0
         0  1  1  0           1  1  1          0  1 -1 -1
         0 -1  1  0           1 -1  1
         0  1  0 -1           0  0  2

With activations in [0, 255] and weights in [-127, 127], |V| <= 4 * 255 and |U| <= 9 * 127 are int16, as
VPMADDWD wants them. Sums of U * V over c channels stay in int32 for c <= MOST_CHANNELS, and so does 4 Y,
whose bound is less: what the additions between them wrap, they unwrap, and shifting 4 Y right by 2 is exact.

A kernel takes a block of rows of tiles through three stages in scratch: transform the inputs; per panel of
output channels, 16 matrix products; transform the sums back, requantize and store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import Array, ElementType
from schedules.convolution_geometry import Geometry, geometry
from schedules.convolution_packing import (
    ChannelField,
    Parameter,
    pack_beside,
)

LANES = 8  # int32 lanes of 256 bits
POSITIONS = 16  # elements of a transformed patch
BLOCK = 16  # channels that are transformed together
MOST_CHANNELS = (2**31 - 1) // (4 * 255 * 9 * 127)

MOST_SUMS = 12  # vectors of sums in registers, beside weights and activations

_DOUBLE_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
# Transformed weights are large, and each is used once per tile: from the second-level cache that pays from
# the first number of tiles on, from behind it from the second. Measured from 7x7 to 56x56.
_FEW_TILES, _MANY_TILES = 16, 49
_MOST_INPUT_BYTES = 512 << 10  # transformed inputs of a share: they are read again for each panel
_LEAST_SHARES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradConfig:
    """vectors: of output channels in a panel. tiles: whose sums are in registers together. share_rows: rows
    of tiles in a share, a divisor of all. share_panels: panels in a share, a divisor of all."""

    vectors: int
    tiles: int
    share_rows: int
    share_panels: int


def winograd_pays(form: Convolution, machine: CpuMachine) -> bool:
    """Whether this template computes the form, and faster than a direct convolution."""
    eight_bits = form.input is form.weight is form.output is ElementType.I8
    square = (form.kernel_height, form.kernel_width) == (3, 3) and form.groups == 1
    dense = form.stride == form.dilation == (1, 1)
    channels = form.in_channels % BLOCK == 0 and form.in_channels <= MOST_CHANNELS
    return (
        machine.dot is DotProduct.PMADDWD
        and machine.vector_bits == 256
        and machine.activation_offset == 128
        and (eight_bits and square and dense and channels)
        and form.out_channels % LANES == 0
        and _enough_tiles(form, machine)
    )


def _enough_tiles(form: Convolution, machine: CpuMachine) -> bool:
    weight_bytes = 2 * POSITIONS * form.in_channels * form.out_channels
    near = weight_bytes <= machine.l2_bytes // 2
    tiles = form.batch * -(-form.out_height // 2) * -(-form.out_width // 2)
    return tiles >= (_FEW_TILES if near else _MANY_TILES)


@dataclass(frozen=True)
class WinogradPlan:
    """A kernel for one form on one machine; see KernelPlan."""

    form: Convolution
    machine: CpuMachine
    config: WinogradConfig

    @cached_property
    def geometry(self) -> Geometry:
        """Input rows are always copied, with the padding around them that the last tiles need."""
        return replace(geometry(self.form, self.machine), copies=True, padded=True)

    @property
    def symbol(self) -> str:
        c, digest = self.config, structural_digest(self.form, self.machine, self.config)[:8]
        return f"qs8_winograd_{c.tiles}x{c.vectors * LANES}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("input", "weight", "channels", "parameters", "output", "scratch")

    @property
    def tile_rows(self) -> int:
        return -(-self.form.out_height // 2)

    @property
    def tile_columns(self) -> int:
        return -(-self.form.out_width // 2)

    @property
    def share_tiles(self) -> int:
        return self.config.share_rows * self.tile_columns

    @property
    def panels(self) -> int:
        return self.form.out_channels // (self.config.vectors * LANES)

    @property
    def row_blocks(self) -> int:
        return self.tile_rows // self.config.share_rows

    @property
    def panel_blocks(self) -> int:
        return self.panels // self.config.share_panels

    @property
    def tiles(self) -> int:
        return self.form.batch * self.row_blocks * self.panel_blocks

    @property
    def scratch_row(self) -> int:
        """Bytes of one input row in scratch."""
        return (2 * self.tile_columns + 2) * self.form.in_channels

    @property
    def inputs_byte(self) -> int:
        """Where transformed inputs, int16 [position, tile, channel], stand in scratch."""
        return _aligned((2 * self.config.share_rows + 2) * self.scratch_row)

    @property
    def sums_byte(self) -> int:
        """Where sums of a panel, int32 [position, tile, vector, lane], stand in scratch."""
        return self.inputs_byte + POSITIONS * self.inputs_pitch

    @property
    def inputs_pitch(self) -> int:
        """Bytes of the transformed inputs at one position."""
        return _odd_lines(2 * self.share_tiles * self.form.in_channels)

    @property
    def sums_pitch(self) -> int:
        """Bytes of a panel's sums at one position."""
        return _odd_lines(4 * self.share_tiles * self.config.vectors * LANES)

    @property
    def scratch_bytes(self) -> int:
        return self.sums_byte + POSITIONS * self.sums_pitch

    def operand_type(self, name: str) -> tuple[int, str]:
        """Elements and dtype of an operand."""
        form, g = self.form, self.geometry
        match name:
            case "input":
                return form.batch * form.in_height * form.in_width * g.input_pitch, "uint8"
            case "weight":
                return POSITIONS * form.in_channels * form.out_channels, "int16"
            case "channels":
                return len(ChannelField) * form.out_channels, "int32"
            case "parameters":
                return len(Parameter), "int32"
            case "output":
                return form.batch * form.out_height * form.out_width * g.output_pitch, "uint8"
            case "scratch":
                return self.scratch_bytes, "uint8"
            case _:
                raise ValueError(f"no operand {name!r}; the operands are {self.operands}")

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """weight: [panel, position, pair of channels, vector, lane, 2]; the others as for a direct one."""
        weight = self._packed(transformed(constants["weight"]))
        return pack_beside(weight, constants, self.geometry, self.machine, LANES, self.config.vectors)

    def _packed(self, weight: Array) -> Array:
        split = weight.reshape(self.panels, self.config.vectors, LANES, POSITIONS, -1, 2)
        return np.ascontiguousarray(split.transpose(0, 3, 4, 1, 2, 5)).reshape(-1)

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from schedules.winograd_tir import winograd_function

        return build_object({self.symbol: winograd_function(self)}, dict(self.machine.target))


def transformed(weight: Array) -> Array:
    """U of filters [filter, 3, 3, channel], int16 [filter, position, channel]."""
    wide = np.einsum("ia,fabc,jb->fijc", _DOUBLE_G, weight.astype(np.int64), _DOUBLE_G)
    return wide.reshape(len(weight), POSITIONS, -1).astype(np.int16)


def plan_winograd(
    form: Convolution, machine: CpuMachine, config: WinogradConfig | None = None
) -> WinogradPlan:
    """Errors: ValueError for a form that `winograd_pays` refuses and for an illegal configuration."""
    if not winograd_pays(form, machine):
        raise ValueError(f"no Winograd kernel on {machine.name} for {form}")
    config = config or default_config(form)
    check_config(config, form)
    return WinogradPlan(form, machine, config)


def check_config(config: WinogradConfig, form: Convolution) -> None:
    """Errors: ValueError with the reason why the template cannot take this configuration."""
    c, rows = config, -(-form.out_height // 2)
    if min(c.vectors, c.tiles, c.share_rows, c.share_panels) < 1:
        raise ValueError(f"every tile needs at least one element: {c}")
    if form.out_channels % (c.vectors * LANES):
        raise ValueError(f"panels of {c.vectors * LANES} channels do not divide {form.out_channels}")
    panels = form.out_channels // (c.vectors * LANES)
    if rows % c.share_rows or panels % c.share_panels:
        raise ValueError(f"shares of {c.share_rows} x {c.share_panels} do not divide {rows} x {panels}")


def default_config(form: Convolution) -> WinogradConfig:
    """12 accumulators, which leave registers for weights and activations. Shares that suit a few threads:
    of rows, which repeat nothing, before panels, which repeat the transform of the inputs."""
    vectors = 2 if form.out_channels % (2 * LANES) == 0 else 1
    rows, columns = -(-form.out_height // 2), -(-form.out_width // 2)
    most = max(1, _MOST_INPUT_BYTES // (2 * POSITIONS * columns * form.in_channels))
    fitting = [r for r in divisors(rows) if r <= most]
    most_tiles = MOST_SUMS // vectors
    cut = [r for r in fitting if form.batch * rows // r >= _LEAST_SHARES and r * columns >= 4 * most_tiles]
    share_rows = max(cut or fitting)
    blocks = form.batch * rows // share_rows
    panels = form.out_channels // (vectors * LANES)
    share_panels = max((p for p in divisors(panels) if blocks * panels // p >= _LEAST_SHARES), default=1)
    return WinogradConfig(
        vectors=vectors,
        tiles=min(most_tiles, share_rows * columns),
        share_rows=share_rows,
        share_panels=share_panels,
    )


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _aligned(count: int) -> int:
    """Whole cache lines."""
    return -(-count // 64) * 64


def _odd_lines(count: int) -> int:
    """An odd number of cache lines: 16 places so far apart fall into 16 different sets of a cache."""
    return (-(-count // 64) | 1) * 64
