"""Arm CPUs under Linux and Android: the named cores, and any other of 64 bits that LLVM knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.lowering.machine import CpuMachine, DotProduct

_TRIPLE = "aarch64-linux-gnu"

# What LLVM calls the extensions that it may use in an integer kernel, and how /proc/cpuinfo spells them.
# Kernels have no atomics, half floats, ciphers or system calls: whatever else a core implies is not required.
FEATURES: Mapping[str, str] = {
    "neon": "asimd",
    "dotprod": "asimddp",
    "rdm": "asimdrdm",
    "i8mm": "i8mm",
}
_V8 = ("asimd",)
_V8_2 = ("asimd", "asimddp", "asimdrdm")
_V9 = (*_V8_2, "i8mm")
_SMLAL, _SDOT, _SMMLA = DotProduct.SMLAL, DotProduct.SDOT, DotProduct.SMMLA

# Kernels are made of 128-bit vectors, and many phones have SVE switched off on cores that have it.
_WITHOUT_SVE = ("-sve",)


def _core(
    mcpu: str,
    dot: DotProduct,
    features: tuple[str, ...],
    l1_bytes: int,
    l2_bytes: int,
    *,
    in_order: bool,
    name: str | None = None,
    mattr: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> CpuMachine:
    """options: of LLVM's code generator."""
    target = (
        ("kind", "llvm"),
        ("mcpu", mcpu),
        ("mtriple", _TRIPLE),
        *((("cl-opt", options),) if options else ()),
    )
    return CpuMachine(
        name=name or mcpu.replace("-", "_"),
        target=(*target, ("mattr", mattr)) if mattr else target,
        dot=dot,
        vector_bits=128,
        vector_registers=32,
        activation_offset=0,
        matrix_tiles=False,
        l1_bytes=l1_bytes,
        l2_bytes=l2_bytes,
        in_order=in_order,
        required_features=features,
    )


# Second-level caches are the smallest that a core is commonly sold with, and belong to one core (A53, A72: a
# cluster). Source: the cores' Technical Reference Manuals.
# LLVM's own model of the A53 makes it hold so many products early that accumulators leave the registers; by
# its generic one the inner loop is half as fast again.
CORTEX_A53 = _core("generic", _SMLAL, _V8, 32 << 10, 512 << 10, in_order=True, name="cortex_a53")
# LDP of two vectors takes the place of two instructions and blocks the loads behind it.
CORTEX_A55 = _core(
    "cortex-a55",
    _SDOT,
    _V8_2,
    32 << 10,
    128 << 10,
    in_order=True,
    options=("-aarch64-enable-ldst-opt:bool=false",),
)
CORTEX_A72 = _core("cortex-a72", _SMLAL, _V8, 32 << 10, 1 << 20, in_order=False)
CORTEX_A76 = _core("cortex-a76", _SDOT, _V8_2, 64 << 10, 256 << 10, in_order=False)
NEOVERSE_N1 = _core("neoverse-n1", _SDOT, _V8_2, 64 << 10, 1 << 20, in_order=False)
NEOVERSE_N2 = _core("neoverse-n2", _SMMLA, _V9, 64 << 10, 1 << 20, in_order=False, mattr=_WITHOUT_SVE)
CORTEX_X2 = _core("cortex-x2", _SMMLA, _V9, 64 << 10, 512 << 10, in_order=False, mattr=_WITHOUT_SVE)
GENERIC_V8 = _core("generic", _SMLAL, _V8, 32 << 10, 512 << 10, in_order=False, name="arm_v8")
# The architecture leaves the dot product to the core; of those with 8.2 nearly all that are sold have it.
GENERIC_V8_2 = _core(
    "generic",
    _SDOT,
    _V8_2,
    32 << 10,
    256 << 10,
    in_order=False,
    name="arm_v8_2",
    mattr=("+v8.2a", "+dotprod"),
)

# 32-bit Arm. LLVM uses the fused multiply-add and the divide of a core unasked.
CORTEX_A7 = CpuMachine(
    name="cortex_a7",
    target=(
        ("kind", "llvm"),
        ("mcpu", "cortex-a7"),
        ("mtriple", "armv7a-linux-gnueabihf"),
        ("mfloat-abi", "hard"),
    ),
    dot=DotProduct.VMLAL,
    matrix_tiles=False,
    vector_bits=128,
    vector_registers=16,
    activation_offset=0,
    l1_bytes=32 << 10,
    l2_bytes=256 << 10,
    in_order=True,
    required_features=("neon", "vfpv4", "idiva"),
)
ARM32_MACHINES: Mapping[str, CpuMachine] = {"cortex-a7": CORTEX_A7}
ARM_MACHINES: Mapping[str, CpuMachine] = {
    "cortex-a53": CORTEX_A53,
    "cortex-a55": CORTEX_A55,
    "cortex-a72": CORTEX_A72,
    "cortex-a76": CORTEX_A76,
    "neoverse-n1": NEOVERSE_N1,
    "neoverse-n2": NEOVERSE_N2,
    "cortex-x2": CORTEX_X2,
    "generic-v8": GENERIC_V8,
    "generic-v8.2": GENERIC_V8_2,
}

# "CPU part" of /proc/cpuinfo. Source: Linux, arch/arm64/include/asm/cputype.h.
_PARTS: Mapping[str, CpuMachine] = {
    "0xd03": CORTEX_A53,
    "0xd05": CORTEX_A55,
    "0xd08": CORTEX_A72,
    "0xd0b": CORTEX_A76,
    "0xd0c": NEOVERSE_N1,
    "0xd48": CORTEX_X2,
    "0xd49": NEOVERSE_N2,
}

_ARM_LIMITED = 0x41  # the implementer whose parts those are, in the upper half of MIDR_EL1


def arm_models(machine: CpuMachine) -> tuple[int, ...]:
    """Cores that a machine is tuned for, as implementer * 65536 + part."""
    return tuple(_ARM_LIMITED << 16 | int(part, 16) for part, tuned in _PARTS.items() if tuned is machine)


# Of the cores that LLVM knows, those that issue in order.
_IN_ORDER = frozenset(
    f"cortex-{core}" for core in ("a34", "a35", "a53", "a55", "a320", "a510", "a520", "r82")
)
# What newer cores have, LLVM uses unasked, and a library cannot test for.
_NEVER = ("-sve", "-sha3", "-cssc", "-mops")


def select_arm(features: frozenset[str], part: str = "") -> CpuMachine:
    """The best machine for a CPU with these features, spelt as in /proc/cpuinfo. part: its "CPU part"."""
    named = _PARTS.get(part)
    for machine in (named, GENERIC_V8_2):
        if machine is not None and features.issuperset(machine.required_features):
            return machine
    # Every 64-bit Arm CPU that runs Linux has NEON.
    return GENERIC_V8


def machine_of(mcpu: str, features: Sequence[str]) -> CpuMachine:
    """The machine of any core that LLVM knows by the name `mcpu`; its caches are taken to be small.

    features: as "+dotprod" or "-i8mm", with the names in FEATURES, on top of what the core has.
    Errors: ValueError that lists what is known.
    """
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features

    plain = {"kind": "llvm", "mtriple": _TRIPLE}
    known = sorted(str(cpu) for cpu in llvm_get_cpu_archlist(Target(plain)))
    if mcpu not in known:
        raise ValueError(f'LLVM knows no 64-bit Arm CPU "{mcpu}"; it knows {", ".join(known)}')
    for feature in features:
        if feature[0] not in "+-" or feature[1:] not in FEATURES:
            choices = ", ".join(f"+{name} or -{name}" for name in FEATURES)
            raise ValueError(f'unknown feature "{feature}"; known are {choices}')
    mattr = (*_NEVER, *features)
    found = {str(f) for f in llvm_get_cpu_features(Target({**plain, "mcpu": mcpu, "mattr": mattr}))}
    if "neon" not in found:
        raise ValueError(f"{mcpu} {' '.join(features)} has no NEON, which every kernel needs")
    return _core(
        mcpu,
        _SMMLA if "i8mm" in found else _SDOT if "dotprod" in found else _SMLAL,
        tuple(spelling for name, spelling in FEATURES.items() if name in found),
        32 << 10,
        256 << 10,
        in_order=mcpu in _IN_ORDER,
        name=f"arm_{mcpu.replace('-', '_')}",
        mattr=mattr,
    )
