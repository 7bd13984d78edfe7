"""Layout of a convolution kernel: shares of work, operands and packing, from its decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from schedules.bits import packed_bytes
from schedules.convolution_arm import indexes_weights
from schedules.convolution_config import ConvolutionConfig
from schedules.convolution_geometry import Geometry, geometry, storage_dtype
from schedules.convolution_packing import Parameter, channel_fields, pack_constants, panel_vectors
from schedules.convolution_pairs import pack_pairs, table_width, with_bias

# Kernels may read this far behind the input rows in scratch.
_SLACK_BYTES = 64

# Measured on ResNet-50, whose weights come from behind the second-level cache: 1024 to 4096 are alike.
_PREFETCHED_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Blocks:
    """Shares along each axis; a share is one block of each, panels running fastest."""

    images: int
    rows: int
    columns: int
    panels: int

    @property
    def count(self) -> int:
        return self.images * self.rows * self.columns * self.panels


@dataclass(frozen=True)
class ConvolutionLayout:
    """What planning, packing and code generation agree on, for one form on one machine."""

    form: Convolution
    machine: CpuMachine
    config: ConvolutionConfig

    @cached_property
    def geometry(self) -> Geometry:
        return geometry(self.form, self.machine)

    @property
    def symbol(self) -> str:
        form, config = self.form, self.config
        weight = "" if form.weight is ElementType.I8 else f"w{form.weight.bits}"
        dense = form.in_height == form.kernel_height == form.kernel_width == 1 and form.in_width == 1
        tile = f"{config.rows * config.columns}x{config.vectors * config.lanes}"
        digest = structural_digest(form, self.machine, config)[:8]
        operator = "dense" if dense else "conv2d"
        return f"qs{form.input.bits}{weight}_{operator}_{tile}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        steps = ("steps",) if self.geometry.sorts_steps else ()
        scratch = ("scratch",) if self.geometry.copies else ()
        return ("input", "weight", *steps, "channels", "parameters", "output", *scratch)

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

    @property
    def scratch_bytes(self) -> int:
        if not self.geometry.copies:
            return 0
        return self.operand_type("scratch")[0] * (2 if self.geometry.dot.activation == "int16" else 1)

    @property
    def scratch_row(self) -> int:
        """Elements of one input row in scratch."""
        return self.geometry.columns_read(self.config.share_columns) * self.geometry.form.in_channels

    @property
    def row_pitch(self) -> int:
        """Elements of one row of what the kernel reads."""
        g = self.geometry
        return self.scratch_row if g.copies else self.form.in_width * g.input_pitch

    def operand_type(self, name: str) -> tuple[int, str]:
        """Elements and dtype of an operand, readable slack included; of sorted weights the most that they
        can be."""
        g, form = self.geometry, self.form
        match name:
            case "input":
                return form.batch * form.in_height * form.in_width * g.input_pitch, g.stored
            case "weight":
                return form.groups * self.group_weight_bytes * (2 if g.sorts_steps else 1), "int8"
            case "steps":
                return self.panels * table_width(g), "int32"
            case "channels":
                width = self.config.vectors * self.config.lanes
                return self.panels * self.channel_fields * width, "int32"
            case "parameters":
                return len(Parameter) + len(self.indexed_loop), "int32"
            case "output" if form.output is ElementType.B1:
                pixels = form.batch * form.out_height * form.out_width
                return pixels * packed_bytes(form.out_channels), "uint8"
            case "output":
                pixels = form.batch * form.out_height * form.out_width
                return pixels * g.output_pitch, storage_dtype(form.output, self.machine)
            case "scratch":
                rows = g.rows_read(min(self.config.share_rows, g.height))
                return rows * self.scratch_row + _SLACK_BYTES, g.dot.activation
            case _:
                raise ValueError(f"no operand {name!r}; the operands are {self.operands}")

    @property
    def channel_fields(self) -> int:
        return channel_fields(self.form.requantizes)

    @cached_property
    def _group_panels(self) -> list[int]:
        return panel_vectors(self.geometry.group_outputs, self.config.lanes, self.config.vectors)

    @property
    def panels_per_group(self) -> int:
        return len(self._group_panels)

    @property
    def panels(self) -> int:
        return self.form.groups * self.panels_per_group

    @property
    def tail_vectors(self) -> int:
        """Vectors in the last panel of a channel group."""
        return self._group_panels[-1]

    @property
    def surplus_lanes(self) -> int:
        """Lanes of the last vector of a channel group that are no channels."""
        return -self.geometry.group_outputs % self.config.lanes

    @property
    def ragged_panels(self) -> bool:
        """Whether the last panel of a channel group differs from the others."""
        return self.tail_vectors != self.config.vectors or self.surplus_lanes > 0

    @property
    def vector_bytes(self) -> int:
        """Bytes of packed weights that one vector load takes."""
        return self.config.lanes * self.geometry.dot.products

    @property
    def prefetched_bytes(self) -> int:
        """How far ahead of their use weights are asked for; 0 where they stay in the first-level cache."""
        stays = self.form.groups * self.group_weight_bytes <= self.machine.l1_bytes
        return 0 if stays else _PREFETCHED_BYTES

    @property
    def rounds(self) -> int:
        """Iterations of the inner loop over a segment."""
        return (self.geometry.step_groups - int(self.geometry.peels)) // self.config.unroll

    @property
    def indexed_loop(self) -> tuple[int, ...]:
        """Iterations of the inner loop, and the bytes before each of an iteration's vectors of weights, where
        these are indexed: operands, because LLVM would turn numbers that it knows into offsets of loads."""
        c = self.config
        if self.rounds < 2 or not indexes_weights(c.vectors, self.geometry, self.machine):
            return ()
        return (self.rounds, *(self.vector_bytes * i for i in range(c.vectors * c.unroll)))

    def panel_weight_bytes(self, vectors: int) -> int:
        return self.geometry.segments * self.geometry.step_groups * vectors * self.vector_bytes

    @property
    def group_weight_bytes(self) -> int:
        return self.panel_weight_bytes(sum(self._group_panels))

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """weight, channels, parameters and perhaps steps from the form's weight, bias, multiplier, shift,
        parameters."""
        g, c = self.geometry, self.config
        if g.sorts_steps:
            pairs = pack_pairs(constants["weight"], g, self.row_pitch, c.lanes, c.vectors)
            packed = pack_constants(with_bias(constants, pairs.bias), g, self.machine, c.lanes, c.vectors)
            return {**packed, "weight": pairs.weight, "steps": pairs.steps}
        packed = pack_constants(constants, g, self.machine, c.lanes, c.vectors)
        loop = np.array(self.indexed_loop, np.int32)
        return {**packed, "parameters": np.concatenate([packed["parameters"], loop])}
