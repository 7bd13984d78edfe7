"""Kernels that go wrong in every way there is: plans whose object files are C, written here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.loops.form import LoopForm, Stage
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array
from schedules.tuning.measure import Outcome
from targets.measuring.program import static_triple
from tests import loop_families as f

SIZE = 256
_X, _Y = f.given("x", (SIZE,)), f.made("y", (SIZE,))
COPY = LoopForm("copy", (_X, _Y), (Stage("y", _Y.axes(), _X.load(*_Y.axes())),))

_HEAD = """
#include <stdint.h>
#include <stdlib.h>
static int32_t copy(const volatile char *x, volatile char *y)
{{
    for (int i = 0; i < {size}; i++)
        y[i] = x[i];
    return 0;
}}
static int32_t deeper(volatile char *y)
{{
    volatile char more[65536];
    more[0] = y[0];
    return deeper(more) + more[0];
}}
int32_t {symbol}(const volatile char *x, volatile char *y, int32_t begin, int32_t end)
{{
    (void)begin, (void)end, (void)deeper;
    {body}
}}
"""
_BODIES = {
    "right": "return copy(x, y);",
    "slower": "for (int i = 0; i < 200; i++) copy(x, y); return 0;",
    "crashes": "*(volatile int *)8 = copy(x, y); return 0;",
    "overflows": "return copy(x, y) + deeper(y);",
    "hangs": "for (volatile int i = copy(x, y);;) i = i;",
    "eats": "for (;;) for (volatile char *m = malloc(1 << 20), *p = m; p < m + (1 << 20); p += 4096) *p = 1;",
    "differs": "copy(x, y); y[7] ^= 1; return 0;",
    "overruns": "y[{size} + 3] = 0; return copy(x, y);",
    "refuses": "copy(x, y); return 5;",
    # On boards: ends the parent, which is what measures.
    "kills": "extern int getppid(void); extern int kill(int, int); kill(getppid(), 9); for (;;) copy(x, y);",
}
# What each is found to be; the words that say why.
FAULTS = {
    "crashes": (Outcome.CRASHED, "it was ended by SIGSEGV"),
    "overflows": (Outcome.CRASHED, "it was ended by SIGSEGV"),
    "hangs": (Outcome.HUNG, "it did not end within 2 s"),
    "eats": (Outcome.OUT_OF_MEMORY, "it needs more than 256 MiB"),
    "differs": (Outcome.WRONG, "1 of 256 bytes of y differ, the first at 7"),
    "overruns": (Outcome.WRONG, "it wrote beside y, which is not its to write"),
    "refuses": (Outcome.CRASHED, "it returned the status 5"),
    "raises": (Outcome.NOT_BUILT, "ValueError: no such tile"),
    "aborts": (Outcome.NOT_BUILT, "the compiler was ended by SIGABRT"),
    "grows": (Outcome.OUT_OF_MEMORY, "it needs more than 256 MiB"),
}


@dataclass(frozen=True)
class FaultyPlan:
    """A KernelPlan that copies 256 bytes, or fails as `config` says."""

    machine: CpuMachine
    config: str
    number: int = 0  # tells plans of one fault apart
    form: LoopForm = COPY
    operands: tuple[str, ...] = ("x", "y")
    tiles: int = 1

    @property
    def symbol(self) -> str:
        return f"copy_{self.config}_{self.number}"

    @property
    def scratch_bytes(self) -> int:
        return 0

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        return dict(constants)

    def build(self) -> bytes:
        if self.config == "raises":
            raise ValueError("no such tile")
        if self.config == "aborts":
            os.abort()
        with tempfile.TemporaryDirectory() as name:
            source, made = Path(name) / "kernel.c", Path(name) / "kernel.o"
            body = _BODIES[self.config].replace("{size}", str(SIZE))
            source.write_text(_HEAD.format(symbol=self.symbol, size=SIZE, body=body))
            command = [sys.executable, "-m", "ziglang", "cc", "-target", static_triple(self.machine), "-O1"]
            subprocess.run([*command, "-w", "-c", str(source), "-o", str(made)], check=True)
            return made.read_bytes()


@dataclass(frozen=True)
class GrowingPlan(FaultyPlan):
    """Wants scratch memory beyond any limit."""

    operands: tuple[str, ...] = ("x", "y", "scratch")

    @property
    def scratch_bytes(self) -> int:
        return 3 << 30

    @property
    def symbol(self) -> str:
        return f"copy_right_{self.number}"

    def build(self) -> bytes:
        return FaultyPlan(self.machine, "right", self.number).build()


def faulty(machine: CpuMachine, config: str, number: int = 0) -> FaultyPlan:
    kind = GrowingPlan if config == "grows" else FaultyPlan
    return kind(machine, config, number)
