"""Inner loops of convolutions on Arm cores come near the core's peak by llvm-mca's model of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from benchmarks.arm_loops import CORES, hottest_loop
from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.arm_machines import ARM_MACHINES
from schedules.convolution import plan_convolution

# Share of the peak.
SHARES = {"cortex-a76": 0.95, "neoverse-n1": 0.95, "neoverse-n2": 0.85, "cortex-a55": 0.85, "cortex-a53": 0.7}

pytestmark = pytest.mark.skipif(shutil.which("llvm-mca-19") is None, reason="llvm-mca-19 is not installed")


def layer(inputs: int, kernel: int) -> Convolution:
    i8, pad = ElementType.I8, kernel // 2
    return Convolution(1, 14, 14, inputs, 14, 14, 256, kernel, kernel, i8, i8, i8, pad=(pad, pad))


@pytest.mark.parametrize(("inputs", "kernel"), [(256, 1), (512, 1), (64, 3)])
@pytest.mark.parametrize("core", SHARES)
def test_inner_loops_reach_their_share_of_the_peak(core: str, inputs: int, kernel: int) -> None:
    loop = hottest_loop(plan_convolution(layer(inputs, kernel), ARM_MACHINES[core]), CORES[core])
    assert loop is not None
    assert loop.macs_per_cycle >= SHARES[core] * CORES[core].peak, loop


@pytest.mark.parametrize("weight", [ElementType.I4, ElementType.I2], ids=lambda e: e.value)
@pytest.mark.parametrize("core", ["cortex-a76", "cortex-a53"])
def test_narrow_weights_of_a_dense_layer_cost_less_than_two_instructions_a_vector(
    core: str, weight: ElementType
) -> None:
    """Two shifts for 16 weights or one, and fewer loads; nothing on the stack."""
    i8 = ElementType.I8
    dense = Convolution(1, 1, 1, 256, 1, 1, 256, 1, 1, i8, i8, i8)
    loops = [
        hottest_loop(plan_convolution(form, ARM_MACHINES[core]), CORES[core])
        for form in (dense, replace(dense, weight=weight))
    ]
    whole, narrow = (loop for loop in loops if loop)
    more = narrow.instructions / narrow.macs - whole.instructions / whole.macs
    assert more * 16 < 1.5
    assert narrow.spills == 0
