"""Laws of machine detection: a CPU gets the best machine whose features it has, and nothing it has not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tvm.target import Target
from tvm.target.codegen import llvm_get_cpu_features

from compiler.lowering.machine import DotProduct
from schedules.arm_machines import (
    ARM_MACHINES,
    CORTEX_A76,
    FEATURES,
    GENERIC_V8,
    GENERIC_V8_2,
    NEOVERSE_N1,
    machine_of,
    select_arm,
)
from schedules.machines import (
    AMX,
    AVX2,
    AVX2_ZEN3,
    AVX512_VNNI,
    AVX512_VNNI_CASCADELAKE,
    AVX512_VNNI_ICELAKE,
    AVX_VNNI,
    MACHINES,
    X86_64,
    host_features,
    host_machine,
    machine_named,
    select_x86,
)

INTEL, AMD = "GenuineIntel", "AuthenticAMD"


def test_the_host_has_what_its_machine_requires() -> None:
    machine = host_machine()
    assert host_features().issuperset(machine.required_features) or machine.name == "apple_m1"


def test_names_are_distinct_and_found() -> None:
    assert [machine_named(m.name) for m in MACHINES] == list(MACHINES)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown machine .avx3.; known: amx, .*arm_v8_2, cortex_a7$"):
        machine_named("avx3")


@pytest.mark.parametrize(
    ("of", "vendor", "want"),
    [
        (AMX, INTEL, AMX),
        (AVX512_VNNI, AMD, AVX512_VNNI),
        (AVX512_VNNI, INTEL, AVX512_VNNI_ICELAKE),
        (AVX512_VNNI_CASCADELAKE, INTEL, AVX512_VNNI_CASCADELAKE),
        (AVX_VNNI, INTEL, AVX_VNNI),
        (AVX2_ZEN3, AMD, AVX2_ZEN3),
        (AVX2_ZEN3, INTEL, AVX2),
        (AVX2, AMD, AVX2),
        (X86_64, INTEL, X86_64),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_x86_by_features(of: object, vendor: str, want: object) -> None:
    features = next(m.required_features for m in MACHINES if m is of)
    assert select_x86(frozenset(features), vendor) is want


def test_one_missing_feature_is_one_machine_less() -> None:
    flags = frozenset(AVX512_VNNI.required_features)
    assert select_x86(flags - {"avx512_vnni"}, AMD) is AVX2_ZEN3
    assert select_x86(flags - {"avx2"}, AMD) is X86_64


def test_arm_by_features() -> None:
    dotprod = frozenset(NEOVERSE_N1.required_features)
    assert select_arm(frozenset({"fp", "asimd"})) is GENERIC_V8
    assert select_arm(dotprod) is GENERIC_V8_2
    assert select_arm(dotprod, "0xd0c") is NEOVERSE_N1
    assert select_arm(dotprod, "0xd0b") is CORTEX_A76
    assert select_arm(dotprod, "0xd49") is GENERIC_V8_2  # a Neoverse N2 whose system hides i8mm
    assert select_arm(dotprod - {"asimddp"}, "0xd0b") is GENERIC_V8


@pytest.mark.parametrize("name", ARM_MACHINES)
def test_an_arm_core_requires_exactly_what_llvm_may_use(name: str) -> None:
    machine = ARM_MACHINES[name]
    found = {str(f) for f in llvm_get_cpu_features(Target(dict(machine.target)))}
    assert set(machine.required_features) == {FEATURES[f] for f in found & set(FEATURES)}
    assert not {"sve", "sve2", "sha3", "cssc", "mops"} & found
    expected = "smmla" if "i8mm" in found else "sdot" if "dotprod" in found else "smlal"
    assert machine.dot is DotProduct(expected)


def test_any_core_of_llvm_with_its_features() -> None:
    plain = machine_of("cortex-a73", [])
    assert (plain.dot, plain.required_features, plain.in_order) == (DotProduct.SMLAL, ("asimd",), False)
    dotted = machine_of("cortex-a73", ["+dotprod", "+i8mm"])
    assert (dotted.dot, dotted.required_features) == (DotProduct.SMMLA, ("asimd", "asimddp", "i8mm"))
    assert machine_of("cortex-a55", ["-dotprod"]).dot is DotProduct.SMLAL
    assert machine_of("cortex-a510", []).in_order


@pytest.mark.parametrize(
    ("mcpu", "features", "message"),
    [
        (
            "cortex-a99",
            [],
            r'LLVM knows no 64-bit Arm CPU "cortex-a99"; it knows .*cortex-a53, .*',
        ),
        ("cortex-a53", ["+sve"], r'unknown feature "\+sve"; known are \+neon or -neon, .*\+i8mm or -i8mm$'),
        ("cortex-a53", ["-neon"], "cortex-a53 -neon has no NEON, which every kernel needs"),
    ],
)
def test_a_core_that_cannot_be_is_refused(mcpu: str, features: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        machine_of(mcpu, features)


def test_planning_imports_no_compiler_library() -> None:
    code = (
        "import sys; from schedules.machines import host_machine; from schedules.loops import plan_loops; "
        "from tests.loop_families import add; plan_loops(add((1, 4, 4, 8)), host_machine()).tiles; "
        "sys.exit('tvm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
