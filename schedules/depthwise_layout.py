"""What packing and code of a depthwise kernel must agree on: see `depthwise` for the method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import Array, ElementType

VECTORS = 4  # accumulator vectors of a channel group: what two rounds of interleaving bytes make of one
FACTORS = 5  # int32 vectors that rescaling needs: see `depthwise`
BLOCK_COLUMNS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseConfig:
    """lanes: int32 lanes of the vectors that take most channels (a group is 4 vectors of channels).
    rows: output rows that share one gathered band. columns: output columns computed at once.
    bands: groups of rows in one parallel tile."""

    lanes: int
    rows: int
    columns: int
    bands: int


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels [start, start + stored) computed in 4 vectors of `lanes`; stored < 4 * lanes only where the
    tensor has fewer channels than the narrowest group that takes them."""

    start: int
    lanes: int
    stored: int

    @property
    def width(self) -> int:
        return VECTORS * self.lanes


@dataclass(frozen=True)
class DepthwiseLayout:
    """What packing and code generation must agree on.

    depth: products that a lane of the dot product sums. band: numpy type of a gathered element.
    """

    form: Convolution
    machine: CpuMachine
    config: DepthwiseConfig

    @cached_property
    def depth(self) -> int:
        narrow = self.form.input is ElementType.I8
        match self.machine.dot:
            case DotProduct.VNNI:
                return 4 if narrow else 2
            case DotProduct.SDOT | DotProduct.SMMLA:
                return 4 if narrow else 1
            case DotProduct.PMADDWD:
                return 2 if not narrow or self.machine.activation_offset else 1
            case DotProduct.SMLAL | DotProduct.VMLAL | DotProduct.PMADDUBSW | DotProduct.NONE:
                return 1

    @cached_property
    def input_dtype(self) -> str:
        return _storage(self.form.input, self.machine)

    @cached_property
    def output_dtype(self) -> str:
        return _storage(self.form.output, self.machine)

    @cached_property
    def band_dtype(self) -> str:
        return self.input_dtype if self.depth == 4 else "int16"

    @cached_property
    def weight_dtype(self) -> str:
        return "int8" if self.depth == 4 else "int16"

    @cached_property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Full groups, then one of the narrowest width that takes the rest. It overlaps its neighbour, whose
        last channels are then computed twice, so that no group but the only one is partly stored."""
        channels, lanes = self.form.out_channels, self.config.lanes
        width = VECTORS * lanes
        full = [ChannelGroup(c, lanes, width) for c in range(0, channels - width + 1, width)]
        rest = channels - len(full) * width
        if not rest:
            return tuple(full)
        while lanes > 4 and VECTORS * lanes // 2 >= rest:
            lanes //= 2
        width = VECTORS * lanes
        if channels < width:
            return (ChannelGroup(0, lanes, channels),)
        return (*full, ChannelGroup(channels - width, lanes, width))

    @cached_property
    def row_offsets(self) -> tuple[int, ...]:
        """Input rows that one band needs, relative to that of its first output row and filter row."""
        f = self.form
        rows = {
            r * f.stride[0] + k * f.dilation[0]
            for r in range(self.config.rows)
            for k in range(f.kernel_height)
        }
        return tuple(sorted(rows))

    @cached_property
    def row_groups(self) -> int:
        return -(-len(self.row_offsets) // self.depth)

    def filter_rows(self, row: int, row_group: int) -> tuple[int | None, ...]:
        """The filter row that each of `depth` products of a lane stands for in output row `row`, or None."""
        f = self.form
        taps = {row * f.stride[0] + k * f.dilation[0]: k for k in range(f.kernel_height)}
        first = row_group * self.depth
        offsets = self.row_offsets[first : first + self.depth]
        found = [taps.get(o) for o in offsets]
        return tuple(found + [None] * (self.depth - len(found)))

    @cached_property
    def steps(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Per output row of a band: the (filter column, row group) of each of its dot products."""
        used = [
            [g for g in range(self.row_groups) if any(k is not None for k in self.filter_rows(r, g))]
            for r in range(self.config.rows)
        ]
        return tuple(tuple((kw, g) for kw in range(self.form.kernel_width) for g in u) for u in used)

    @cached_property
    def band_columns(self) -> int:
        f = self.form
        return (f.out_width - 1) * f.stride[1] + (f.kernel_width - 1) * f.dilation[1] + 1

    @cached_property
    def bands(self) -> int:
        """Bands of one image."""
        return -(-self.form.out_height // self.config.rows)

    @cached_property
    def tiles_per_image(self) -> int:
        return -(-self.bands // self.config.bands)

    def channel_order(self, lanes: int) -> Array:
        """[4, lanes]: the channel, within its group, of each lane of the accumulator vectors."""
        v, lane = np.meshgrid(np.arange(VECTORS), np.arange(lanes), indexing="ij")
        block, i = lane // 4, lane % 4  # interleaving stays within 128 bits
        if self.depth == 1:
            return v * lanes + lane
        if self.form.input is ElementType.I16:
            return 2 * lanes * (v // 2) + 8 * block + 4 * (v % 2) + i
        return 16 * block + 4 * v + i

    @cached_property
    def lane_bytes(self) -> int:
        return self.depth * np.dtype(self.band_dtype).itemsize

    @cached_property
    def inner_columns(self) -> range:
        """Columns of the band that lie inside the image."""
        pad = self.form.pad[1]
        return range(
            min(max(pad, 0), self.band_columns), max(0, min(self.band_columns, pad + self.form.in_width))
        )

    @cached_property
    def column_tiles(self) -> int:
        return -(-self.form.out_width // self.config.columns)

    @cached_property
    def blocks(self) -> int:
        """Blocks of columns of a row, whose results wait in scratch for being narrowed."""
        return -(-self.form.out_width // BLOCK_COLUMNS)

    @cached_property
    def block_tiles(self) -> int:
        return -(-self.column_tiles // self.blocks)

    @cached_property
    def _widest(self) -> int:
        return max(g.width for g in self.groups)

    @cached_property
    def band_bytes(self) -> int:
        return self.band_columns * self.row_groups * self.lane_bytes * self._widest

    @cached_property
    def scratch_bytes(self) -> int:
        return self.band_bytes + 64 + self.block_tiles * self.config.columns * 4 * self._widest

    @cached_property
    def is_x86(self) -> bool:
        return self.machine.dot in (DotProduct.VNNI, DotProduct.PMADDWD)

    @cached_property
    def least_shift(self) -> int:
        """The least shift that rescaling by high halves takes; SQDMULH keeps one bit more."""
        return 33 if self.machine.is_x86 else 32

    @cached_property
    def keeps_words(self) -> bool:
        """Whether a tile's results stay in registers until they are narrowed: Arm has 32 of 4 lanes."""
        return not self.machine.is_x86

    @cached_property
    def packs_bytes(self) -> bool:
        """Whether the saturating packs of x86 undo `channel_order`."""
        return self.output_dtype == self.input_dtype == "uint8" and self.is_x86


def _storage(element: ElementType, machine: CpuMachine) -> str:
    if element is ElementType.I8 and machine.activation_offset:
        return "uint8"
    return str(element.dtype)
