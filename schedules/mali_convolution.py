"""Convolutions on a GPU, dense layers included: an implicit matrix product in registers.

A work-item computes a tile of pixels by output channels. For each tap it loads blocks of input channels of
every pixel and of weights of every channel, 16 bytes each where there are that many, and takes the dot
product of each pair. There is no shared memory: on Mali it is main memory behind the same cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

I8, I16, I32 = ElementType.I8, ElementType.I16, ElementType.I32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClConvolutionConfig(ClConfig):
    """pixels, channels: of a work-item's tile. block: input channels that are loaded at once; 0: as many as
    16 bytes hold, or fewer where there are few."""

    pixels: int
    channels: int
    block: int = 0


@dataclass(frozen=True)
class ClConvolutionPlan:
    """A convolution on a GPU; a ClPlan."""

    form: Convolution
    machine: GpuMachine
    config: ClConvolutionConfig

    @property
    def symbol(self) -> str:
        f, c = self.form, self.config
        kind = "dense" if f.out_height * f.out_width * f.kernel_height * f.kernel_width == 1 else "conv2d"
        digest = structural_digest(f, self.machine, c)[:8]
        prefix = f"qs{f.input.bits}" + (f"w{f.weight.bits}" if f.weight is not I8 else "")
        return f"{prefix}_{kind}_{c.pixels}x{c.channels}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(p.name for p in convolution_operands(self.form))

    @property
    def tiles(self) -> int:
        return 1

    @property
    def scratch_bytes(self) -> int:
        return 0

    @cached_property
    def kernels(self) -> tuple[ClKernel, ...]:
        return (_Kernel(self).kernel(),)

    @property
    def items(self) -> Sizes:
        """Work-items: along the tiles of channels, of a row's pixels, and of rows."""
        f = self.image
        return self.panels, -(-f.out_width // self.config.pixels), f.batch * f.out_height

    @property
    def image(self) -> Convolution:
        """The form with all pixels in one row where each is a matrix product by itself."""
        f = self.form
        pointwise = f.kernel_height == f.kernel_width == 1 and f.stride == (1, 1) and f.pad == (0, 0)
        if not pointwise or (f.in_height, f.in_width) != (f.out_height, f.out_width):
            return f
        pixels = f.batch * f.in_height * f.in_width
        return replace(f, batch=1, in_height=1, out_height=1, in_width=pixels, out_width=pixels)

    @property
    def block(self) -> int:
        """Input channels that are loaded at once."""
        return self.config.block or default_block(self.form)

    @property
    def blocks(self) -> int:
        return -(-(self.form.in_channels // self.form.groups) // self.block)

    @property
    def field_bits(self) -> int:
        """Of a packed weight; binary ones take two."""
        return max(self.form.weight.bits, 2) if self.block == 16 else 8

    @property
    def block_bytes(self) -> int:
        """Of the weights of one output channel for a block."""
        return self.block * self.field_bits // 8

    @property
    def panels(self) -> int:
        """Tiles of output channels, of all groups."""
        return self.form.groups * -(-(self.form.out_channels // self.form.groups) // self.config.channels)

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        slots = np.full(self.panels * self.config.channels, -1, np.int64)
        slots[: self.form.out_channels] = np.arange(self.form.out_channels)  # groups are whole panels
        return {
            "weight": self._packed_weights(constants["weight"]),
            "channels": packed_channels(self.form, constants, slots),
            "parameters": constants["parameters"].astype(np.int32),
        }

    def _packed_weights(self, weight: Array) -> Array:
        """[panel, tap, block, channel of the panel, byte]. Code i of narrow ones lies in byte
        i % block_bytes, the first in the lowest bits."""
        f = self.form
        taps, inputs = f.kernel_height * f.kernel_width, f.in_channels // f.groups
        codes = np.zeros((self.panels * self.config.channels, taps, self.blocks * self.block), np.int8)
        codes[: f.out_channels, :, :inputs] = weight.reshape(f.out_channels, taps, inputs)
        split = codes.reshape(self.panels, self.config.channels, taps, self.blocks, self.block)
        split = split.transpose(0, 2, 3, 1, 4)
        if self.field_bits == 8:
            return np.ascontiguousarray(split)
        fields = split.reshape(*split.shape[:-1], -1, self.block_bytes).astype(np.uint8)
        fields = fields & np.uint8((1 << self.field_bits) - 1)
        shifts = (np.arange(fields.shape[-2], dtype=np.uint8) * self.field_bits).reshape(-1, 1)
        return np.bitwise_or.reduce(fields << shifts, axis=-2).astype(np.uint8).view(np.int8)

    def build(self) -> bytes:
        raise TypeError(f"{self.symbol} is OpenCL C, which the device's driver builds")


def default_block(form: Convolution) -> int:
    """16 bytes, or fewer where there are few."""
    inputs = form.in_channels // form.groups
    if form.input is I16:
        return 8
    if form.weight is not I8:
        return 16
    return 4 if inputs <= 4 else 8 if inputs <= 8 else 16


def block_choices(form: Convolution) -> tuple[int, ...]:
    """Codes of 16 bits and narrow weights are unpacked in one way only."""
    fixed = form.input is I16 or form.weight is not I8
    return (default_block(form),) if fixed else tuple(n for n in (4, 8, 16) if n <= default_block(form))


def default_config(form: Convolution, machine: GpuMachine) -> ClConvolutionConfig:
    """As many pixels as leave work-items for all cores; channels that do not cross groups."""
    outputs = form.out_channels // form.groups
    channels = 4 if form.groups == 1 or outputs % 4 == 0 else 2 if outputs % 2 == 0 else 1
    pixels = 4
    tiles = -(-form.out_channels // channels) * form.batch * form.out_height * form.out_width
    while pixels > 1 and tiles < pixels * machine.work_items // 4:
        pixels //= 2
    return ClConvolutionConfig(pixels=pixels, channels=channels)


def plan_cl_convolution(
    form: Convolution, machine: GpuMachine, config: ClConvolutionConfig | None = None
) -> ClConvolutionPlan:
    """Errors: ValueError for a configuration whose tiles cross groups, or that is none for the machine."""
    config = config or default_config(form, machine)
    check_group(config.group, machine)
    if config.block and config.block not in block_choices(form):
        raise ValueError(f"{form.input.value} by {form.weight.value} has no blocks of {config.block}")
    if form.groups > 1 and form.out_channels // form.groups % config.channels:
        raise ValueError(f"tiles of {config.channels} channels cross {form.groups} groups")
    return ClConvolutionPlan(form, machine, config)


@dataclass(frozen=True, slots=True)
class _Kernel:
    plan: ClConvolutionPlan

    def kernel(self) -> ClKernel:
        p, f, config = self.plan, self.plan.image, self.plan.config
        code = Code()
        declare_channels(code, f, f"item_x * {config.channels}", config.channels, p.panels * config.channels)
        self._declare(code)
        with code.block(f"for (int kh = 0; kh < {f.kernel_height}; kh++)"):
            self._row(code)
        self._store(code)
        operands = convolution_operands(p.form)
        return kernel(p.symbol, operands, code.text(), p.items, p.machine, config.group)

    def _declare(self, code: Code) -> None:
        p, f, config = self.plan, self.plan.image, self.plan.config
        weights = f.kernel_height * f.kernel_width * p.blocks * config.channels * p.block_bytes
        code.add(f"__global const char *weights = p_weight + item_x * {weights};")
        code.add(f"const int image = item_z / {f.out_height};")
        code.add(f"const int row = item_z % {f.out_height};")
        code.add(f"const int column = item_y * {config.pixels};")
        panels = p.panels // f.groups
        group = f"item_x / {panels} * {f.in_channels // f.groups}" if f.groups > 1 else "0"
        code.add(f"const int group = {group};")
        inside = type_of(f.input, p.block)
        code.add(f"const {inside} outside = ({inside})(p_parameters[0]);")
        for i in range(config.pixels):
            at = f"min(column + {i}, {f.out_width - 1})" if f.out_width % config.pixels else f"column + {i}"
            code.add(f"const int at{i} = ({at}) * {f.stride[1]} - {f.pad[1]};")
            code.add(f"{type_of(I32, config.channels)} sum{i} = bias;")

    def _row(self, code: Code) -> None:
        p, f, config = self.plan, self.plan.image, self.plan.config
        pitch = f.input_pitch or f.in_channels
        rows, columns = outside_needed(f)
        code.add(f"const int ih = row * {f.stride[0]} - {f.pad[0]} + kh * {f.dilation[0]};")
        code.add(f"const int line = (image * {f.in_height} + ih) * {f.in_width * pitch} + group;")
        with code.block(f"for (int kw = 0; kw < {f.kernel_width}; kw++)"):
            for i in range(config.pixels):
                code.add(f"const int iw{i} = at{i} + kw * {f.dilation[1]};")
                tests = [f"ih >= 0 && ih < {f.in_height}"] if rows else []
                tests += [f"iw{i} >= 0 && iw{i} < {f.in_width}"] if columns else []
                if tests:
                    code.add(f"const int inside{i} = {' && '.join(tests)};")
                code.add(f"__global const {type_of(f.input)} *from{i} = p_input + (line + iw{i} * {pitch});")
            with code.block(f"for (int block = 0; block < {p.blocks}; block++)"):
                for o in range(config.channels):
                    code.add(f"const {type_of(I8, p.block)} w{o} = {self._weights(o)};")
                for i in range(config.pixels):
                    loaded = f"vload{p.block}(0, from{i} + block * {p.block})"
                    guarded = f"inside{i} ? {loaded} : outside" if rows or columns else loaded
                    code.add(f"const {type_of(f.input, p.block)} x{i} = {guarded};")
                for i in range(config.pixels):
                    for o in range(config.channels):
                        total = f"sum{i}.s{o}" if config.channels > 1 else f"sum{i}"
                        code.add(f"{total} = {self._product(f'x{i}', f'w{o}', total)};")
                code.add(f"weights += {config.channels * p.block_bytes};")

    def _weights(self, channel: int) -> str:
        """A block of weights of one channel, unpacked."""
        p = self.plan
        loaded = f"vload{p.block_bytes}(0, weights + {channel * p.block_bytes})"
        return {8: loaded, 4: f"bl_unpack4({loaded})", 2: f"bl_unpack2({loaded})"}[p.field_bits]

    def _product(self, x: str, w: str, total: str) -> str:
        if self.plan.form.input is I16:
            return f"bl_dot8_short({x}, {w}, {total})"
        match self.plan.block:
            case 4:
                return f"DOT4({x}, {w}, {total})"
            case 8:
                return f"DOT4({x}.hi, {w}.hi, DOT4({x}.lo, {w}.lo, {total}))"
            case _:
                return f"DOT16({x}, {w}, {total})"

    def _store(self, code: Code) -> None:
        f, config = self.plan.image, self.plan.config
        pitch = f.output_pitch or f.out_channels
        for i in range(config.pixels):
            with code.block(f"if (column + {i} < {f.out_width})" if f.out_width % config.pixels else ""):
                pixel = f"((image * {f.out_height} + row) * {f.out_width} + column + {i})"
                value = finished(code, f, f"sum{i}", config.channels)
                stored(code, f, value, f"{pixel} * {pitch} + first", config.channels, f.out_channels)
