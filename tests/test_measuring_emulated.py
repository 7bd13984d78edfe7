"""Emulated boards: what kernels cost in instructions, and every way in which a candidate goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.arm_machines import CORTEX_A7, CORTEX_A53, CORTEX_A76
from schedules.convolution import candidate_configs, plan_convolution
from schedules.cpu import plan_kernel
from schedules.tuning.measure import Outcome, Unit
from targets.measuring.choosing import boards_named
from targets.measuring.emulated import EmulatedBoards
from targets.measuring.program import Limits
from targets.runners import RunnerError
from tests.faulty_kernels import FAULTS, faulty

pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("qemu-arm")), reason="qemu-user is not installed"
)
I8 = ElementType.I8
FORM = Convolution(1, 6, 6, 16, 6, 6, 16, 3, 3, I8, I8, I8, pad=(1, 1))
LIMITS = Limits(seconds=2.0, memory_bytes=256 << 20)


@pytest.fixture(scope="module")
def boards() -> Iterator[EmulatedBoards]:
    device = EmulatedBoards("cortex-a76", limits=LIMITS, cores=2)
    yield device
    device.close()


def test_costs_are_instructions_and_repeat(boards: EmulatedBoards) -> None:
    configs = list(candidate_configs(FORM, CORTEX_A76))[:5]
    plans = [plan_convolution(FORM, CORTEX_A76, config) for config in configs]
    first, again = (dict(boards.measure(plans)) for _ in range(2))
    assert first == again
    assert sorted(first) == list(range(5))
    assert boards.unit is Unit.INSTRUCTIONS
    assert all(m.outcome is Outcome.MEASURED and m.spread == 0 for m in first.values())
    # 16 products an instruction, and more instructions than those.
    assert all(FORM.macs / 16 < m.cost < FORM.macs for m in first.values())


def test_every_fault_has_its_outcome_and_the_others_go_on(boards: EmulatedBoards) -> None:
    configs = ["right", *FAULTS, "slower"]
    found = dict(boards.measure([faulty(CORTEX_A76, c, i) for i, c in enumerate(configs)]))
    told = {configs[i]: (m.outcome, m.said) for i, m in found.items()}
    for config, (outcome, words) in FAULTS.items():
        assert told[config][0] is outcome, (config, told[config])
        assert words in told[config][1]
    right, slower = found[0], found[len(configs) - 1]
    assert right.outcome is slower.outcome is Outcome.MEASURED
    assert slower.cost > 100 * right.cost


def test_an_instruction_that_the_core_lacks_is_named() -> None:
    device = EmulatedBoards("cortex-a53", limits=LIMITS, cores=1)
    ((_, found),) = device.measure([plan_kernel(FORM, CORTEX_A76)])
    ((_, other),) = device.measure([plan_kernel(FORM, CORTEX_A53)])
    device.close()
    assert found.outcome is Outcome.CRASHED
    assert found.said == "it was ended by SIGILL: the CPU lacks an instruction that the kernel uses"
    assert other.outcome is Outcome.MEASURED


def test_cores_of_32_bits() -> None:
    device = EmulatedBoards("cortex-a7", "arm", limits=LIMITS, cores=1)
    plans = [plan_kernel(FORM, CORTEX_A7), faulty(CORTEX_A7, "eats"), faulty(CORTEX_A7, "crashes")]
    found = dict(device.measure(plans))
    device.close()
    assert [found[i].outcome for i in range(3)] == [
        Outcome.MEASURED,
        Outcome.OUT_OF_MEMORY,
        Outcome.CRASHED,
    ]


def test_an_emulator_that_is_killed_is_started_again() -> None:
    device = EmulatedBoards("cortex-a76", limits=LIMITS, cores=1)
    configs = ["right", "kills", "slower"]
    found = dict(device.measure([faulty(CORTEX_A76, c, i) for i, c in enumerate(configs)]))
    device.close()
    assert found[0].outcome is found[2].outcome is Outcome.MEASURED
    assert found[1].outcome is Outcome.LOST
    assert "2 times while it ran" in found[1].said


def test_devices_have_names() -> None:
    device = boards_named(["qemu:cortex-a53"], CORTEX_A53)
    ((_, found),) = device.measure([faulty(CORTEX_A53, "right")])
    device.close()
    assert (device.fingerprint, found.outcome) == ("qemu:cortex-a53", Outcome.MEASURED)
    for names in (["rpi4"], ["qemu:max", "qemu:max"], ["ssh:a@b", "qemu:max"], []):
        with pytest.raises(BitloomError, match="no device is called"):
            boards_named(names, CORTEX_A53)


def test_a_core_that_qemu_does_not_know() -> None:
    with pytest.raises(RunnerError, match='emulates no "cortex-a99"'):
        EmulatedBoards("cortex-a99")
