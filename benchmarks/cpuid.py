"""Instruction sets below this processor's, and what makes a library believe in one of them.

A limit hides feature bits of CPUID from a process (cpuid.c). Bits are Intel's, Software Developer's Manual
volume 2, CPUID; the same on AMD.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_SOURCE = Path(__file__).with_name("cpuid.c")


@dataclass(frozen=True, slots=True)
class Hidden:
    """Bits of one CPUID leaf that read as 0, by register."""

    leaf: int
    subleaf: int
    eax: tuple[int, ...] = ()
    ebx: tuple[int, ...] = ()
    ecx: tuple[int, ...] = ()
    edx: tuple[int, ...] = ()

    def as_words(self) -> list[int]:
        """leaf, subleaf and four masks."""
        masks = [sum(1 << bit for bit in bits) for bits in (self.eax, self.ebx, self.ecx, self.edx)]
        return [self.leaf, self.subleaf, *masks]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSet:
    """A limit for all contenders.

    needs: the flag of /proc/cpuinfo without which this computer does not have it. without: prefixes of the
    flags that it lacks. onednn: its name in ONEDNN_MAX_CPU_ISA.
    """

    name: str
    needs: str
    without: tuple[str, ...]
    onednn: str
    hidden: tuple[Hidden, ...]


_AMX = (
    Hidden(7, 0, edx=(22, 24, 25)),  # bf16, tile, int8
    Hidden(7, 1, eax=(21,), edx=(8,)),  # fp16, complex
    Hidden(13, 0, eax=(17, 18)),  # state of tiles in XCR0
)
_AVX512 = (
    # f, dq, ifma, pf, er, cd, bw, vl; vbmi, vbmi2, vnni, bitalg, vpopcntdq;
    # 4vnniw, 4fmaps, vp2intersect, fp16
    Hidden(7, 0, ebx=(16, 17, 21, 26, 27, 28, 30, 31), ecx=(1, 6, 11, 12, 14), edx=(2, 3, 8, 23)),
    Hidden(7, 1, eax=(5,), edx=(19,)),  # bf16; AVX10
    Hidden(13, 0, eax=(5, 6, 7)),  # state of mask and wide registers in XCR0
)
_AVX_VNNI = (Hidden(7, 1, eax=(4,)),)
# AVX-IFMA, AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16: younger than the sets that are named here.
_YOUNGER = (Hidden(7, 1, eax=(23,), edx=(4, 5, 10)),)

INSTRUCTION_SETS = (
    InstructionSet(
        name="avx2",
        needs="avx2",
        without=("avx_", "avx512", "amx", "avx10"),
        onednn="AVX2",
        hidden=(*_AMX, *_AVX512, *_AVX_VNNI, *_YOUNGER),
    ),
    InstructionSet(
        name="avx-vnni",
        needs="avx_vnni",
        without=("avx512", "amx", "avx10"),
        onednn="AVX2_VNNI",
        hidden=(*_AMX, *_AVX512, *_YOUNGER),
    ),
    InstructionSet(
        name="avx512-vnni",
        needs="avx512_vnni",
        without=("amx", "avx10"),
        onednn="AVX512_CORE_VNNI",
        hidden=(*_AMX, *_YOUNGER),
    ),
)


@dataclass(frozen=True, slots=True)
class Limit:
    """library: path of the compiled cpuid.c. rules: `Hidden.as_words` of each."""

    library: str
    rules: tuple[tuple[int, ...], ...]

    def as_fields(self) -> dict[str, Any]:
        return {"library": self.library, "rules": self.rules}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Inverse of `as_fields`, through JSON."""
        return cls(fields["library"], tuple(tuple(rule) for rule in fields["rules"]))

    def apply(self, library: ctypes.CDLL) -> None:
        """Limits this thread and all that it starts, for ever: before the library to be limited is loaded.

        Errors: OSError where processor or system cannot."""
        words = [word for rule in self.rules for word in rule]
        rules = (ctypes.c_uint32 * len(words))(*words)
        _KEPT.append(rules)
        reason = library.limit_cpuid(rules, len(self.rules))
        if reason:
            raise OSError(reason, os.strerror(reason))


_KEPT: list[Any] = []  # what the handler of cpuid.c reads


def why_unlimited() -> str | None:
    """Why this computer cannot hide features from a process; None where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "hiding features needs Linux on x86-64"
    if " cpuid_fault" not in Path("/proc/cpuinfo").read_text():
        return "the processor has no CPUID faulting (cpuid_fault in /proc/cpuinfo)"
    return None


def build_limit(instruction_set: InstructionSet, folder: Path) -> Limit:
    """Compiles cpuid.c into folder."""
    library = folder / "cpuid.so"
    compile_library = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC"]
    subprocess.run([*compile_library, str(_SOURCE), "-o", str(library)], check=True)
    return Limit(str(library), tuple(tuple(each.as_words()) for each in instruction_set.hidden))
