"""Registers of VEC that layers of codes set: how operands are read, and how results become codes."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.numerics.element import ElementType
from sim.isa import Factors, Inputs, Output

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1  # bounds of a register's codes
SIGN_ZERO = 1  # zero point of results of one bit: VEC writes + above 0, where 0 counts as + too


@dataclass(frozen=True, slots=True)
class Finish:
    """How results become codes: floor(sum * multiplier / 2**shift + 1/2) + zero_out in [low, high]."""

    element: ElementType
    multiplier_a: int = 1
    multiplier_b: int = 0
    shift: int = 0
    zero_out: int = 0
    low: int = _LOW
    high: int = _HIGH

    def output(self, stride: int) -> Output:
        """stride: bytes between rows."""
        return Output(
            lookup=False,
            out_bits=self.element.bits,
            zero_point=self.zero_out,
            low=max(self.low, _LOW),
            high=min(self.high, _HIGH),
            stride=stride,
            table=0,
        )

    def factors(self) -> Factors:
        return Factors(multiplier_a=self.multiplier_a, multiplier_b=self.multiplier_b, shift=self.shift)


@dataclass(frozen=True, slots=True)
class Codes:
    """How an operand is read. stride: bytes between rows, 0 repeats one; scalar: one element for a row."""

    element: ElementType
    zero: int = 0
    stride: int = 0
    scalar: bool = False


def inputs(a: Codes, b: Codes | None = None, image_stride: int = 0) -> Inputs:
    """image_stride: bytes between rows of pixels, for `Pool`."""
    b = b or Codes(a.element)
    return Inputs(
        b_scalar=b.scalar,
        a_bits=a.element.bits,
        b_bits=b.element.bits,
        a_zero=a.zero,
        b_zero=b.zero,
        a_stride=a.stride,
        b_stride=b.stride,
        a_image_stride=image_stride,
    )
