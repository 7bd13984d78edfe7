"""A convolution of bipolar codes as an implicit product of rows of bits, walked in 32-bit words.

Bits that stand for no channel are 0 in activations (see `schedules.bits`) and in weights, so that they never
differ. The sum of products over n channels is n - 2 * (bits that differ).
"""

from __future__ import annotations

from dataclasses import replace

from compiler.loops.form import Convolution
from compiler.lowering.machine import DotProduct
from compiler.numerics.element import ElementType
from schedules.bits import packed_bytes
from schedules.convolution_geometry import DotShape, Geometry, check_output, walk

# Bytes of a word: what one lane takes of the reduction at a time.
WORD = 4


def is_binary(form: Convolution) -> bool:
    """Whether both operands are bipolar."""
    return form.input is form.weight is ElementType.B1


def byte_form(form: Convolution) -> Convolution:
    """The form whose channels are bytes of the given form's."""
    byte = ElementType.I8
    return replace(form, in_channels=packed_bytes(form.in_channels), input=byte, weight=byte)


def binary_geometry(form: Convolution) -> Geometry:
    """The walk over bytes. Errors: ValueError for forms that no kernel takes."""
    if not is_binary(form):
        raise ValueError(f"b1 codes meet b1 weights, not {form.input.value} and {form.weight.value}")
    if form.groups != 1:
        raise ValueError("a convolution of b1 codes has one group of channels")
    if form.input_pitch is not None:
        raise ValueError("b1 codes are no slice of a wider tensor")
    check_output(form)
    return walk(byte_form(form), DotShape(DotProduct.NONE, WORD, "uint8"), "uint8")
