"""Builds kernels of plans and calls them from tests: ctypes here, or qemu for another architecture."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from compiler.lowering.kernel import KernelPlan
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array
from schedules.arm_machines import ARM32_MACHINES

KernelFunction = Callable[..., int]


def shared_library(objects: Mapping[str, bytes], folder: Path) -> ctypes.CDLL:
    """The objects (by name) linked in `folder` and loaded."""
    paths: list[str] = []
    for name, contents in objects.items():
        path = folder / f"{name}.o"
        path.write_bytes(contents)
        paths.append(str(path))
    library = folder / "kernels.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-o", str(library), *paths]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def load(plans: Sequence[KernelPlan]) -> dict[str, KernelFunction]:
    """C functions of the plans by symbol, from one library."""
    with tempfile.TemporaryDirectory() as folder:
        library = shared_library({p.symbol: p.build() for p in plans}, Path(folder))
        return {p.symbol: getattr(library, p.symbol) for p in plans}


def guarded(contents: Array, alignment: int = 64, slack: int = 64, fill: int = 0xA5) -> Array:
    """A copy of `contents` with garbage around it, which ends `slack` bytes before an unreadable page.

    The start is a multiple of `alignment`, for which the end moves up by less than that.
    """
    page = mmap.PAGESIZE
    space = -(-contents.nbytes // alignment) * alignment + slack
    pages = -(-(space + 64) // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    raw = np.frombuffer(memory, np.uint8)
    raw[: pages * page] = fill
    start = pages * page - space
    copy = raw[start : start + contents.nbytes].view(contents.dtype).reshape(contents.shape)
    copy[...] = contents
    end = ctypes.c_void_p(raw.ctypes.data + pages * page)
    if ctypes.CDLL(None).mprotect(end, ctypes.c_size_t(page), 0) != 0:
        raise OSError("mprotect failed")
    return copy


def call(
    function: KernelFunction,
    operands: Sequence[Array],
    ranges: Sequence[tuple[int, int]],
) -> None:
    """Runs the tiles of `ranges` in turn on operands that live at their own addresses."""
    pointers = [ctypes.c_void_p(o.ctypes.data) for o in operands]
    for begin, end in ranges:
        if function(*pointers, ctypes.c_int32(begin), ctypes.c_int32(end)) != 0:
            raise RuntimeError("kernel reported a failure")


def emulation(machine: CpuMachine) -> tuple[str, str]:
    """zig's target and qemu's program for an Arm machine, of 64 or 32 bits."""
    if machine in ARM32_MACHINES.values():
        return "arm-linux-musleabihf", "qemu-arm"
    return "aarch64-linux-musl", "qemu-aarch64"


_RUNNER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
extern int32_t SYMBOL(POINTERS, int32_t, int32_t);
static char *part(FILE *f, long bytes) {
    char *p = (char *)(((uintptr_t)malloc(bytes + 256) + 127) / 64 * 64);
    for (long i = -64; i < bytes + 64; i++) p[i] = (char)0xA5;
    if (fread(p, 1, bytes, f) != (size_t)bytes) exit(3);
    return p;
}
int main(int argc, char **argv) {
    static const long bytes[] = { BYTES };
    char *p[COUNT];
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    for (int i = 0; i < COUNT; i++) p[i] = part(in, bytes[i]);
    int status = SYMBOL(ARGUMENTS, 0, TILES);
    for (int i = 0; i < COUNT; i++) fwrite(p[i], 1, bytes[i], out);
    return fclose(out) || status;
}
"""


def call_on_arm(plan: KernelPlan, operands: Sequence[Array]) -> list[Array]:
    """Contents of the operands after all tiles have run on the plan's Arm machine, emulated by qemu."""
    count = len(operands)
    words = {
        "SYMBOL": plan.symbol,
        "POINTERS": ", ".join(["void *"] * count),
        "BYTES": ", ".join(str(o.nbytes) for o in operands),
        "COUNT": str(count),
        "ARGUMENTS": ", ".join(f"p[{i}]" for i in range(count)),
        "TILES": str(plan.tiles),
    }
    source = _RUNNER
    for word, text in words.items():
        source = source.replace(word, text)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.c").write_text(source)
        (folder / "kernel.o").write_bytes(plan.build())
        (folder / "in").write_bytes(b"".join(o.tobytes() for o in operands))
        triple, qemu = emulation(plan.machine)
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-static"]
        subprocess.run([*compiler, "main.c", "kernel.o", "-o", "run"], cwd=folder, check=True)
        subprocess.run([qemu, "-cpu", "max", "./run", "in", "out"], cwd=folder, check=True)
        contents = (folder / "out").read_bytes()
    after: list[Array] = []
    for operand in operands:
        size = operand.nbytes
        after.append(np.frombuffer(contents[:size], operand.dtype).reshape(operand.shape))
        contents = contents[size:]
    return after
