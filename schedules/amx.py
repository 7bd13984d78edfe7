"""Convolution on matrix tiles: plan, operands and packing. The code itself is made by `amx_tir`.

Packed weights: per panel of `vectors` tiles of channels, [segment, chunk, vector, depth / 4, lane, 4] bytes,
so that each tile is contiguous. Channels and parameters are as for other kernels (`convolution_packing`).
Scratch holds the sums of two blocks, one that is computed and one that is requantized meanwhile, behind the
copied rows of input, where there are any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array
from schedules.amx_config import (
    ROW_BYTES,
    TILE_LANES,
    AmxConfig,
    candidates,
    check_config,
    default_config,
    estimated_cycles,
    refusal,
    steps_of,
)
from schedules.convolution_geometry import Geometry, geometry, storage_dtype
from schedules.convolution_layout import Blocks
from schedules.convolution_packing import (
    ChannelField,
    Parameter,
    pack_beside,
    panel_vectors,
)


@dataclass(frozen=True)
class AmxPlan:
    """A kernel for one form on a machine with matrix tiles; see KernelPlan."""

    form: Convolution
    machine: CpuMachine
    config: AmxConfig

    @cached_property
    def geometry(self) -> Geometry:
        return geometry(self.form, self.machine)

    @property
    def symbol(self) -> str:
        c = self.config
        digest = structural_digest(self.form, self.machine, c)[:8]
        return f"qs8_conv2d_{c.tiles * c.pixels}x{c.vectors * TILE_LANES}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("input", "weight", "channels", "parameters", "output", "scratch")

    @cached_property
    def blocks(self) -> Blocks:
        g, c = self.geometry, self.config
        return Blocks(
            images=g.images,
            rows=-(-g.height // c.share_rows),
            columns=-(-g.width // c.share_columns),
            panels=-(-self.panels // c.share_panels),
        )

    @property
    def tiles(self) -> int:
        return self.blocks.count

    @cached_property
    def panel_vectors(self) -> list[int]:
        """Tiles of channels in each panel."""
        return panel_vectors(self.form.out_channels, TILE_LANES, self.config.vectors)

    @property
    def panels(self) -> int:
        return len(self.panel_vectors)

    @property
    def ragged(self) -> bool:
        """Whether the last panel differs from the others."""
        return self.panel_vectors[-1] != self.config.vectors or self.surplus_lanes > 0

    @property
    def surplus_lanes(self) -> int:
        """Lanes of the last tile of channels that are no channels."""
        return -self.form.out_channels % TILE_LANES

    @property
    def tile_bytes(self) -> int:
        """Of a packed tile of weights."""
        return self.config.depth // 4 * ROW_BYTES

    @property
    def panel_bytes(self) -> int:
        """Of the packed weights of a panel that is not ragged."""
        return steps_of(self.geometry) * self.config.vectors * self.tile_bytes

    @property
    def prefetched_lines(self) -> int:
        """Cache lines of the next panel's weights that each step of a block fetches early."""
        c = self.config
        if not c.prefetches:
            return 0
        blocks = -(-c.share_rows // c.rows) * -(-c.share_columns // c.width)
        return -(-c.vectors * c.depth // (4 * blocks))

    @property
    def scratch_row(self) -> int:
        """Bytes of one copied row of input."""
        return self.geometry.columns_read(self.config.share_columns) * self.form.in_channels

    @property
    def sums_at(self) -> int:
        """Offset of the sums in scratch: behind the rows and what a tile may read behind them."""
        if not self.geometry.copies:
            return 0
        rows = self.geometry.rows_read(min(self.config.share_rows, self.geometry.height))
        return -(-(rows * self.scratch_row + ROW_BYTES) // ROW_BYTES) * ROW_BYTES

    @property
    def sums_bytes(self) -> int:
        """Of one block."""
        return self.config.tiles * self.config.pixels * self.config.vectors * ROW_BYTES

    @property
    def scratch_bytes(self) -> int:
        return self.sums_at + 2 * self.sums_bytes + ROW_BYTES  # rows are also read shifted by a lane

    def operand_type(self, name: str) -> tuple[int, str]:
        """Elements and dtype of an operand, readable slack included."""
        g, form = self.geometry, self.form
        match name:
            case "input":
                return form.batch * form.in_height * form.in_width * g.input_pitch, g.stored
            case "weight":
                return steps_of(g) * sum(self.panel_vectors) * self.tile_bytes, "int8"
            case "channels":
                return self.panels * len(ChannelField) * self.config.vectors * TILE_LANES, "int32"
            case "parameters":
                return len(Parameter), "int32"
            case "output":
                pixels = form.batch * form.out_height * form.out_width
                return pixels * g.output_pitch, storage_dtype(form.output, self.machine)
            case "scratch":
                return self.scratch_bytes, "uint8"
            case _:
                raise ValueError(f"no operand {name!r}; the operands are {self.operands}")

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """weight, channels and parameters from the form's weight, bias, multiplier, shift, parameters."""
        weight = self._pack_weights(constants["weight"])
        return pack_beside(weight, constants, self.geometry, self.machine, TILE_LANES, self.config.vectors)

    def _pack_weights(self, weight: Array) -> Array:
        g, depth = self.geometry, self.config.depth
        chunks, vectors = steps_of(g) // g.segments, sum(self.panel_vectors)
        codes = np.zeros((vectors * TILE_LANES, g.segments, chunks * depth), np.int8)
        codes[: g.form.out_channels, :, : g.run] = weight.reshape(g.form.out_channels, g.segments, g.run)
        split = codes.reshape(vectors, TILE_LANES, g.segments, chunks, depth // 4, 4)
        tiles = split.transpose(2, 3, 0, 4, 1, 5)  # segment, chunk, vector, depth / 4, lane, 4
        ends = np.cumsum(self.panel_vectors)[:-1]
        return np.concatenate([part.reshape(-1) for part in np.split(tiles, ends, axis=2)])

    def build(self) -> bytes:
        from compiler.lowering.build import build_object
        from schedules.amx_tir import amx_function

        return build_object({self.symbol: amx_function(self)}, dict(self.machine.target))


def plan_amx(form: Convolution, machine: CpuMachine, config: AmxConfig | None = None) -> AmxPlan:
    """A plan with the given decisions, or with those of the analytic model.

    Errors: ValueError for forms that matrix tiles do not take and for an illegal configuration.
    """
    reason = refusal(form, machine)
    if reason:
        raise ValueError(reason)
    if config is None:
        config = default_config(form, machine)
    check_config(config, geometry(form, machine), machine)
    return AmxPlan(form, machine, config)


def amx_candidates(form: Convolution, machine: CpuMachine) -> Iterator[AmxConfig]:
    """Legal configurations, the most promising by the analytic model first."""
    g = geometry(form, machine)
    yield from sorted(candidates(g, machine), key=lambda c: estimated_cycles(c, g, machine))
