"""Tuning of GPU kernels: spaces hold legal choices, and `compile` uses what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Convolution, Form
from compiler.numerics.element import ElementType
from schedules.mali import plan_gpu_kernel
from schedules.mali_machines import G76, MACHINES, GpuMachine
from schedules.tuning.mali_space import MALI_FEATURES, GpuSpace, space_of
from schedules.tuning.mali_templates import MALI_TEMPLATES
from schedules.tuning.measure import Outcome
from schedules.tuning.records import append, database_path, databases, read
from schedules.tuning.transfer import Transfer
from schedules.tuning.tuned import Tuned
from targets.measuring.opencl import OpenClDevice
from tests import loop_families as f
from tests.command_line import bitloom
from tests.mali_device import LAYERS, opencl_device, planned
from tests.planted_records import verdict_for
from tests.test_mali_library import SAMPLES, network
from tests.test_tuning_space import convolutions

I8, I4 = ElementType.I8, ElementType.I4
LOOPS = [f.add((1, 28, 28, 64)), f.max_pool(28, 28, 32), f.softmax(4, 1000), f.table((3, 5))]
forms = convolutions() | st.sampled_from(LOOPS)
machines = st.sampled_from(list(MACHINES.values()))


def space_for(form: Form, machine: GpuMachine) -> GpuSpace | None:
    """None where the GPU does not take the form."""
    try:
        plan_gpu_kernel(form, machine)
    except ValueError:
        return None
    return GpuSpace(form, machine)


@settings(max_examples=60, deadline=None)
@given(forms, machines, st.integers(0, 1 << 30))
def test_choices_are_legal_and_their_groups_fit_the_machine(
    form: Form, machine: GpuMachine, seed: int
) -> None:
    space = space_for(form, machine)
    if space is None:
        return
    random = Random(seed)
    choice = space.default
    assert space.plan(choice) == plan_gpu_kernel(form, machine)
    for _ in range(5):
        near = space.neighbours(choice)
        assert len(set(near)) == len(near) and choice not in near
        for other in near:
            for kernel in planned(space, other).kernels:
                assert prod(kernel.work_group) <= machine.work_group
                assert all(g & (g - 1) == 0 for g in kernel.work_group)
        if not near:
            break
        choice = random.choice(near)
    drawn = space.drawn(random)
    assert space.plan(drawn).form == space.forms[drawn.widened]
    record = json.loads(json.dumps(drawn.as_json()))
    assert space.choice_of(record) == drawn


@settings(max_examples=40, deadline=None)
@given(forms, machines, st.integers(0, 1 << 30))
def test_choices_differ_in_their_kernels_and_their_features(
    form: Form, machine: GpuMachine, seed: int
) -> None:
    space = space_for(form, machine)
    if space is None:
        return
    choices = list(
        dict.fromkeys([space.default, *space.neighbours(space.default), space.drawn(Random(seed))])
    )
    rows = [space.features(choice) for choice in choices]
    assert all(row.shape == (len(MALI_FEATURES),) and not np.isinf(row).any() for row in rows)
    texts: list[Any] = []
    for choice in choices:
        plan = planned(space, choice)
        texts.append(tuple(k.source.replace(plan.symbol, "") for k in plan.kernels))
    assert len({row.tobytes() for row in rows}) == len(choices) == len(set(texts))


@settings(max_examples=30, deadline=None)
@given(forms, machines)
def test_the_list_begins_with_the_default_and_goes_by_the_estimate(form: Form, machine: GpuMachine) -> None:
    space = space_for(form, machine)
    if space is None:
        return
    listed = list(space.ordered())
    first = len(space.defaults)
    assert listed[0] == space.default and listed[:first] == space.defaults and len(set(listed)) == len(listed)
    estimate = MALI_FEATURES.index("estimate")
    for widened in space.forms:
        costs = [float(space.features(c)[estimate]) for c in listed[first:] if c.widened is widened]
        assert costs == sorted(costs)


@settings(max_examples=30, deadline=None)
@given(convolutions(), convolutions(), machines, st.integers(0, 1 << 30))
def test_choices_are_carried_over_legally(
    form: Convolution, other: Convolution, machine: GpuMachine, seed: int
) -> None:
    here, there = space_for(form, machine), space_for(other, machine)
    if here is None or there is None:
        return
    carried = here.adapted(there.drawn(Random(seed)))
    assert carried is None or here.is_legal(carried)


def test_every_template_has_a_form() -> None:
    loops: list[Form] = [f.max_pool(9, 9, 8)]
    spaces = [GpuSpace(form, G76) for form in [*LAYERS.values(), *loops]]
    assert {space.default.template for space in spaces} == {t.name for t in MALI_TEMPLATES}
    assert all(isinstance(space_of(space.form, G76), GpuSpace) for space in spaces)


# The command.


@pytest.fixture(scope="module")
def device() -> Iterator[OpenClDevice]:
    with opencl_device() as device:
        yield device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    network(folder)
    np.savez(folder / "x.npz", x=SAMPLES[:, 0])
    return folder


def run(folder: Path, *arguments: str | Path) -> Any:
    return bitloom(*arguments, cwd=folder, cache=folder / "cache")


def test_a_model_is_tuned_and_its_library_uses_what_was_found(device: OpenClDevice, folder: Path) -> None:
    target = ("--target", "mali/generic@host")
    done = run(folder, "tune", "m.onnx", *target, "--runner", "opencl", "--trials", "12", "--json", "-q")
    assert done.code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["device"] == device.fingerprint
    assert sum(kernel["trials"] for kernel in result["kernels"]) == 12
    assert all(0 < kernel["ratio"] <= 1 for kernel in result["kernels"])
    assert [m["threads"] for m in result["model"]] == [1]
    [path] = databases(folder / "cache-records")
    records = read(path, pytest.fail)
    assert {r.outcome for r in records} == {Outcome.MEASURED}
    assert {r.machine for r in records} == {"generic"} and {r.fingerprint for r in records} == {
        device.fingerprint
    }
    done = run(folder, "compile", "m.onnx", "-c", "x.npz", *target, "-o", "out", "-q", "--json")
    assert done.code == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["tuning"]["devices"] == [device.fingerprint]
    assert 0 < manifest["tuning"]["tuned"] <= manifest["tuning"]["kernels"]
    assert manifest["estimate"]["gpu"] == "generic" and manifest["estimate"]["seconds"] > 0
    done = run(folder, "compile", "m.onnx", "-c", "x.npz", *target, "-o", "out", "-q")
    assert "estimate, not measured: kernels take " in done.stdout
    assert f"kernels planned by records of {device.fingerprint}" in done.stdout
    done = run(folder, "verify", "out", "--runner", "opencl", "--samples", "1")
    assert done.code == 0, done.stderr
    done = run(folder, "inspect", "out")
    assert "estimate for a generic of 4 cores" in done.stdout and "not measured" in done.stdout


def test_another_target_of_the_same_gpu_uses_the_records(tmp_path: Path) -> None:
    """Of several devices, Mali GPUs come before what stands in for one."""
    form = LAYERS["pointwise"]
    space = GpuSpace(form, G76)
    near = space.neighbours(space.default)
    for device, choice in (("OpenCL cpu, driver 6", near[0]), ("OpenCL Mali-G76, driver 1", near[1])):
        path = database_path(tmp_path, device)
        for number in range(2 if "cpu" in device else 1):
            append(path, [verdict_for(space, choice, device, date=f"2026-01-01T00:00:0{number}")])
    tuned = Tuned.of(tmp_path, [G76], None, pytest.fail, lambda d: "Mali" not in d)
    assert tuned.devices == ("OpenCL Mali-G76, driver 1",)
    assert tuned.plan(form, G76) == space.plan(near[1])
    assert tuned.plan(LAYERS["int4"], G76) == plan_gpu_kernel(LAYERS["int4"], G76)
    from targets import target_named

    for name in ("mali/g76", "mali/g76@host", "mali/g76@android"):
        target = cast(Any, target_named(name)).with_records(tmp_path, pytest.fail)
        assert target.plan(form) == space.plan(near[1])
    other = cast(Any, target_named("mali/g78")).with_records(tmp_path, pytest.fail)
    assert other.tuned is None


def test_similar_kernels_lend_their_choices() -> None:
    there = GpuSpace(LAYERS["pointwise"], G76)
    best = there.neighbours(there.default)[0]
    costs = ((there.default, 2.0), (best, 1.0))
    records = [verdict_for(there, c, "own", verdict=None, cost=cost) for c, cost in costs]
    here = GpuSpace(replace(LAYERS["pointwise"], in_channels=32), G76)
    transfer = Transfer.of(here, records, [])
    assert here.adapted(best) in transfer.hints
    assert transfer.samples is not None and transfer.samples.features.shape[1] == len(MALI_FEATURES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--runner", "opencl:no such"), 'no usable OpenCL device is called "no such"'),
        (("--runner", "local"), 'are not measured by the runner "local"'),
        (("--board", "qemu:cortex-a76"), "is tuned on an OpenCL device of this computer"),
        (("--threads", "2"), "a GPU runs its kernels whole"),
        (("--target", "host", "--runner", "opencl"), "--runner is for OpenCL devices"),
    ],
    ids=["name", "runner", "board", "threads", "cpu"],
)
def test_what_does_not_fit_is_refused(
    device: OpenClDevice, folder: Path, options: tuple[str, ...], words: str
) -> None:
    target = () if "--target" in options else ("--target", "mali/g76")
    done = run(folder, "tune", "m.onnx", *target, *options, "-q")
    assert done.code == 2 and words in done.stderr, done
    assert "Traceback" not in done.stderr and not done.heavy


def test_no_library_is_said_with_a_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITLOOM_OPENCL", "/nowhere/libOpenCL.so")
    done = run(folder, "tune", "m.onnx", "--target", "mali/g76", "-q")
    assert done.code == 2 and "there is no OpenCL library" in done.stderr
    assert "hint: " in done.stderr and "bitloom[mali]" in done.stderr
    with pytest.raises(BitloomError, match="there is no OpenCL library"):
        OpenClDevice()


def test_a_library_for_another_system_is_tuned_but_not_timed() -> None:
    from targets import target_named
    from targets.tunable import NotTimedError, Place

    target = cast(Any, target_named("mali/g76"))
    with pytest.raises(NotTimedError, match="libraries for mali/g76 are for aarch64"):
        target.runner(Place())
    assert cast(Any, target_named("mali/g76@host")).runner(Place(runner="opencl:x")) == "opencl:x"
