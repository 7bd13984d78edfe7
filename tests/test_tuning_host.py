"""This computer as a device: faults of candidates are outcomes in their own words, and nothing ends the
device."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.arm_machines import ARM_MACHINES
from schedules.cpu import plan_kernel
from schedules.machines import host_machine, runs_here
from schedules.tuning.measure import Measurement, Outcome, Unit
from schedules.tuning.space import KernelSpace
from targets.measuring.child import resident_bytes
from targets.measuring.host import HostDevice, Limits
from targets.measuring.operands import example_of
from tests.planted_plans import PlantedPlan, copy_form

I8, I16, I4, B1 = ElementType.I8, ElementType.I16, ElementType.I4, ElementType.B1

FAULTS = {
    "crashing": (Outcome.CRASHED, "SIGSEGV"),
    "aborting": (Outcome.CRASHED, "SIGILL"),
    "hanging": (Outcome.HUNG, "no answer within 5 s"),
    "wrong": (Outcome.WRONG, "1 of 4096 elements of y are wrong, the first at (17,)"),
    "trespassing": (Outcome.WRONG, "it wrote beside y"),
    "failing": (Outcome.WRONG, "it reported failure 7"),
    "greedy": (Outcome.OUT_OF_MEMORY, "took more than"),
    "unbuildable": (Outcome.NOT_BUILT, "ValueError: no registers are left for the sums"),
    "aborting compiler": (Outcome.NOT_BUILT, "LLVM ERROR: Cannot select: intrinsic %llvm.x86.nothing"),
    "unlinkable": (Outcome.NOT_BUILT, "the linker says"),
}


@pytest.fixture(scope="module")
def device() -> Iterator[HostDevice]:
    device = HostDevice(workers=1, limits=Limits(run_seconds=5.0, run_bytes=600 << 20))
    yield device
    device.close()


def measured(device: HostDevice, plans: list[PlantedPlan]) -> list[Measurement]:
    found = dict(device.measure(plans))
    assert sorted(found) == list(range(len(plans)))
    return [found[i] for i in range(len(plans))]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_an_outcome_and_the_next_candidate_is_measured(device: HostDevice, kind: str) -> None:
    outcome, words = FAULTS[kind]
    before, bad, after = measured(device, [PlantedPlan("sound"), PlantedPlan(kind), PlantedPlan("sound", 1)])
    assert bad.outcome is outcome
    assert words in bad.said
    assert math.isinf(bad.cost) and math.isinf(bad.spread)
    assert before.outcome is after.outcome is Outcome.MEASURED


def test_costs_are_seconds_and_slower_kernels_cost_more(device: HostDevice) -> None:
    quick, slow = measured(device, [PlantedPlan("sound"), PlantedPlan("slow")])
    assert device.unit is Unit.SECONDS
    assert 1e-8 < quick.cost < 20e-6 < slow.cost < 20e-3
    assert 0 <= slow.spread < slow.cost


def test_equal_candidates_are_measured_as_often_as_they_are_given(device: HostDevice) -> None:
    plans = [PlantedPlan("sound"), PlantedPlan("slow")] * 3
    costs = [m.cost for m in measured(device, plans)]
    assert all(math.isfinite(c) for c in costs)
    assert max(costs[0::2]) < min(costs[1::2])


def test_more_candidates_than_a_batch_are_all_measured(device: HostDevice) -> None:
    plans = [PlantedPlan("sound", n) for n in range(19)]
    assert all(m.outcome is Outcome.MEASURED for m in measured(device, plans))


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_closing_ends_all_processes_and_the_device_can_be_used_again() -> None:
    before = _children()
    device = HostDevice(workers=1)
    measured(device, [PlantedPlan("sound")])
    started = _children() - before
    assert len(started) == 2
    device.close()
    device.close()
    assert not (_children() & started)
    assert measured(device, [PlantedPlan("sound")])[0].outcome is Outcome.MEASURED
    device.close()


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_workers_that_are_killed_are_replaced() -> None:
    before = _children()
    device = HostDevice(workers=1)
    try:
        measured(device, [PlantedPlan("sound")])
        for process in _children() - before:
            os.kill(process, signal.SIGKILL)
        _wait_until(lambda: not (_children() - before))
        outcomes = [m.outcome for m in measured(device, [PlantedPlan("sound", n) for n in (1, 2, 3)])]
        assert outcomes == [Outcome.MEASURED] * 3
    finally:
        device.close()


def _wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _children() -> set[int]:
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.add(int(entry.name))
    return found


def test_kernels_of_another_machine_are_refused(device: HostDevice) -> None:
    other = next(m for m in ARM_MACHINES.values() if not runs_here(m))
    with pytest.raises(BitloomError, match=f"cannot run kernels for {other.name}"):
        list(device.measure([plan_kernel(copy_form(), other)]))


def test_memory_of_processes_is_known_here() -> None:
    assert resident_bytes(os.getpid()) > 1 << 20


FORMS = {
    "pointwise": Convolution(1, 6, 5, 24, 6, 5, 40, 1, 1, I8, I8, I8),
    "3x3 slice": Convolution(
        1, 6, 5, 8, 6, 5, 16, 3, 3, I8, I8, I8, pad=(1, 1), input_pitch=24, output_pitch=48
    ),
    "int4": Convolution(1, 6, 5, 16, 6, 5, 16, 1, 1, I8, I4, I8),
    "int16": Convolution(1, 6, 5, 16, 6, 5, 16, 1, 1, I16, I8, I16),
    "bits": Convolution(1, 6, 5, 40, 6, 5, 24, 3, 3, B1, B1, B1, pad=(1, 1)),
    "depthwise": Convolution(1, 8, 8, 32, 8, 8, 32, 3, 3, I8, I8, I8, pad=(1, 1), groups=32),
    "sums": Convolution(1, 6, 5, 16, 6, 5, 16, 1, 1, I8, I8, ElementType.I32),
}


def test_kernels_of_every_template_are_found_right(device: HostDevice) -> None:
    plans = [
        KernelSpace(form, host_machine()).plan(KernelSpace(form, host_machine()).default)
        for form in FORMS.values()
    ]
    found = dict(device.measure(plans))
    assert {name: found[i].said for i, name in enumerate(FORMS)} == dict.fromkeys(FORMS, "")
    assert all(found[i].outcome is Outcome.MEASURED for i in range(len(plans)))


def test_results_of_random_operands_are_not_constant() -> None:
    for form in FORMS.values():
        expected = example_of(form).expected["output"]
        assert len(np.unique(expected)) >= 2


def test_threads_cost_what_the_slowest_range_does() -> None:
    form = Convolution(1, 56, 56, 64, 56, 56, 64, 1, 1, I8, I8, I8)
    space = KernelSpace(form, host_machine())
    plan = space.plan(space.default)
    assert plan.tiles % 2 == 0
    costs: list[float] = []
    for threads in (1, 2):
        device = HostDevice(threads=threads, workers=1)
        try:
            assert device.fingerprint.endswith(f"{threads} thread{'s' if threads > 1 else ''}")
            costs.append(dict(device.measure([plan]))[0].cost)
        finally:
            device.close()
    assert 0.3 * costs[0] < costs[1] < 0.8 * costs[0]
