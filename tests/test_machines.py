"""Laws of machine detection: a CPU gets the best machine whose features it has, and nothing it has not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from schedules.machines import (
    AVX2,
    AVX2_ZEN3,
    AVX512_VNNI,
    AVX512_VNNI_CASCADELAKE,
    AVX512_VNNI_ICELAKE,
    AVX_VNNI,
    CORTEX_A76,
    MACHINES,
    NEON,
    NEON_DOTPROD,
    X86_64,
    host_features,
    host_machine,
    machine_named,
    select_arm,
    select_x86,
)

INTEL, AMD = "GenuineIntel", "AuthenticAMD"


def test_the_host_has_what_its_machine_requires() -> None:
    machine = host_machine()
    assert host_features().issuperset(machine.required_features) or machine.name == "apple_m1"


def test_names_are_distinct_and_found() -> None:
    assert [machine_named(m.name) for m in MACHINES] == list(MACHINES)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown machine .avx3.; known: avx512vnni, .*neon$"):
        machine_named("avx3")


@pytest.mark.parametrize(
    ("of", "vendor", "want"),
    [
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
    dotprod = frozenset(NEON_DOTPROD.required_features)
    assert select_arm(frozenset({"fp", "asimd"})) is NEON
    assert select_arm(dotprod, "0xd0c") is NEON_DOTPROD
    assert select_arm(dotprod, "0xd0b") is CORTEX_A76
    assert select_arm(dotprod - {"asimddp"}, "0xd0b") is NEON


def test_planning_imports_no_compiler_library() -> None:
    code = (
        "import sys; from schedules.machines import host_machine; from schedules.loops import plan_loops; "
        "from tests.loop_families import add; plan_loops(add((1, 4, 4, 8)), host_machine()).tiles; "
        "sys.exit('tvm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
