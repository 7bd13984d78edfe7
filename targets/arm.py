"""Arm under Linux and Android: cores by name or any of 64 bits that LLVM knows, with one of the C libraries.

arm/cortex-a53                               for glibc
arm/cortex-a53@musl                          for another C library
arm:mcpu=cortex-a73                          any core that LLVM knows
arm:mcpu=cortex-a78,features=+i8mm@android   with more features than it has by itself, or fewer
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.machine import CpuMachine
from schedules.arm_machines import ARM32_MACHINES, ARM_MACHINES, machine_of
from targets.cpu import CpuTarget

# glibc 2.28: Debian 10, Ubuntu 18.10, RHEL 8 and everything since.
_TRIPLES = {
    "glibc": "aarch64-linux-gnu.2.28",
    "musl": "aarch64-linux-musl",
    "android": "aarch64-linux-android",
}
# The same systems for 32 bits, with floats in registers.
_TRIPLES_32 = {"glibc": "arm-linux-gnueabihf.2.28", "musl": "arm-linux-musleabihf"}
_SETTINGS = ("mcpu", "features")


def targets() -> Iterator[CpuTarget]:
    """The named cores, for glibc."""
    for name, machine in ARM_MACHINES.items():
        yield CpuTarget(f"arm/{name}", machine, _TRIPLES["glibc"])
    for name, machine in ARM32_MACHINES.items():
        yield CpuTarget(f"arm/{name}", machine, _TRIPLES_32["glibc"])


def target_from(name: str) -> CpuTarget | None:
    """The target of a name with parameters; None where it is no name of this family.

    Errors: BitloomError that lists what is known.
    """
    core, _, libc = name.partition("@")
    machine = _machine(core)
    if machine is None:
        return None
    triples = _TRIPLES_32 if machine in ARM32_MACHINES.values() else _TRIPLES
    triple = triples.get(libc or "glibc")
    if triple is None:
        raise BitloomError(f'target "{name}": unknown C library "{libc}"', f"known are {', '.join(triples)}")
    return CpuTarget(name, machine, triple)


def _machine(core: str) -> CpuMachine | None:
    if not core.startswith("arm:"):
        known = {**ARM_MACHINES, **ARM32_MACHINES}
        return known.get(core.removeprefix("arm/")) if core.startswith("arm/") else None
    settings = _settings(core)
    features = re.findall(r"[+-][^+-]*|^[^+-]+", settings.get("features", ""))
    try:
        return machine_of(settings.get("mcpu", ""), features)
    except ValueError as error:
        raise BitloomError(f'target "{core}": {error}') from error


def _settings(core: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for part in core.removeprefix("arm:").split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in _SETTINGS or key in settings:
            raise BitloomError(
                f'target "{core}": cannot read "{part}"',
                "settings are mcpu=CPU and features=+NAME-NAME, each once, with a comma between them",
            )
        settings[key] = value
    return settings
