"""Depthwise convolutions on a GPU: vectors of channels, and some pixels of a row that share loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.kernel import structural_digest
from compiler.numerics.element import Array, ElementType
from schedules.mali_channels import (
    convolution_operands,
    declare_channels,
    finished,
    outside_needed,
    packed_channels,
    stored,
)
from schedules.mali_code import Code, type_of
from schedules.mali_kernel import ClConfig, ClKernel, Sizes, check_group, kernel
from schedules.mali_machines import GpuMachine

I8, I32 = ElementType.I8, ElementType.I32
# A row of taps is written out where a work-item needs at most this many columns of the input.
_COLUMNS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClDepthwiseConfig(ClConfig):
    """pixels, channels: of a work-item's tile; channels 4, 8 or 16."""

    pixels: int
    channels: int


@dataclass(frozen=True)
class ClDepthwisePlan:
    """A depthwise convolution on a GPU; a ClPlan. Weights narrower than a byte take one: they are few."""

    form: Convolution
    machine: GpuMachine
    config: ClDepthwiseConfig

    @property
    def symbol(self) -> str:
        f, c = self.form, self.config
        digest = structural_digest(f, self.machine, c)[:8]
        return f"qs{f.input.bits}_dwconv2d_{c.pixels}x{c.channels}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(p.name for p in convolution_operands(self.form))

    @property
    def tiles(self) -> int:
        return 1

    @property
    def scratch_bytes(self) -> int:
        return 0

    @property
    def panels(self) -> int:
        return -(-self.form.out_channels // self.config.channels)

    @property
    def items(self) -> Sizes:
        """Work-items: along the tiles of channels, of a row's pixels, and of rows."""
        f = self.form
        return self.panels, -(-f.out_width // self.config.pixels), f.batch * f.out_height

    @cached_property
    def kernels(self) -> tuple[ClKernel, ...]:
        return (_Kernel(self).kernel(),)

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """Weights: [panel, tap, channel of the panel]."""
        f, lanes = self.form, self.config.channels
        slots = np.full(self.panels * lanes, -1, np.int64)
        slots[: f.out_channels] = np.arange(f.out_channels)
        codes = np.zeros((self.panels * lanes, f.kernel_height * f.kernel_width), np.int8)
        codes[: f.out_channels] = constants["weight"].reshape(f.out_channels, -1)
        return {
            "weight": np.ascontiguousarray(codes.reshape(self.panels, lanes, -1).transpose(0, 2, 1)),
            "channels": packed_channels(f, constants, slots),
            "parameters": constants["parameters"].astype(np.int32),
        }

    def build(self) -> bytes:
        raise TypeError(f"{self.symbol} is OpenCL C, which the device's driver builds")


def plan_cl_depthwise(
    form: Convolution, machine: GpuMachine, config: ClDepthwiseConfig | None = None
) -> ClDepthwisePlan:
    """Errors: ValueError for a form that is not depthwise, or a work-group that is none for the machine."""
    if not form.depthwise:
        raise ValueError(f"{form.in_channels}->{form.out_channels} channels in {form.groups} groups")
    config = config or default_config(form, machine)
    check_group(config.group, machine)
    return ClDepthwisePlan(form, machine, config)


def default_config(form: Convolution, machine: GpuMachine) -> ClDepthwiseConfig:
    channels = 8 if form.out_channels > 4 else 4
    pixels = 4
    tiles = -(-form.out_channels // channels) * form.batch * form.out_height * form.out_width
    while pixels > 1 and (tiles < pixels * machine.work_items // 4 or _columns(form, pixels) > _COLUMNS):
        pixels //= 2
    return ClDepthwiseConfig(pixels=pixels, channels=channels)


def _columns(form: Convolution, pixels: int) -> int:
    """Of the input, from the first to the last that a tile of pixels reads."""
    return (pixels - 1) * form.stride[1] + (form.kernel_width - 1) * form.dilation[1] + 1


@dataclass(frozen=True, slots=True)
class _Kernel:
    plan: ClDepthwisePlan

    def kernel(self) -> ClKernel:
        p, f, config = self.plan, self.plan.form, self.plan.config
        code = Code()
        declare_channels(code, f, f"item_x * {config.channels}", config.channels, p.panels * config.channels)
        taps = f.kernel_height * f.kernel_width * config.channels
        vector = type_of(f.input, config.channels)
        code.add(f"__global const char *weights = p_weight + item_x * {taps};")
        code.add(f"const int image = item_z / {f.out_height};")
        code.add(f"const int row = item_z % {f.out_height};")
        code.add(f"const int column = item_y * {config.pixels};")
        code.add(f"const int at = column * {f.stride[1]} - {f.pad[1]};")
        code.add(f"const {vector} outside = ({vector})(p_parameters[0]);")
        for i in range(config.pixels):
            code.add(f"{type_of(I32, config.channels)} sum{i} = bias;")
        with code.block(f"for (int kh = 0; kh < {f.kernel_height}; kh++)"):
            self._row(code)
        self._store(code)
        return kernel(p.symbol, convolution_operands(f), code.text(), p.items, p.machine, config.group)

    def _row(self, code: Code) -> None:
        f = self.plan.form
        pitch = f.input_pitch or f.in_channels
        code.add(f"const int ih = row * {f.stride[0]} - {f.pad[0]} + kh * {f.dilation[0]};")
        code.add(f"const int line = (image * {f.in_height} + ih) * {f.in_width * pitch} + first;")
        if _columns(f, self.plan.config.pixels) <= _COLUMNS:
            self._written_out(code, pitch)
        else:
            self._in_a_loop(code, pitch)

    def _written_out(self, code: Code, pitch: int) -> None:
        f, pixels = self.plan.form, self.plan.config.pixels
        taps = [
            (i, kw, i * f.stride[1] + kw * f.dilation[1])
            for i in range(pixels)
            for kw in range(f.kernel_width)
        ]
        for column in sorted({c for _, _, c in taps}):
            code.add(f"const {self._wide} x{column} = {self._loaded(f'at + {column}', pitch)};")
        for kw in range(f.kernel_width):
            code.add(f"const {self._wide} w{kw} = {self._weights(str(kw))};")
        for i, kw, column in taps:
            code.add(f"sum{i} += x{column} * w{kw};")

    def _in_a_loop(self, code: Code, pitch: int) -> None:
        f = self.plan.form
        with code.block(f"for (int kw = 0; kw < {f.kernel_width}; kw++)"):
            code.add(f"const {self._wide} w = {self._weights('kw')};")
            for i in range(self.plan.config.pixels):
                where = f"at + {i * f.stride[1]} + kw * {f.dilation[1]}"
                code.add(f"sum{i} += {self._loaded(where, pitch)} * w;")

    @property
    def _wide(self) -> str:
        return type_of(I32, self.plan.config.channels)

    def _weights(self, kw: str) -> str:
        lanes = self.plan.config.channels
        index = f"(kh * {self.plan.form.kernel_width} + {kw}) * {lanes}"
        return f"convert_{self._wide}(vload{lanes}(0, weights + {index}))"

    def _loaded(self, column: str, pitch: int) -> str:
        """Codes of a column of the image, or the zero point; the last tile of a row may be beyond it."""
        f, lanes = self.plan.form, self.plan.config.channels
        rows, columns = outside_needed(f)
        ragged = f.out_width % self.plan.config.pixels != 0
        tests = [f"ih >= 0 && ih < {f.in_height}"] if rows else []
        tests += [f"{column} >= 0 && {column} < {f.in_width}"] if columns or ragged else []
        loaded = f"vload{lanes}(0, p_input + (line + ({column}) * {pitch}))"
        codes = f"({' && '.join(tests)} ? {loaded} : outside)" if tests else loaded
        return f"convert_{self._wide}({codes})"

    def _store(self, code: Code) -> None:
        f, config = self.plan.form, self.plan.config
        pitch = f.output_pitch or f.out_channels
        for i in range(config.pixels):
            with code.block(f"if (column + {i} < {f.out_width})" if f.out_width % config.pixels else ""):
                pixel = f"((image * {f.out_height} + row) * {f.out_width} + column + {i})"
                value = finished(code, f, f"sum{i}", config.channels)
                stored(code, f, value, f"{pixel} * {pitch} + first", config.channels, f.out_channels)
