"""OpenCL devices survive any candidate, and each fault has its own words."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Form
from schedules.mali_machines import G76, GENERIC
from schedules.tuning.mali_space import GpuSpace
from schedules.tuning.measure import Measurement, Outcome, Unit
from targets.measuring.opencl import OpenClDevice
from targets.measuring.opencl_api import ClError
from tests import loop_families as f
from tests import opencl_shim
from tests.mali_device import LAYERS, SOFTMAXES, opencl_device, planned
from tests.planted_gpu_plans import PlantedGpuPlan


@pytest.fixture(scope="module")
def device() -> Iterator[OpenClDevice]:
    with opencl_device() as device:
        yield device


def measured(device: OpenClDevice, plans: list[Any]) -> list[Measurement]:
    found = dict(device.measure(plans))
    assert sorted(found) == list(range(len(plans)))
    return [found[i] for i in range(len(plans))]


FAULTS = {
    "crashing": (Outcome.CRASHED, "SIGSEGV"),
    "wrong": (Outcome.WRONG, "1 of 4096 elements of y are wrong, the first at (17,)"),
    "trespassing": (Outcome.WRONG, "it wrote beside y"),
    "unbuildable": (Outcome.NOT_BUILT, "nothing"),
    "large group": (Outcome.NOT_BUILT, "work-items"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_an_outcome_and_the_next_candidate_is_measured(device: OpenClDevice, kind: str) -> None:
    outcome, words = FAULTS[kind]
    plans = [PlantedGpuPlan("sound"), PlantedGpuPlan(kind), PlantedGpuPlan("sound", 1)]
    before, bad, after = measured(device, plans)
    assert (bad.outcome, words in bad.said) == (outcome, True), bad
    assert math.isinf(bad.cost) and math.isinf(bad.spread)
    assert before.outcome is after.outcome is Outcome.MEASURED, (before, after)


def test_a_candidate_that_hangs_is_ended() -> None:
    with opencl_device(run_seconds=6.0) as device:
        before, bad, after = measured(
            device, [PlantedGpuPlan(kind) for kind in ("sound", "hanging", "wrong")]
        )
    assert (bad.outcome, bad.said) == (Outcome.HUNG, "no answer within 6 s")
    assert (before.outcome, after.outcome) == (Outcome.MEASURED, Outcome.WRONG)


def test_costs_are_seconds_of_the_device(device: OpenClDevice) -> None:
    quick, slow = measured(device, [PlantedGpuPlan("sound"), PlantedGpuPlan("slow")])
    assert device.unit is Unit.SECONDS and device.parallel == 1
    assert 0 < quick.cost < slow.cost
    assert "driver" in device.fingerprint


@pytest.mark.parametrize("name", [*LAYERS, "pool", *SOFTMAXES])
def test_choices_of_every_template_are_found_right(device: OpenClDevice, name: str) -> None:
    form: Form = {**LAYERS, "pool": f.max_pool(9, 9, 12), **SOFTMAXES}[name]
    space = GpuSpace(form, GENERIC if name in LAYERS else G76)
    random = Random(1)
    choices = dict.fromkeys([space.default, *(space.drawn(random) for _ in range(6))])
    found = measured(device, [planned(space, choice) for choice in choices])
    assert {m.said for m in found} <= {""}, [m.said for m in found]
    assert {m.outcome for m in found} == {Outcome.MEASURED}


def test_errors_of_opencl_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ClError("clCreateBuffer", -61)))
    assert str(error) == "clCreateBuffer: out of memory (OpenCL error -61)" and error.out_of_memory
    assert not ClError("clFinish", -5).out_of_memory


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (opencl_shim.NO_PLATFORM, "there is no OpenCL device"),
        (opencl_shim.NO_DEVICE, "there is no OpenCL device"),
        (
            "int clGetPlatformIDs(unsigned n, handle *p, unsigned *c) { return *(volatile int *)8; }",
            "SIGSEGV",
        ),
    ],
    ids=["platform", "device", "crash"],
)
def test_a_computer_without_a_device_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, words: str
) -> None:
    monkeypatch.setenv("BITLOOM_OPENCL", str(opencl_shim.shim(tmp_path, function)))
    with pytest.raises(BitloomError, match=words):
        OpenClDevice()


def test_memory_that_the_device_lacks_is_an_outcome(
    device: OpenClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITLOOM_OPENCL", str(opencl_shim.shim(tmp_path, opencl_shim.NO_MEMORY)))
    try:
        small = OpenClDevice()
    except BitloomError as error:  # the system has no driver of its own
        pytest.skip(error.message)
    try:
        [found] = measured(small, [PlantedGpuPlan("sound")])
    finally:
        small.close()
    assert found.outcome is Outcome.OUT_OF_MEMORY
    assert found.said == "clCreateBuffer: out of memory (OpenCL error -4)"


BUILD = "int clBuildProgram(handle p, unsigned n, const handle *d, const char *o, void *f, void *data)"


@pytest.mark.parametrize(
    ("body", "outcome", "words"),
    [
        ("return *(volatile int *)8;", Outcome.NOT_BUILT, "the driver's compiler: ended by SIGSEGV"),
        (
            "for (volatile int i = 0;;) i = 0;",
            Outcome.NOT_BUILT,
            "the driver's compiler: no answer within 3 s",
        ),
        ("return -6;", Outcome.NOT_BUILT, "the compiler: out of memory (OpenCL error -6)"),
        (
            "static char *volatile more; for (;;) { more = malloc(1 << 22); memset(more, 1, 1 << 22); }",
            Outcome.OUT_OF_MEMORY,
            "took more than 1024 MiB",
        ),
    ],
    ids=["crashes", "hangs", "refuses", "eats"],
)
def test_compilers_of_drivers_may_fail(
    device: OpenClDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    outcome: Outcome,
    words: str,
) -> None:
    shim = opencl_shim.shim(tmp_path, "#include <stdlib.h>", f"{BUILD} {{ {body} }}")
    monkeypatch.setenv("BITLOOM_OPENCL", str(shim))
    try:
        bad = OpenClDevice(build_seconds=3.0 if "3 s" in words else 60.0, memory_bytes=1 << 30)
    except BitloomError as error:  # the system has no driver of its own
        pytest.skip(error.message)
    try:
        found = measured(bad, [PlantedGpuPlan("sound"), PlantedGpuPlan("sound", 1)])
    finally:
        bad.close()
    assert [(m.outcome, words in m.said) for m in found] == [(outcome, True)] * 2, found


def test_a_device_that_is_gone_ends_the_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = opencl_shim.shim(tmp_path, opencl_shim.NO_DEVICE)
    try:
        device = OpenClDevice()
    except BitloomError as error:
        pytest.skip(error.message)
    outcomes: list[Outcome] = []
    plans: list[Any] = [PlantedGpuPlan("crashing"), PlantedGpuPlan("sound")]
    try:
        monkeypatch.setenv("BITLOOM_OPENCL", str(gone))
        with pytest.raises(BitloomError, match="there is no OpenCL device"):
            for _, measurement in device.measure(plans):
                outcomes.append(measurement.outcome)
    finally:
        device.close()
    assert outcomes == [Outcome.CRASHED]
