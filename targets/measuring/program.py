"""A static program that measures candidates wherever it is copied: one file, its request behind its code.

`targets/runtime/bitloom_measure.c` says what it does and prints.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.machine import CpuMachine
from compiler.lowering.program import SCRATCH
from schedules.arm_machines import ARM32_MACHINES
from targets.library.emit import RUNTIME_INCLUDE
from targets.library.toolchain import Toolchain
from targets.measuring.operands import StoredOperands

_MAGIC = 0x314D4C42
_NO_BLOB = -1
_NAME_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a candidate may take: time of its checked run and its timing together, and memory."""

    seconds: float = 10.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How a candidate that is right is measured.

    counted: its checked run lies between two marks for the emulator's plugin, and nothing is timed. repeats:
    repetitions, each of as many calls as take `slice_seconds`. pause_seconds: waits behind each candidate, so
    that a board without a fan cools down.
    """

    counted: bool = False
    repeats: int = 11
    slice_seconds: float = 0.002
    pause_seconds: float = 0.0


class Callee(Protocol):
    """What must be known of a kernel to call it; a KernelPlan is one."""

    @property
    def symbol(self) -> str: ...

    @property
    def operands(self) -> tuple[str, ...]: ...

    @property
    def tiles(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A candidate ready to be linked. object: its object file, which others may share."""

    plan: Callee
    object: bytes
    operands: StoredOperands


def static_triple(machine: CpuMachine) -> str:
    """zig's name of the machine's Linux with a C library that links statically."""
    if machine in ARM32_MACHINES.values():
        return "arm-linux-musleabihf"
    return "aarch64-linux-musl" if machine.is_aarch64 else "x86_64-linux-musl"


def triple_of_system(machine: str) -> str:
    """The same for a board whose `uname -m` says `machine`. Errors: BitloomError for others."""
    if machine in ("aarch64", "arm64"):
        return "aarch64-linux-musl"
    if machine == "x86_64":
        return "x86_64-linux-musl"
    if machine.startswith(("armv7", "armv8")):
        return "arm-linux-musleabihf"
    raise BitloomError(
        f'a board of the machine "{machine}" cannot be measured', "boards are Arm or x86-64 Linux"
    )


def architecture_of(program: bytes) -> str | None:
    """What an ELF file's header says, as zig spells it; None for others."""
    (machine,) = struct.unpack_from("<H", program, 18)
    return {183: "aarch64", 62: "x86_64", 40: "arm"}.get(machine)


class Linker:
    """Makes programs for one architecture; what is common to all of them is compiled once."""

    def __init__(self, triple: str, folder: Path) -> None:
        self.toolchain = Toolchain(triple)
        self._common = folder / f"measure.{triple}.o"
        partial = self._common.with_suffix(".partial")
        self.toolchain.compile(RUNTIME_INCLUDE / "bitloom_measure.c", partial)
        partial.rename(self._common)

    @property
    def architecture(self) -> str:
        """As `uname -m` says it of a machine of 64 bits; `arm` for 32."""
        return self.toolchain.triple.split("-")[0]

    def link(self, candidates: Sequence[Built], limits: Limits, timing: Timing) -> bytes:
        """A program that measures the candidates in order and names them by their positions.

        Errors: LibraryError with the linker's words.
        """
        with tempfile.TemporaryDirectory(prefix="bitloom-link-") as name:
            folder = Path(name)
            objects: dict[bytes, Path] = {}
            for built in candidates:
                path = objects.setdefault(built.object, folder / f"{len(objects)}.o")
                path.write_bytes(built.object)
            (folder / "candidates.c").write_text(_source([b.plan for b in candidates]))
            program = folder / "program"
            parts = [self._common, *objects.values()]
            self.toolchain.link_program(
                folder / "candidates.c", parts, program, [RUNTIME_INCLUDE], ["-g0", "-s"]
            )
            code = program.read_bytes()
        return code + _request(candidates, limits, timing) + struct.pack("<q", len(code))


def _source(plans: Sequence[Callee]) -> str:
    """C functions that call the kernels with an array of pointers, and their table in order of `plans`."""
    lines = ['#include "bitloom_measure.h"']
    known = {plan.symbol: plan for plan in plans}
    for symbol, plan in known.items():
        count = len(plan.operands)
        pointers = ", ".join(["void *"] * count)
        given = ", ".join(f"p[{i}]" for i in range(count))
        lines.append(f"int32_t {symbol}({pointers}, int32_t, int32_t);")
        lines.append(f"static int32_t call_{symbol}(void **p, int32_t begin, int32_t end)")
        lines.append(f"{{ return {symbol}({given}, begin, end); }}")
    table = ", ".join(f"call_{plan.symbol}" for plan in plans)
    return "\n".join([*lines, f"bitloom_candidate *const bitloom_candidates[] = {{ {table} }};", ""])


def _request(candidates: Sequence[Built], limits: Limits, timing: Timing) -> bytes:
    """The structs of the program, numbers of 64 bits."""
    blobs: dict[bytes, int] = {}

    def blob(contents: bytes) -> int:
        return blobs.setdefault(contents, len(blobs))

    jobs: list[bytes] = []
    for index, built in enumerate(candidates):
        stored = built.operands
        jobs.append(struct.pack("<3q", index, built.plan.tiles, len(stored.before)))
        for name, before in stored.before.items():
            given = _NO_BLOB if name == SCRATCH else blob(before.tobytes())
            wanted = blob(stored.after[name].tobytes()) if name in stored.after else _NO_BLOB
            jobs.append(struct.pack("<3q", given, wanted, before.size) + _name(name))
    head = struct.pack("<3q", _MAGIC, len(blobs), len(candidates))
    how = struct.pack(
        "<6q",
        timing.counted,
        timing.repeats,
        round(timing.slice_seconds * 1e9),
        round(limits.seconds * 1e3),
        limits.memory_bytes,
        round(timing.pause_seconds * 1e3),
    )
    contents = [part for b in blobs for part in (struct.pack("<q", len(b)), b)]
    return b"".join([head, how, *contents, *jobs])


def _name(name: str) -> bytes:
    return name.encode()[: _NAME_BYTES - 1].ljust(_NAME_BYTES, b"\0")
