"""Memories of a core: what they hold, and which of it has ever been written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from compiler.numerics.element import Array, ElementType
from compiler.numerics.packing import pack, unpack

_T = TypeVar("_T")
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
    """A memory of bytes. written: a 1 for each byte that holds something; None where all do (outside of the
    core). derived: what was computed of contents, by begin, end and what it is for, until they change."""

    name: str
    data: Array
    written: bytearray | None = field(default=None)
    derived: dict[tuple[int, int, Hashable], Any] = field(
        default_factory=dict[tuple[int, int, Hashable], Any]
    )

    def read(self, base: int, shape: Sequence[int], strides: Sequence[int]) -> Array:
        """A view [*shape] of bytes `strides` apart.

        Errors: CoreError where it leaves the memory, or sees what nobody wrote.
        """
        end = self._end(base, shape, strides)
        if self.written is not None and self.written.find(0, base, end) >= 0:
            seen = _strided(self.written, base, shape, strides)
            if not seen.all():
                first = np.argwhere(seen == 0)[0]
                at = base + int((first * np.array(strides)).sum())
                raise CoreError(f"reads byte {at} of {self.name}, which nobody has written")
        return _strided(self.data, base, shape, strides)

    def write(self, base: int, strides: Sequence[int], values: Array) -> None:
        """Bytes of the array, `strides` apart; later ones win where they meet."""
        end = self._end(base, values.shape, strides)
        _strided(self.data, base, values.shape, strides)[...] = values
        if self.written is not None:
            _strided(self.written, base, values.shape, strides)[...] = 1
        if self.derived:
            self.derived = {k: v for k, v in self.derived.items() if k[0] >= end or k[1] <= base}

    def derive(self, base: int, data: Array, use: Hashable, make: Callable[[Array], _T]) -> _T:
        """`make(data)` of contiguous bytes that were read at `base`, once as long as they stay the same.

        use: all that the result depends on beside the bytes. It is shared: nobody may change it.
        """
        key = (base, base + data.size, use)
        found = self.derived.get(key)
        if found is None:
            found = self.derived[key] = make(data)
        return found

    def _end(self, base: int, shape: Sequence[int], strides: Sequence[int]) -> int:
        end = base + 1
        for n, s in zip(shape, strides, strict=True):
            end += (n - 1) * s
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
    """Packed bytes [rows, bytes] -> codes [rows, count]; of 8 bits, a view."""
    if bits == 8:
        return data.view(np.int8)
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
    if bits == 8:
        return codes.astype(np.int8).view(np.uint8)
    spare = -count % max(1, 8 // bits)
    if element is ElementType.B1:
        codes = np.where(codes > 0, 1, -1)  # of 0 and 1 both are written as the sign says
    if spare:
        codes = np.pad(codes, ((0, 0), (0, spare)), constant_values=-1 if element is ElementType.B1 else 0)
    return pack(codes, element).reshape(rows, -1)


def _strided(buffer: Array | bytearray, base: int, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Whoever calls has checked the bounds."""
    # Cheaper than as_strided; the buffer is uint8 and contiguous.
    return np.ndarray(shape, np.uint8, buffer, base, strides)


@dataclass(slots=True)
class Words:
    """The accumulators: int32 words."""

    data: Array
    written: bytearray

    def read(self, base: int, count: int) -> Array:
        """int32 [count], a view; errors as `Bytes.read`."""
        end = self._end(base, count)
        at = self.written.find(0, base, end)
        if at >= 0:
            raise CoreError(f"reads word {at} of the accumulators, which nobody has written")
        return self.data[base:end]

    def write(self, base: int, values: Array) -> None:
        """Integers of any shape; they wrap at 32 bits."""
        end = self._end(base, values.size)
        self.data[base:end] = values.reshape(-1).astype(np.int32)
        self.written[base:end] = b"\1" * values.size

    def _end(self, base: int, count: int) -> int:
        if base + count > self.data.size:
            raise CoreError(
                f"reaches words {base}..{base + count - 1} of the accumulators, which have {self.data.size}"
            )
        return base + count
