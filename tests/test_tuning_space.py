"""Spaces of choices: what they offer is legal, distinct and survives being written down."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.op import Operand
from compiler.ir.types import quantized
from compiler.loops.form import Convolution, Form
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.elementwise import Add
from schedules.convolution_config import ConvolutionConfig
from schedules.cpu import plan_kernel
from schedules.machines import MACHINES, machine_named
from schedules.tuning.shares import evenness, in_parts, other_parts, parts_of
from schedules.tuning.space import FEATURES, TEMPLATES, Choice, KernelSpace, choice_of, describe_form
from schedules.tuning.transfer import form_of
from schedules.tuning.versions import source_version, sources_of, without_comments
from tests import loop_families as f
from tests.command_line import ROOT

I8, I16, I4, B1 = ElementType.I8, ElementType.I16, ElementType.I4, ElementType.B1


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    kernel = draw(st.sampled_from([1, 3, 5]))
    stride = draw(st.sampled_from([1, 2]))
    height, width = draw(st.integers(kernel, 30)), draw(st.integers(kernel, 30))
    kind = draw(st.sampled_from(["dense", "dense", "depthwise", "bits", "int4", "int16"]))
    inputs, outputs = draw(st.integers(1, 70)), draw(st.integers(1, 140))
    groups = 1
    if kind == "depthwise":
        inputs = outputs = groups = draw(st.integers(2, 140))
    elements = {"bits": (B1, B1), "int4": (I8, I4), "int16": (I16, I8)}.get(kind, (I8, I8))
    pad = kernel // 2
    return Convolution(
        draw(st.integers(1, 2)),
        height,
        width,
        inputs,
        (height + 2 * pad - kernel) // stride + 1,
        (width + 2 * pad - kernel) // stride + 1,
        outputs,
        kernel,
        kernel,
        *elements,
        I16 if kind == "int16" else I8,
        stride=(stride, stride),
        pad=(pad, pad),
        groups=groups,
    )


LOOPS = [f.add((1, 28, 28, 64)), f.max_pool(28, 28, 32), f.softmax(4, 1000), f.table((3, 5))]
forms = convolutions() | st.sampled_from(LOOPS)
machines = st.sampled_from(MACHINES)


def space_of(form: Form, machine: CpuMachine) -> KernelSpace | None:
    """None where the machine does not take the form at all."""
    try:
        plan_kernel(form, machine)
    except ValueError:
        return None
    return KernelSpace(form, machine)


@settings(max_examples=150, deadline=None)
@given(forms, machines, st.integers(0, 1 << 30))
def test_what_a_space_offers_is_legal_and_no_choice_is_its_own_neighbour(
    form: Form, machine: CpuMachine, seed: int
) -> None:
    space = space_of(form, machine)
    if space is None:
        return
    default = plan_kernel(form, machine)
    assert space.plan(space.default) == default
    random = Random(seed)
    choice = space.default
    for _ in range(6):  # a walk, so that neighbours of neighbours are tried
        near = space.neighbours(choice)
        assert len(set(near)) == len(near)
        assert choice not in near
        for other in near:
            plan = space.plan(other)
            assert choice_of(plan) == replace(other, widened=False)
            assert plan.form == space.forms[other.widened]
            usual = plan_kernel(plan.form, machine)
            for threads in (2, 4):
                assert evenness(plan.tiles, threads) >= evenness(usual.tiles, threads) - 0.05
        if not near:
            break
        choice = random.choice(near)
    drawn = space.drawn(random)
    assert space.plan(drawn).form == space.forms[drawn.widened]


@settings(max_examples=60, deadline=None)
@given(forms, machines, st.integers(0, 1 << 30))
def test_choices_of_every_template_survive_json(form: Form, machine: CpuMachine, seed: int) -> None:
    space = space_of(form, machine)
    if space is None:
        return
    choices = [space.default, space.drawn(Random(seed)), *space.neighbours(space.default)[:3]]
    for choice in choices:
        record = json.loads(json.dumps(choice.as_json()))
        assert Choice.of_json(record) == choice
        assert space.choice_of(record) == choice
        assert space.plan(Choice.of_json(record)).symbol == space.plan(choice).symbol


@settings(max_examples=60, deadline=None)
@given(forms, machines, st.integers(0, 1 << 30))
def test_features_are_finite_or_absent_and_tell_choices_apart(
    form: Form, machine: CpuMachine, seed: int
) -> None:
    space = space_of(form, machine)
    if space is None:
        return
    choices = dict.fromkeys([space.default, *space.neighbours(space.default), space.drawn(Random(seed))])
    rows = [space.features(choice) for choice in choices]
    for row in rows:
        assert row.shape == (len(FEATURES),) and row.dtype == np.float32
        assert not np.isinf(row).any()
        assert np.isfinite(row).sum() >= 4
    assert len({row.tobytes() for row in rows}) == len(choices)


@settings(max_examples=60, deadline=None)
@given(convolutions(), convolutions(), machines)
def test_choices_are_carried_over_to_other_forms_legally(
    form: Convolution, other: Convolution, machine: CpuMachine
) -> None:
    here, there = space_of(form, machine), space_of(other, machine)
    if here is None or there is None:
        return
    carried = here.adapted(there.default)
    assert carried is None or here.is_legal(carried)
    assert here.adapted(here.default) is None or here.is_legal(here.default)


def test_similar_forms_share_most_of_their_choices() -> None:
    machine = machine_named("avx512vnni")
    forms = [Convolution(1, 14, 14, c, 14, 14, 2 * c, 1, 1, I8, I8, I8) for c in (64, 96)]
    here, there = (KernelSpace(form, machine) for form in forms)
    random = Random(0)
    carried = [here.adapted(there.drawn(random)) for _ in range(40)]
    assert sum(choice is not None for choice in carried) >= 20


@given(convolutions())
def test_a_convolution_is_what_records_say_of_it(form: Convolution) -> None:
    description = json.loads(json.dumps(describe_form(form)))
    assert form_of(description["form"]) == form


def sum_of_images() -> Form:
    of = QuantizedType(I8, Quantization((0.5,), 0))
    image = Operand(quantized((1, 28, 28, 64), of))
    return Add(None, of).lower([image, image], [image]).form


def test_a_taller_tile_is_carried_over_to_a_lower_image() -> None:
    """Extents may be carried over that no tile of the other image has."""
    form = Convolution(1, 2, 27, 16, 2, 27, 32, 3, 3, I8, I8, I8, pad=(1, 1))
    here = KernelSpace(form, machine_named("avx512vnni"))
    config = next(c.config for c in here.ordered() if c.template == "convolution")
    assert isinstance(config, ConvolutionConfig)
    tall = dataclasses.replace(config, rows=3, columns=1, vectors=1)
    carried = here.adapted(Choice("convolution", tall))
    assert carried is not None and here.is_legal(carried)


def test_every_template_has_a_form() -> None:
    amx, avx2 = machine_named("amx"), machine_named("avx2")
    square = Convolution(1, 28, 28, 32, 28, 28, 32, 3, 3, I8, I8, I8, pad=(1, 1))
    bits = dataclasses.replace(square, input=B1, weight=B1)
    depthwise = dataclasses.replace(square, groups=32)
    spaces: list[tuple[Form, CpuMachine, set[str]]] = [
        (square, amx, {"convolution", "amx"}),
        (square, avx2, {"convolution", "winograd"}),
        (bits, avx2, {"binary"}),
        (depthwise, amx, {"depthwise"}),
        (LOOPS[0], amx, {"loops"}),
        (sum_of_images(), avx2, {"loops", "sums"}),
    ]
    seen = set[str]()
    for form, machine, wanted in spaces:
        space = KernelSpace(form, machine)
        assert {t.name for _, t in space.templates} == wanted
        random = Random(0)
        assert {space.drawn(random).template for _ in range(60)} == wanted
        seen |= wanted
    assert seen == {t.name for t in TEMPLATES}


def test_neighbours_lead_away_from_the_analytic_list() -> None:
    form = Convolution(1, 28, 28, 64, 28, 28, 128, 1, 1, I8, I8, I8)
    space = KernelSpace(form, machine_named("avx512vnni"))
    listed = set(space.ordered())
    assert any(choice not in listed for choice in space.neighbours(space.default))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"template": "magic"}, "unknown template 'magic'"),
        ({"version": "0"}, "has changed since"),
        ({"config": {"rows": 1}}, "no configuration of convolution"),
    ],
)
def test_records_of_what_is_gone_are_refused(change: dict[str, object], reason: str) -> None:
    form = Convolution(1, 28, 28, 64, 28, 28, 128, 1, 1, I8, I8, I8)
    space = KernelSpace(form, machine_named("avx512vnni"))
    record = {**space.default.as_json(), **change}
    with pytest.raises(ValueError, match=reason):
        Choice.of_json(record)
    assert space.choice_of(record) is None


def test_versions_differ_between_templates_and_do_not_change() -> None:
    versions = {t.name: source_version(t.module) for t in TEMPLATES}
    assert len(set(versions.values())) == len(TEMPLATES)
    source_version.cache_clear()
    assert versions == {t.name: source_version(t.module) for t in TEMPLATES}


def test_a_comment_does_not_change_a_version() -> None:
    source = 'def f(x: int) -> str:\n    """Words."""\n    # Why.\n\n    return f"""\n    # {x}\n"""\n'
    bare = 'def f(x: int) -> str:\n    return f"""\n    # {x}\n"""'
    assert without_comments(source) == bare == without_comments(bare)


def test_networks_count_what_writes_and_times_streams() -> None:
    names = {p.relative_to(ROOT).as_posix() for p in sources_of("targets.streams.lowering", "sim.timing")}
    assert {"sim/isa/__init__.py", "sim/isa/mac.py", "schedules/npu_cascade.py"} <= names
    assert not any("tuning" in n or "mali" in n for n in names)


def test_a_shared_source_is_part_of_the_versions_that_import_it() -> None:
    assert any(p.name == "amx_tir.py" for p in sources_of("schedules.amx"))
    assert not any(p.name == "amx_tir.py" for p in sources_of("schedules.convolution"))
    assert all(any(p.name == "build.py" for p in sources_of(t.module)) for t in TEMPLATES)


@given(st.integers(1, 300), st.integers(1, 300))
def test_parts_cover_their_units(units: int, parts: int) -> None:
    size = in_parts(units, parts)
    assert 1 <= size <= units
    assert parts_of(units, size) <= max(1, parts)
    for other in other_parts(units, size):
        assert 1 <= other <= units and other != size
    assert all(0 < evenness(units, t) <= 1 for t in (1, 2, 4))
    assert math.isclose(evenness(4 * units, 4), 1.0)
