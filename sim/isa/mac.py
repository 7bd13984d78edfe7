"""Instructions of MAC, and the window that VEC uses too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.fields import bits, flag
from sim.isa.base import ENGINE_BITS, Engine, Instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Instruction):
    """Register of MAC or VEC: a window that moves over an image in the activation memory.

    Position (i, j) of the kernel looks, for output (y, x), at pixel (y * stride_y + i * dilation_y - pad_top,
    x * stride_x + j * dilation_x - pad_left) of an image of height x width; outside of it products are 0.
    """

    opcode: ClassVar[int] = 9
    mnemonic: ClassVar[str] = "window"
    engine: Engine = bits(ENGINE_BITS, among=(Engine.MAC, Engine.VEC), why="windows belong to MAC and VEC")
    kernel_y: int = bits(8, positive=True)
    kernel_x: int = bits(8, positive=True)
    stride_y: int = bits(5, positive=True)
    stride_x: int = bits(5, positive=True)
    dilation_y: int = bits(5, positive=True)
    dilation_x: int = bits(5, positive=True)
    pad_top: int = bits(8)
    pad_left: int = bits(8)
    height: int = bits(12, positive=True)
    width: int = bits(12, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands(Instruction):
    """Register of MAC: the image's layout and both operands' codes.

    channels: consecutive elements that each position of the kernel contributes to the reduction; they may
    reach over following pixels (one kernel row of an image of few channels is one run of memory).
    Strides between rows and pixels in bytes. Zero points are subtracted from codes before the product.
    """

    opcode: ClassVar[int] = 10
    engine_of_opcode: ClassVar[Engine | None] = Engine.MAC
    mnemonic: ClassVar[str] = "operands"
    act_bits: int = bits(3, log2=True, among=(1, 2, 4, 8, 16), why="activations have 1, 2, 4, 8 or 16")
    wgt_bits: int = bits(3, log2=True, among=(1, 2, 4, 8), why="weights have 1, 2, 4 or 8")
    act_zero: int = bits(16, signed=True)
    wgt_zero: int = bits(8, signed=True)
    channels: int = bits(16, positive=True)
    row_stride: int = bits(20)
    pixel_stride: int = bits(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm(Instruction):
    """rows x columns outputs by `outputs` channels: accumulators [rows, columns, outputs].

    Weights: [block of output lanes][kernel_y][kernel_x][channels][outputs of the block], each row of a block
    packed and begun at a byte. accumulate: adds to the accumulators instead of overwriting them. Sums wrap at
    32 bits. Uses `Window` and `Operands`.
    """

    opcode: ClassVar[int] = 11
    engine_of_opcode: ClassVar[Engine | None] = Engine.MAC
    mnemonic: ClassVar[str] = "gemm"
    accumulate: bool = flag()
    act: int = bits(20)
    wgt: int = bits(20)
    acc: int = bits(18)
    rows: int = bits(12, positive=True)
    columns: int = bits(12, positive=True)
    outputs: int = bits(12, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Depthwise(Instruction):
    """As `Gemm`, with one filter for each channel of `Operands`: accumulators [rows, columns, channels].

    Weights: [kernel_y][kernel_x][channels], each row packed and begun at a byte.
    """

    opcode: ClassVar[int] = 12
    engine_of_opcode: ClassVar[Engine | None] = Engine.MAC
    mnemonic: ClassVar[str] = "depthwise"
    accumulate: bool = flag()
    act: int = bits(20)
    wgt: int = bits(20)
    acc: int = bits(18)
    rows: int = bits(12, positive=True)
    columns: int = bits(12, positive=True)
