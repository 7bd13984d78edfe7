"""Instructions of VEC: from accumulators to codes, and from codes to codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from sim.fields import bits, flag
from sim.isa.base import Engine, Instruction

_WIDTHS = (1, 2, 4, 8, 16, 32)


class Binary(IntEnum):
    """Functions of `elementwise`, of codes a and b. With A = a - a_zero and B = b - b_zero of `inputs`,

    ADD: floor((A * multiplier_a + B * multiplier_b) / 2**shift + 1/2) + zero_point.

    MUL: floor(A * B * multiplier_a / 2**shift + 1/2) + zero_point.

    RESCALE: floor(A * multiplier_a / 2**shift + 1/2) + zero_point; b is not read.

    MIN, MAX: the smaller or larger of a and b, as codes. MOVE: a; b is not read.

    Sums and products have 64 bits. With shift 0 nothing is rounded.
    """

    ADD = 0
    MUL = 1
    RESCALE = 2
    MIN = 3
    MAX = 4
    MOVE = 5


class Reduce(IntEnum):
    """Functions of `pool`.

    MAX: the largest code inside the image (the lowest of all codes where the window sees nothing).

    SUM: floor(sum of (code - a_zero) * multiplier_a / 2**shift + 1/2) + zero_point.
    """

    MAX = 0
    SUM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Instruction):
    """Register of VEC: how results are written. stride: bytes between rows (pixels) of a result.

    low, high: bounds of the codes, zero point included. lookup: the bounded 8-bit code q of a `Requantize`
    is replaced by the table's entry at byte table + q + 128 (for results of at most 8 bits).
    """

    opcode: ClassVar[int] = 13
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "output"
    ascending: ClassVar[tuple[str, str] | None] = ("low", "high")
    lookup: bool = flag()
    out_bits: int = bits(3, log2=True, among=_WIDTHS, why="results have 1, 2, 4, 8, 16 or 32")
    zero_point: int = bits(16, signed=True)
    low: int = bits(16, signed=True)
    high: int = bits(16, signed=True)
    stride: int = bits(20)
    table: int = bits(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs(Instruction):
    """Register of VEC: operands a and b in the activation memory; strides in bytes.

    a_stride, b_stride: between rows (pixels); 0 repeats one row. b_scalar: one element of b for a whole row.
    a_image_stride: between rows of pixels, for `Pool`.
    """

    opcode: ClassVar[int] = 14
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "inputs"
    b_scalar: bool = flag()
    a_bits: int = bits(3, log2=True, among=_WIDTHS, why="the most is 32")
    b_bits: int = bits(3, log2=True, among=_WIDTHS, why="the most is 32")
    a_zero: int = bits(16, signed=True)
    b_zero: int = bits(16, signed=True)
    a_stride: int = bits(20)
    b_stride: int = bits(20)
    a_image_stride: int = bits(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors(Instruction):
    """Register of VEC: factors of element-wise functions and sums (see `Binary` and `Reduce`).

    shift 0 rounds nothing: results are exact integers.
    """

    opcode: ClassVar[int] = 15
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "factors"
    multiplier_a: int = bits(32, signed=True)
    multiplier_b: int = bits(32, signed=True)
    shift: int = bits(6, among=range(63), why="the most is 62")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantize(Instruction):
    """Accumulators [pixels, channels] -> codes at `dst`, by parameters at `param` (see sim/parameters.py).

    code = clamp(floor((acc + bias) * multiplier / 2**shift + 1/2) + zero_point, low, high); out_bits = 32
    writes acc + bias. per_tensor: one entry of parameters for all channels. Uses `Output`.
    """

    opcode: ClassVar[int] = 16
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "requantize"
    per_tensor: bool = flag()
    acc: int = bits(18)
    dst: int = bits(20)
    param: int = bits(16)
    pixels: int = bits(16, positive=True)
    channels: int = bits(12, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Instruction):
    """rows x count elements of a and b -> dst. Uses `Inputs`, `Factors`, `Output`.

    Results are clamped to low..high, except those of 32 bits.
    """

    opcode: ClassVar[int] = 17
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "elementwise"
    function: Binary = bits(3)
    a: int = bits(20)
    b: int = bits(20)
    dst: int = bits(20)
    rows: int = bits(16, positive=True)
    count: int = bits(16, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Instruction):
    """rows x columns outputs by `channels`, over the image at a. Uses `Window` of VEC, `Inputs`, `Factors`,
    `Output`."""

    opcode: ClassVar[int] = 18
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "pool"
    function: Reduce = bits(1)
    a: int = bits(20)
    dst: int = bits(20)
    rows: int = bits(12, positive=True)
    columns: int = bits(12, positive=True)
    channels: int = bits(16, positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup(Instruction):
    """rows x count codes of a -> entries of the table at byte `table`. Uses `Inputs` and `Output`.

    Codes of at most 8 bits: entry (code - lowest code), of 8 bits, or of 16 for 16-bit results. Codes of 16
    bits: linear between 513 entries of 16 bits, as compiler.numerics.tables says. Results are clamped.
    """

    opcode: ClassVar[int] = 19
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "lookup"
    a: int = bits(20)
    dst: int = bits(20)
    rows: int = bits(16, positive=True)
    count: int = bits(16, positive=True)
    table: int = bits(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Instruction):
    """Each row of `count` 8- or 16-bit codes of a -> probabilities in steps of 2**-out_bits (8 or 16).

    With d = max - code: 8-bit codes take e = table[d], 16-bit ones the product of coarse[d >> 8] and
    fine[d & 255] (two tables of 256 int32 in Q30, one behind the other) rounded to Q16 for 8-bit results, to
    Q30 for 16-bit ones; min(floor(e * 2**b / sum + 1/2), 2**b - 1) - 2**(b - 1). Uses `Inputs`, `Output`.
    """

    opcode: ClassVar[int] = 20
    engine_of_opcode: ClassVar[Engine | None] = Engine.VEC
    mnemonic: ClassVar[str] = "softmax"
    a: int = bits(20)
    dst: int = bits(20)
    rows: int = bits(16, positive=True)
    count: int = bits(16, positive=True)
    table: int = bits(12)
