"""Loop forms: how an operator computes, said once for all targets and without any compiler library.

A form is pure structure: shapes, strides, element types, index arithmetic. Numbers that differ between
layers of equal structure (weights, multipliers, zero points, clamp bounds, tables) are operands of role
CONSTANT, so that equal layers share one kernel. Forms are values: equal structure compares and hashes
equal. There are two kinds: `LoopForm`, a list of loop nests that any target can generate code for, and
`Convolution`, the contraction that has schedules of its own on every target.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from compiler.loops.expression import Axis, Constant, Expression, Load
from compiler.numerics.element import ElementType


class Role(Enum):
    INPUT = "input"  # an activation, written by an earlier kernel or by the caller
    CONSTANT = "constant"  # known at compile time; read-only in the library
    OUTPUT = "output"  # an activation that this kernel writes
    SCRATCH = "scratch"  # private to one call, small


@dataclass(frozen=True, slots=True)
class Buffer:
    """An operand of a kernel. strides: in elements, None for C order. Distinct buffers never overlap,
    unless the form is `in_place`."""

    name: str
    shape: tuple[int, ...]
    element: ElementType
    role: Role
    strides: tuple[int, ...] | None = None

    def load(self, *indices: Expression | int) -> Load:
        if len(indices) != len(self.shape):
            raise ValueError(f"{self.name} has {len(self.shape)} axes, not {len(indices)}")
        return Load(
            self.name,
            tuple(i if isinstance(i, Expression) else Constant(i) for i in indices),
            self.element,
        )

    def axes(self) -> tuple[Axis, ...]:
        """One loop axis per dimension, named i0, i1, …"""
        return tuple(Axis(f"i{d}", extent) for d, extent in enumerate(self.shape))


class Reduction(Enum):
    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Stage:
    """output[axes + origin] = value, for all axes; with `over`, the reduction of value over those axes,
    starting from `initial`. Each element is written once, and no stage reads what it writes."""

    output: str
    axes: tuple[Axis, ...]
    value: Expression
    over: tuple[Axis, ...] = ()
    reduction: Reduction = Reduction.SUM
    initial: Expression | None = None
    origin: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if bool(self.over) != (self.initial is not None):
            raise ValueError(f"stage {self.output}: a reduction needs axes and an initial value")


@dataclass(frozen=True, slots=True)
class LoopForm:
    """Stages run in order. Operands of the kernel are the buffers that are no scratch, in order."""

    name: str
    buffers: tuple[Buffer, ...]
    stages: tuple[Stage, ...]
    in_place: bool = False  # output i may be input i: each element is read before it is written

    def __post_init__(self) -> None:
        names = [b.name for b in self.buffers]
        if len(set(names)) != len(names):
            raise ValueError(f"form {self.name}: two buffers of one name in {names}")
        for stage in self.stages:
            if stage.output not in names:
                raise ValueError(f"form {self.name}: stage writes unknown buffer {stage.output}")

    @property
    def operands(self) -> tuple[Buffer, ...]:
        return tuple(b for b in self.buffers if b.role is not Role.SCRATCH)

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)


@dataclass(frozen=True, slots=True)
class Convolution:
    """Two-dimensional convolution of codes, NHWC by OHWI; a dense layer is the case of 1x1 kernels.

    accumulator[n,oh,ow,o] = bias[o] + sum over kh, kw, c of
        (input[n, oh*stride + kh*dilation - pad, …, group(o)*C/groups + c] - zp_in) * weight[o,kh,kw,c]
    with the difference 0 outside the image; output = accumulator (output element I32), or
    clamp(zp_out + rescale(accumulator, multiplier[o], shift[o]), low, high); for the output element B1,
    clamp(+1 where accumulator >= 0, else -1, low, high).

    Operands in order: input [batch, in_height, in_width, in_channels]; weight int8 codes
    [out_channels, kernel_height, kernel_width, in_channels / groups] (unpacked, logical); bias I32
    [out_channels]; multiplier I32, shift I32 [out_channels] (absent for I32 and B1); parameters I32 [4]
    = (zp_in, zp_out, low, high); output [batch, out_height, out_width, out_channels].
    input_pitch, output_pitch: elements between neighbouring pixels; more than the channels where the
    tensor is a channel slice of a wider one (a concatenation without copies).
    """

    batch: int
    in_height: int
    in_width: int
    in_channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel_height: int
    kernel_width: int
    input: ElementType
    weight: ElementType
    output: ElementType
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)  # top, left; bottom and right follow from out_height, out_width
    groups: int = 1
    input_pitch: int | None = None
    output_pitch: int | None = None

    def __post_init__(self) -> None:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"{self.in_channels}->{self.out_channels} channels in {self.groups} groups")

    @property
    def depthwise(self) -> bool:
        """One filter per input channel."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def requantizes(self) -> bool:
        """Whether the accumulators are multiplied by factors."""
        return self.output not in (ElementType.I32, ElementType.B1)

    @property
    def taps(self) -> int:
        """Products per output element."""
        return self.kernel_height * self.kernel_width * self.in_channels // self.groups

    @property
    def macs(self) -> int:
        return self.batch * self.out_height * self.out_width * self.out_channels * self.taps


Form = LoopForm | Convolution
