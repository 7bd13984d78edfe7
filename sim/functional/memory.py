"""Memories of a core: what they hold, and which of it has ever been written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from compiler.numerics.element import Array, ElementType
from compiler.numerics.packing import pack, unpack

ELEMENTS = {
    1: ElementType.B1,
    2: ElementType.I2,
    4: ElementType.I4,
    8: ElementType.I8,
    16: ElementType.I16,
    32: ElementType.I32,
}


class CoreError(ValueError):
    """What a core cannot do; whoever knows the instruction adds its index and text."""


@dataclass(slots=True)
class Bytes:
    """A memory of bytes. written: which bytes hold something; None where all do (outside of the core)."""

    name: str
    data: Array
    written: Array | None = field(default=None)

    def read(self, base: int, shape: Sequence[int], strides: Sequence[int]) -> Array:
        """A view [*shape] of bytes `strides` apart.

        Errors: CoreError where it leaves the memory, or sees what nobody wrote.
        """
        end = self._check(base, shape, strides)
        if self.written is not None and not self.written[base:end].all():
            seen = _strided(self.written, base, shape, strides)
            if not seen.all():
                first = np.argwhere(~seen)[0]
                at = base + int((first * np.array(strides)).sum())
                raise CoreError(f"reads byte {at} of {self.name}, which nobody has written")
        return _strided(self.data, base, shape, strides)

    def write(self, base: int, strides: Sequence[int], values: Array) -> None:
        """Bytes of the array, `strides` apart; later ones win where they meet."""
        self._check(base, values.shape, strides)
        _strided(self.data, base, values.shape, strides)[...] = values
        if self.written is not None:
            _strided(self.written, base, values.shape, strides)[...] = True

    def _check(self, base: int, shape: Sequence[int], strides: Sequence[int]) -> int:
        end = base + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        if end > self.data.size:
            raise CoreError(f"reaches bytes {base}..{end - 1} of {self.name}, which has {self.data.size}")
        return end

    def read_rows(self, base: int, rows: int, stride: int, count: int, bits: int) -> Array:
        """Codes [rows, count] of packed rows that begin `stride` bytes apart."""
        return unpack_rows(self.read(base, (rows, row_bytes(count, bits)), (stride, 1)), count, bits)

    def write_rows(self, base: int, stride: int, codes: Array, bits: int) -> None:
        """Codes [rows, count], packed."""
        self.write(base, (stride, 1), pack_rows(codes, bits))


def row_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def unpack_rows(data: Array, count: int, bits: int) -> Array:
    """Packed bytes [rows, bytes] -> codes [rows, count]."""
    rows, width = data.shape
    codes = unpack(np.ascontiguousarray(data).reshape(-1), ELEMENTS[bits], rows * width * 8 // bits)
    return codes.reshape(rows, -1)[:, :count]


def pack_rows(codes: Array, bits: int) -> Array:
    """Codes [rows, count] -> packed bytes [rows, bytes], each row filled up with zero bits.

    Errors: CoreError where a code does not fit.
    """
    rows, count = codes.shape
    element = ELEMENTS[bits]
    if codes.min() < element.low or codes.max() > element.high:
        raise CoreError(f"results in [{codes.min()}, {codes.max()}] do not fit {bits} bits")
    spare = -count % max(1, 8 // bits)
    if element is ElementType.B1:
        codes = np.where(codes > 0, 1, -1)  # of 0 and 1 both are written as the sign says
    if spare:
        codes = np.pad(codes, ((0, 0), (0, spare)), constant_values=-1 if element is ElementType.B1 else 0)
    return pack(codes, element).reshape(rows, -1)


def _strided(array: Array, base: int, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Whoever calls has checked the bounds."""
    return np.lib.stride_tricks.as_strided(array[base:], shape, strides)


@dataclass(slots=True)
class Words:
    """The accumulators: int32 words."""

    data: Array
    written: Array

    def read(self, base: int, count: int) -> Array:
        """int64 [count]; errors as `Bytes.read`."""
        self._check(base, count)
        if not self.written[base : base + count].all():
            at = base + int(np.argmin(self.written[base : base + count]))
            raise CoreError(f"reads word {at} of the accumulators, which nobody has written")
        return self.data[base : base + count].astype(np.int64)

    def write(self, base: int, values: Array) -> None:
        """int64 values of any shape; they wrap at 32 bits."""
        self._check(base, values.size)
        self.data[base : base + values.size] = values.reshape(-1).astype(np.int32)
        self.written[base : base + values.size] = True

    def _check(self, base: int, count: int) -> None:
        if base + count > self.data.size:
            raise CoreError(
                f"reaches words {base}..{base + count - 1} of the accumulators, which have {self.data.size}"
            )
