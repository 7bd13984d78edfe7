"""Plans whose kernels are C that tests write, sound or with a fault: no device is told which."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.loops.form import LoopForm, Stage
from compiler.lowering.kernel import structural_digest
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array
from schedules.machines import host_machine
from tests import loop_families as f

SIZE = 4096
_COPY = "for (int i = 0; i < SIZE; i++) y[i] = x[i];"
# What the body of a kernel does with x and y, of SIZE bytes each.
BODIES = {
    "sound": _COPY,
    "slow": f"for (volatile int k = 0; k < 200000; k++); {_COPY}",
    "crashing": "*(volatile char *)8 = 1;",
    "aborting": "__builtin_trap();",
    "hanging": 'for (;;) __asm__ volatile ("");',
    "wrong": f"{_COPY} y[17] ^= 1;",
    "trespassing": f"{_COPY} y[SIZE + 3] = 0;",
    "failing": "return 7;",
    "greedy": "for (;;) { char *p = kept = malloc(1 << 22); if (p) memset(p, 1, 1 << 22); }",
}
_SOURCE = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define SIZE {size}
void *volatile kept;
int32_t {symbol}(const unsigned char *x, unsigned char *y, int32_t begin, int32_t end) {{
    if (begin == end) return 0;
    {body}
    return 0;
}}
"""


def copy_form() -> LoopForm:
    x, y = f.given("x", (SIZE,)), f.made("y", (SIZE,))
    return LoopForm("copy", (x, y), (Stage("y", y.axes(), x.load(*y.axes())),))


@dataclass(frozen=True)
class PlantedPlan:
    """A copy of 4096 codes. kind: of BODIES, or "unbuildable", "aborting compiler", "unlinkable"."""

    kind: str
    number: int = 0

    @property
    def form(self) -> LoopForm:
        return copy_form()

    @property
    def machine(self) -> CpuMachine:
        return host_machine()

    @property
    def config(self) -> str:
        return self.kind

    @property
    def symbol(self) -> str:
        return f"planted_{structural_digest(self.kind, self.number)}"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "y")

    @property
    def tiles(self) -> int:
        return 1

    @property
    def scratch_bytes(self) -> int:
        return 0

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return {}

    def build(self) -> bytes:
        match self.kind:
            case "unbuildable":
                raise ValueError("no registers are left for the sums")
            case "aborting compiler":
                import os

                os.write(2, b"LLVM ERROR: Cannot select: intrinsic %llvm.x86.nothing\n")
                os.abort()
            case "unlinkable":
                return b"\0" * 64
            case _:
                return _compiled(_SOURCE.format(size=SIZE, symbol=self.symbol, body=BODIES[self.kind]))


def _compiled(source: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.c"
        path.write_text(source)
        command = [sys.executable, "-m", "ziglang", "cc", "-c", "-O1", "-fPIC", "-fno-sanitize=undefined"]
        subprocess.run([*command, str(path), "-o", f"{folder}/kernel.o"], check=True)
        return (Path(folder) / "kernel.o").read_bytes()
