"""Debian's PoCL for arm64 in a folder, for programs under qemu-user: `python -m tests.arm64_pocl DIR`.

Needs what `tests.arm64_userland` needs, and has no Python. PoCL compiles kernels by its own LLVM, emulated
like all else; the linker that it starts is a program of this computer (qemu-user starts no emulated ones):
the ziglang wheel's.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from tests.arm64_userland import unpack_debian

_DEBIAN = ("pocl-opencl-icd", "ocl-icd-libopencl1")
# What LLVM's driver looks for, in the folders of PATH.
_LINKERS = ("aarch64-linux-gnu-ld", "aarch64-unknown-linux-gnu-ld", "ld")
_LIBRARIES = ("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib/gcc/aarch64-linux-gnu/12")
_DONE = "complete"


def set_up(folder: Path) -> None:
    """Errors: CalledProcessError with what a tool says."""
    if (folder / _DONE).exists():
        return
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    unpack_debian(_DEBIAN, folder / "apt", root)
    # By its whole path: PoCL looks for its own files beside it, by calls that qemu does not redirect.
    driver = next(root.glob("usr/lib/aarch64-linux-gnu/libpocl.so.[0-9]"))
    (folder / "vendors").mkdir(exist_ok=True)
    (folder / "vendors" / "pocl.icd").write_text(f"{driver}\n")
    (folder / "bin").mkdir(exist_ok=True)
    linker = [sys.executable, "-m", "ziglang", "ld.lld", f"--sysroot={root}"]
    libraries = [f"-L{root / place}" for place in _LIBRARIES]
    for name in _LINKERS:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(linker)} "$@" {shlex.join(libraries)}\n')
        script.chmod(0o755)
    (folder / _DONE).touch()


def environment(folder: Path) -> dict[str, str]:
    """With these variables programs under qemu-aarch64 find that system's libraries, and PoCL."""
    return {
        "QEMU_LD_PREFIX": str(folder / "root"),
        "OCL_ICD_VENDORS": str(folder / "vendors"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }


if __name__ == "__main__":
    set_up(Path(sys.argv[1]).absolute())
