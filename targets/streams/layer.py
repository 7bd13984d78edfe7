"""What layers of the NPU have in common."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from compiler.ir.graph import Value
from compiler.lowering.program import KernelCall
from compiler.lowering.storage import Place, StorageBuffer, dense_strides
from compiler.numerics.element import Array
from schedules.npu_emit import Address, Emitter
from targets.streams.rules import Rule


class Memory(Protocol):
    """Where values and constants lie."""

    def place(self, value: Value) -> Place: ...

    def address(self, place: Place, item_bytes: int) -> Address: ...

    def constant(self, data: Array) -> Address:
        """Address of constant bytes."""
        ...


class _Nowhere:
    """For what does not depend on where anything lies."""

    def place(self, value: Value) -> Place:
        return Place(StorageBuffer(0))

    def address(self, place: Place, item_bytes: int) -> Address:
        return Address(False, 0)

    def constant(self, data: Array) -> Address:
        return Address(True, 0)


NOWHERE: Memory = _Nowhere()


class Layer(Protocol):
    """One kind of layer. rules: when the NPU takes it."""

    rules: ClassVar[tuple[Rule, ...]]

    def emit(self, e: Emitter, call: KernelCall, memory: Memory) -> None: ...


def item_bytes(value: Value) -> int:
    return value.type.element.dtype.itemsize


def strides_at(value: Value, place: Place) -> tuple[int, ...]:
    """Bytes between neighbours along each axis of a value that lies at `place`; along the last one of bits,
    between the bytes that hold them."""
    shape = value.type.element.stored_shape(value.type.shape)
    return tuple(s * item_bytes(value) for s in place.strides or dense_strides(shape))


def source(value: Value, memory: Memory) -> tuple[Address, tuple[int, ...]]:
    """Where an operand lies, and its strides in bytes; constants lie in C order, a code in each element."""
    if value.constant is None:
        place = memory.place(value)
        return memory.address(place, item_bytes(value)), strides_at(value, place)
    data = np.ascontiguousarray(value.constant, value.type.element.dtype)
    strides = tuple(s * item_bytes(value) for s in dense_strides(value.type.shape))
    return memory.constant(data.reshape(-1).view(np.uint8)), strides
