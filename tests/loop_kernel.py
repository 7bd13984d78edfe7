"""Builds the kernels of loop forms and runs them on numpy arrays, every operand between guards."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.loops.form import Buffer, Role
from compiler.loops.nest import span_of, strides_of
from compiler.numerics.element import Array, ElementType
from schedules.bits import pack_bits, packed_bytes, unpack_bits
from schedules.loops import LoopsPlan
from schedules.sums import SumsPlan

Kernel = Callable[..., int]
GUARD = 64  # bytes in front of and behind every operand that a kernel may read, never write
GARBAGE = 0x5A


def load_kernels(plans: Sequence[LoopsPlan | SumsPlan]) -> dict[str, Kernel]:
    """C functions of the plans by symbol, from one shared library."""
    with tempfile.TemporaryDirectory() as folder:
        objects = {plan.symbol: Path(folder) / f"{plan.symbol}.o" for plan in plans}
        for plan in plans:
            objects[plan.symbol].write_bytes(plan.build())
        library = Path(folder) / "kernels.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-o", str(library)]
        subprocess.run([*command, *map(str, objects.values())], check=True)
        loaded = ctypes.CDLL(str(library))
        return {plan.symbol: getattr(loaded, plan.symbol) for plan in plans}


class Storage:
    """An operand as the library stores it: a 64-byte aligned place between guards, gaps of strides filled."""

    def __init__(self, buffer: Buffer, activation_offset: int) -> None:
        is_code = buffer.element is ElementType.I8 and buffer.role is not Role.CONSTANT
        self.offset = activation_offset if is_code else 0
        self.buffer = buffer
        self.packed = buffer.element is ElementType.B1
        dtype = np.dtype(np.uint8) if self.offset or self.packed else buffer.element.dtype
        shape, strides = buffer.shape, strides_of(buffer)
        if self.packed:  # bytes of bits
            shape = (*shape[:-1], packed_bytes(shape[-1]))
            strides = (*(s // 8 for s in strides[:-1]), 1)
        size = (-(-span_of(buffer) // 8) if self.packed else span_of(buffer)) * dtype.itemsize
        raw = np.full(size + 2 * GUARD + 64, GARBAGE, np.uint8)
        start = GUARD + -(raw.ctypes.data + GUARD) % 64
        self.bytes = raw[start - GUARD : start + size + GUARD]
        self.flat = raw[start : start + size].view(dtype)
        self.view = as_strided(self.flat, shape, [s * dtype.itemsize for s in strides])

    def put(self, value: Array) -> None:
        if self.packed:
            value = pack_bits(value)
        self.view[...] = value.astype(np.int16) + self.offset if self.offset else value

    def get(self) -> Array:
        if self.packed:
            codes = unpack_bits(self.view, self.buffer.shape[-1])
            np.testing.assert_array_equal(pack_bits(codes), self.view)  # 0 behind the last code
            return codes
        value = self.view.astype(np.int16) - self.offset if self.offset else self.view
        return np.array(value, self.buffer.element.dtype)

    def untouched(self) -> bool:
        """Whether nothing but the elements was written."""
        guarded = self.bytes.copy()
        inside = guarded[GUARD : GUARD + self.flat.nbytes].view(self.flat.dtype)
        garbage = np.full(inside.itemsize, GARBAGE, np.uint8).view(inside.dtype)[0]
        as_strided(inside, self.view.shape, self.view.strides)[...] = garbage
        return bool((guarded == GARBAGE).all())


def stored(
    plan: LoopsPlan | SumsPlan, operands: Mapping[str, Array], aliases: Mapping[str, str] | None = None
) -> dict[str, Storage]:
    """Storage of every operand of the form. aliases: output name -> name of the input in its place."""
    result: dict[str, Storage] = {}
    constants = plan.pack({b.name: operands[b.name] for b in plan.form.operands if b.role is Role.CONSTANT})
    for buffer in plan.form.operands:
        if aliases and buffer.name in aliases:
            result[buffer.name] = result[aliases[buffer.name]]
            continue
        storage = result[buffer.name] = Storage(buffer, plan.machine.activation_offset)
        if buffer.role is not Role.OUTPUT:
            storage.put(constants.get(buffer.name, operands[buffer.name]))
    return result


def pointers(plan: LoopsPlan | SumsPlan, storage: Mapping[str, Storage], scratch: Array) -> list[Any]:
    places = {**{name: s.flat for name, s in storage.items()}, "scratch": scratch}
    return [ctypes.c_void_p(places[name].ctypes.data) for name in plan.operands]


def run_kernel(
    plan: LoopsPlan | SumsPlan,
    kernel: Kernel,
    operands: Mapping[str, Array],
    order: Sequence[int] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """The outputs, tile by tile in `order` (default: last first); checks that nothing else was written."""
    storage = stored(plan, operands, aliases)
    scratch = np.full(plan.scratch_bytes + 64, GARBAGE, np.uint8)
    arguments = pointers(plan, storage, scratch)
    for tile in order or tuple(reversed(range(plan.tiles))):
        assert kernel(*arguments, tile, tile + 1) == 0
    assert all(s.untouched() for s in storage.values()), "a kernel wrote outside its operand"
    return {b.name: storage[b.name].get() for b in plan.form.operands if b.role is Role.OUTPUT}
