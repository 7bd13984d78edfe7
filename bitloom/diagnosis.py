"""What `bitloom doctor` looks at."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from bitloom.commands.text import size
from compiler.ir.diagnostics import BitloomError
from compiler.lowering.cache import default_folder
from schedules.machines import host_machine

_HOME = Path(__file__).resolve().parents[1]
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. needed: bitloom does not work without it. remedy: how to get what is missing."""

    what: str
    found: str
    ok: bool = True
    needed: bool = True
    remedy: str | None = None

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "MISSING" if self.needed else "absent"


def diagnose() -> list[Finding]:
    """All findings; takes a few seconds, as it starts TVM and links a library."""
    checks: tuple[Callable[[], Finding], ...] = (_tvm, _linker, _processor, _cache, _models)
    return [_python(), *_packages(), *(check() for check in checks), *_tools()]


def _python() -> Finding:
    ok = sys.version_info >= _OLDEST_PYTHON
    return Finding(
        "Python", platform.python_version(), ok, remedy=None if ok else "install Python 3.11 or newer"
    )


def _requirements() -> list[Requirement]:
    """Of the installed package, or of the sources that this file stands in."""
    project = _HOME / "pyproject.toml"
    if project.is_file():
        texts: list[str] = tomllib.loads(project.read_text())["project"]["dependencies"]
    else:
        texts = [text for text in metadata.requires("bitloom") or [] if "extra ==" not in text]
    found = [Requirement(text) for text in texts]
    return [r for r in found if r.marker is None or r.marker.evaluate()]


def _packages() -> Iterator[Finding]:
    for requirement in _requirements():
        wanted = f"{requirement.name}{requirement.specifier}"
        remedy = f"python -m pip install '{wanted}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, f"not installed, wanted {wanted}", False, remedy=remedy)
            continue
        ok = requirement.specifier.contains(version, prereleases=True)
        text = version if ok else f"{version}, wanted {wanted}"
        yield Finding(requirement.name, text, ok, remedy=None if ok else remedy)


def _tvm() -> Finding:
    code = "import tvm; assert tvm.get_global_func('target.build.llvm', True); print(tvm.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Finding("kernel compiler", "TVM with LLVM starts")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    remedy = "reinstall apache-tvm and apache-tvm-ffi in the versions above"
    return Finding("kernel compiler", f"TVM does not start: {last}", False, remedy=remedy)


def _linker() -> Finding:
    from targets.library.toolchain import Toolchain

    toolchain = Toolchain.host()
    with tempfile.TemporaryDirectory(prefix="bitloom-") as name:
        folder = Path(name)
        source, compiled = folder / "probe.c", folder / "probe.o"
        source.write_text("int probe(void) { return 0; }\n")
        try:
            toolchain.compile(source, compiled)
            toolchain.link_shared([compiled], folder / "libprobe.so", ["probe"])
        except BitloomError as error:
            remedy = "python -m pip install --force-reinstall ziglang"
            return Finding("linker", error.message, False, remedy=remedy)
    return Finding("linker", f"zig links for {toolchain.triple}")


def _processor() -> Finding:
    try:
        machine = host_machine()
    except ValueError as error:
        return Finding("processor", str(error), False, remedy="name a target: bitloom targets")
    return Finding("processor", f"{machine.name}, {os.cpu_count()} cores")


def _cache() -> Finding:
    folder = default_folder()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        remedy = (
            "set BITLOOM_CACHE_DIR to a folder that can be written; without, every compilation starts anew"
        )
        return Finding("cache", f"{folder} cannot be written", False, needed=False, remedy=remedy)
    used = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return Finding("cache", f"{folder}, {size(used)}")


def _models() -> Finding:
    folder = os.environ.get("BITLOOM_ZOO")
    if folder and (Path(folder) / "zoo.py").is_file():
        return Finding("reference models", folder, needed=False)
    remedy = "set BITLOOM_ZOO to the folder with zoo.py; some tests and benchmarks want it"
    found = f"no zoo.py in {folder}" if folder else "BITLOOM_ZOO is not set"
    return Finding("reference models", found, False, needed=False, remedy=remedy)


def _tools() -> Iterator[Finding]:
    """Programs that only tests use."""
    for program, package, purpose in (
        ("qemu-aarch64", "qemu-user", "runs kernels for Arm in the tests"),
        ("verilator", "verilator", "compares the NPU's simulator with its hardware description"),
        ("readelf", "binutils", "looks at libraries in the tests"),
    ):
        path = shutil.which(program)
        remedy = f"{purpose}; apt-get install {package}, or that package of your system"
        yield Finding(program, path or "not found", path is not None, False, None if path else remedy)
