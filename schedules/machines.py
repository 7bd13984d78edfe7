"""The CPUs that schedules are written for, and which of them this computer is."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from compiler.lowering.machine import CpuMachine, DotProduct
from schedules.arm_machines import ARM32_MACHINES, ARM_MACHINES, arm_models, select_arm

# LLVM may use whatever an mcpu implies, so that a machine requires all of it. Names as in /proc/cpuinfo.
_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl", "avx512_vnni")
_ICELAKE = (
    *_AVX512,
    *("avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq"),
    *("gfni", "vaes", "vpclmulqdq"),
)

# Moves of bit fields that AMD's CPUs alone have, and for which no feature is required at run time.
_WITHOUT_SSE4A = ("-sse4a",)

AMX = CpuMachine(
    name="amx",
    target=(("kind", "llvm"), ("mattr", ("+amx-int8", "+amx-tile")), ("mcpu", "icelake-server")),
    dot=DotProduct.VNNI,
    vector_bits=512,
    vector_registers=32,
    activation_offset=128,
    matrix_tiles=True,
    l1_bytes=48 << 10,
    l2_bytes=2 << 20,
    in_order=False,
    required_features=(*_ICELAKE, "amx_tile", "amx_int8"),
)
AVX512_VNNI = CpuMachine(
    name="avx512vnni",
    target=(("kind", "llvm"), ("mcpu", "znver4"), ("mattr", _WITHOUT_SSE4A)),
    dot=DotProduct.VNNI,
    vector_bits=512,
    vector_registers=32,
    activation_offset=128,
    matrix_tiles=False,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    in_order=False,
    required_features=(*_ICELAKE, "avx512_bf16"),
)
AVX512_VNNI_ICELAKE = CpuMachine(
    name="avx512vnni_icelake",
    target=(("kind", "llvm"), ("mcpu", "icelake-server")),
    dot=DotProduct.VNNI,
    vector_bits=512,
    vector_registers=32,
    activation_offset=128,
    matrix_tiles=False,
    l1_bytes=48 << 10,
    l2_bytes=1280 << 10,
    in_order=False,
    required_features=_ICELAKE,
)
AVX512_VNNI_CASCADELAKE = CpuMachine(
    name="avx512vnni_cascadelake",
    target=(("kind", "llvm"), ("mcpu", "cascadelake")),
    dot=DotProduct.VNNI,
    vector_bits=512,
    vector_registers=32,
    activation_offset=128,
    matrix_tiles=False,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    in_order=False,
    required_features=_AVX512,
)
AVX_VNNI = CpuMachine(
    name="avxvnni",
    target=(("kind", "llvm"), ("mcpu", "alderlake")),
    dot=DotProduct.VNNI,
    vector_bits=256,
    vector_registers=16,
    activation_offset=128,
    matrix_tiles=False,
    l1_bytes=32 << 10,
    l2_bytes=1280 << 10,
    in_order=False,
    required_features=(*_AVX2, "avx_vnni", "gfni", "vaes", "vpclmulqdq"),
)
AVX2_ZEN3 = CpuMachine(
    name="avx2_zen3",
    target=(("kind", "llvm"), ("mcpu", "znver3"), ("mattr", _WITHOUT_SSE4A)),
    dot=DotProduct.PMADDWD,
    vector_bits=256,
    vector_registers=16,
    activation_offset=128,
    matrix_tiles=False,
    l1_bytes=32 << 10,
    l2_bytes=512 << 10,
    in_order=False,
    required_features=(*_AVX2, "vaes", "vpclmulqdq"),
)
AVX2 = CpuMachine(
    name="avx2",
    target=(("kind", "llvm"), ("mcpu", "haswell")),
    dot=DotProduct.PMADDWD,
    vector_bits=256,
    vector_registers=16,
    activation_offset=128,
    matrix_tiles=False,
    l1_bytes=32 << 10,
    l2_bytes=256 << 10,
    in_order=False,
    required_features=_AVX2,
)
X86_64 = CpuMachine(
    name="x86_64",
    target=(("kind", "llvm"), ("mcpu", "x86-64")),
    dot=DotProduct.NONE,
    vector_bits=128,
    vector_registers=16,
    activation_offset=0,
    matrix_tiles=False,
    l1_bytes=32 << 10,
    l2_bytes=256 << 10,
    in_order=False,
    required_features=(),
)
APPLE_M1 = CpuMachine(
    name="apple_m1",
    target=(("kind", "llvm"), ("mcpu", "apple-m1"), ("mtriple", "arm64-apple-macos11")),
    dot=DotProduct.SDOT,
    vector_bits=128,
    vector_registers=32,
    activation_offset=0,
    matrix_tiles=False,
    l1_bytes=128 << 10,
    l2_bytes=12 << 20,
    in_order=False,
    required_features=("asimddp",),
)
# Best first: the host is the first whose features it has.
_X86 = (AMX, AVX512_VNNI, AVX512_VNNI_ICELAKE, AVX512_VNNI_CASCADELAKE, AVX_VNNI, AVX2_ZEN3, AVX2, X86_64)
COMPUTERS = (*_X86, APPLE_M1)
_AMD = ("AuthenticAMD", "HygonGenuine")
_OF_AMD = (AVX512_VNNI, AVX2_ZEN3)
MACHINES = (*COMPUTERS, *ARM_MACHINES.values(), *ARM32_MACHINES.values())


def machine_named(name: str) -> CpuMachine:
    """Errors: ValueError that lists the known names."""
    for machine in MACHINES:
        if machine.name == name:
            return machine
    raise ValueError(f"unknown machine {name!r}; known: {', '.join(m.name for m in MACHINES)}")


def host_machine() -> CpuMachine:
    """The machine that this computer is. Errors: ValueError for an architecture without any."""
    family = family_here()
    if family == (APPLE_M1,):
        return APPLE_M1
    if family == _X86:
        return select_x86(host_features(), _cpuinfo("vendor_id"))
    if family:
        return select_arm(host_features(), _cpuinfo("CPU part"))
    raise ValueError(f"no schedules for {platform.machine()}: x86-64 and 64-bit Arm only")


def host_model() -> str:
    """What the CPU calls itself, with what tells its steppings apart."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string")
    keys = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")
    found = [(key, _cpuinfo(key)) for key in keys]
    named = [value if key == "model name" else f"{key} {value}" for key, value in found if value]
    return ", ".join(named) or platform.machine()


def host_without(prefixes: tuple[str, ...]) -> CpuMachine:
    """The x86 machine that this computer would be without the features whose names begin so."""
    kept = frozenset(feature for feature in host_features() if not feature.startswith(prefixes))
    return select_x86(kept, _cpuinfo("vendor_id"))


def runs_here(machine: CpuMachine) -> bool:
    """Whether this computer can run code for `machine`."""
    return machine in family_here() and (
        machine is APPLE_M1 or host_features().issuperset(machine.required_features)
    )


def family_here() -> tuple[CpuMachine, ...]:
    """The machines of this computer's architecture and system; none for an architecture without any."""
    architecture = platform.machine().lower()
    if architecture in ("x86_64", "amd64"):
        return _X86
    if architecture in ("aarch64", "arm64"):
        return (APPLE_M1,) if platform.system() == "Darwin" else tuple(ARM_MACHINES.values())
    return ()


def host_features() -> frozenset[str]:
    """Features of this computer's CPU, as /proc/cpuinfo spells them; empty where they cannot be read.

    Tile registers count where the system lets this process use them.
    """
    if platform.system() == "Darwin":
        return _sysctl_features()
    features = frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())
    tiles = features.intersection(AMX.required_features[-2:])
    return features if not tiles or _tiles_are_granted() else features - tiles


# Linux, arch/x86/include/asm/unistd_64.h and uapi/asm/prctl.h; the state component of the tiles' data.
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18


@cache
def _tiles_are_granted() -> bool:
    """Asks Linux for tile registers, for this process from now on."""
    system: Callable[..., int] = ctypes.CDLL(None).syscall
    return system(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA) == 0


def select_x86(flags: frozenset[str], vendor: str = "GenuineIntel") -> CpuMachine:
    """The best machine for a CPU with these features; AMD's scheduling models are AMD's alone."""
    amd = vendor in _AMD

    def fits(machine: CpuMachine) -> bool:
        return flags.issuperset(machine.required_features) and (amd or machine not in _OF_AMD)

    return next(m for m in _X86 if fits(m))


def cpu_models(machine: CpuMachine) -> tuple[int, ...]:
    """CPUs that a machine is tuned for, as `bl_cpu_model` of the C runtime numbers them: cores of Arm,
    vendors of x86."""
    if not machine.is_x86:
        return arm_models(machine)
    vendors = _AMD if machine in _OF_AMD else () if machine is X86_64 else ("GenuineIntel",)
    return tuple(int.from_bytes(vendor[:4].encode(), "little") for vendor in vendors)


def _cpuinfo(key: str) -> str:
    """First value of a key of /proc/cpuinfo, empty where there is none."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


_SYSCTL_SPELLINGS: dict[str, tuple[str, ...]] = {
    "avx512vnni": ("avx512_vnni",),
    "avx512vbmi2": ("avx512_vbmi2",),
    "avx512bitalg": ("avx512_bitalg",),
    "avx512vpopcntdq": ("avx512_vpopcntdq",),
    "lzcnt": ("abm",),
}


def _sysctl_features(read: Callable[[str], str] | None = None) -> frozenset[str]:
    """Features of an Intel Mac in the spelling of /proc/cpuinfo."""
    read = read or _sysctl
    keys = ("features", "leaf7_features", "extfeatures")
    found: set[str] = set()
    for name in " ".join(read(f"machdep.cpu.{key}") for key in keys).lower().split():
        found.update(_SYSCTL_SPELLINGS.get(name, (name,)))
    return frozenset(found)


def _sysctl(key: str) -> str:
    done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return done.stdout.strip()
