"""Builds kernels of plans and calls them from tests: ctypes here, or qemu for another architecture."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compiler.lowering.kernel import KernelPlan
from compiler.numerics.element import Array


def shared_library(objects: Mapping[str, bytes], folder: Path) -> ctypes.CDLL:
    """The objects (by name) linked and loaded; `folder` must outlive nothing."""
    paths: list[str] = []
    for name, contents in objects.items():
        path = folder / f"{name}.o"
        path.write_bytes(contents)
        paths.append(str(path))
    library = folder / "kernels.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-o", str(library), *paths]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def load(plans: Sequence[KernelPlan]) -> dict[str, ctypes._CFuncPtr]:  # pyright: ignore[reportPrivateUsage]
    """C functions of the plans by symbol, from one library."""
    with tempfile.TemporaryDirectory() as folder:
        library = shared_library({p.symbol: p.build() for p in plans}, Path(folder))
        return {p.symbol: getattr(library, p.symbol) for p in plans}


def aligned(contents: Array, before: int = 64, behind: int = 64, fill: int = 0xA5) -> Array:
    """A copy of `contents` at a 64-byte aligned address with readable garbage around it."""
    raw = np.full(contents.nbytes + before + behind + 64, fill, np.uint8)
    start = before + (-(raw.ctypes.data + before)) % 64
    copy = raw[start : start + contents.nbytes].view(contents.dtype).reshape(contents.shape)
    copy[...] = contents
    return copy


def call(
    function: ctypes._CFuncPtr,  # pyright: ignore[reportPrivateUsage]
    operands: Sequence[Array],
    ranges: Sequence[tuple[int, int]],
) -> None:
    """Runs the tiles of `ranges` in turn on operands that live at their own addresses."""
    pointers = [ctypes.c_void_p(o.ctypes.data) for o in operands]
    for begin, end in ranges:
        if function(*pointers, ctypes.c_int32(begin), ctypes.c_int32(end)) != 0:
            raise RuntimeError("kernel reported a failure")
