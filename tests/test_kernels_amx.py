"""Convolutions on matrix tiles compute the form's definition bit for bit, in every block that fits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.amx import AmxPlan, amx_candidates, plan_amx
from schedules.amx_config import refusal
from schedules.machines import AMX, AVX512_VNNI, runs_here
from tests.test_kernels_convolution import SLOW_DRAWS, check, forms

needs_tiles = pytest.mark.skipif(not runs_here(AMX), reason="this computer has no AMX tiles of int8")


@st.composite
def tile_forms(draw: st.DrawFn) -> Convolution:
    form = draw(forms())
    output = ElementType.I16 if form.output is ElementType.I16 else ElementType.I8
    channels = draw(st.sampled_from([form.in_channels // form.groups, 3, 20, 64, 70, 130]))
    outputs = draw(st.sampled_from([1, 8, 16, 40, 64, 100]))
    return replace(
        form,
        input=ElementType.I8,
        weight=ElementType.I8,
        output=output,
        groups=1,
        in_channels=channels,
        out_channels=outputs,
        input_pitch=draw(st.sampled_from([None, channels + 5])),
        output_pitch=draw(st.sampled_from([None, outputs + 3])),
    )


@needs_tiles
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(form=tile_forms(), seed=st.integers(0, 2**32), data=st.data())
def test_kernel_computes_the_definition(form: Convolution, seed: int, data: st.DataObject) -> None:
    check(_drawn_plan(form, data), seed, extreme=data.draw(st.booleans()))


@needs_tiles
@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=SLOW_DRAWS)
@given(form=tile_forms(), seed=st.integers(0, 2**32), data=st.data())
def test_kernel_computes_the_definition_at_length(form: Convolution, seed: int, data: st.DataObject) -> None:
    check(_drawn_plan(form, data), seed, extreme=data.draw(st.booleans()))


def _drawn_plan(form: Convolution, data: st.DataObject) -> AmxPlan:
    """The default block or another, with shares of the model or smaller ones."""
    plan = plan_amx(form, AMX, data.draw(st.sampled_from([None, *amx_candidates(form, AMX)])))
    if not data.draw(st.booleans()):
        return plan
    config, g = plan.config, plan.geometry
    rows = [r for r in range(config.rows, g.height + 1) if g.height % r == 0 or g.height % r >= config.rows]
    columns = config.width * data.draw(st.integers(1, 3)) if g.flat else g.width
    config = replace(
        config,
        share_rows=data.draw(st.sampled_from(rows)),
        share_columns=min(columns, g.width),
        share_panels=data.draw(st.integers(1, 3)),
    )
    return plan_amx(form, AMX, config)


_LONG = Convolution(1, 9, 9, 130, 9, 9, 40, 3, 3, *[ElementType.I8] * 3, pad=(1, 1))


@needs_tiles
def test_every_block_that_fits_the_tiles() -> None:
    """More steps than batches and fewer, both sides kept, ragged panels."""
    for form in (_LONG, replace(_LONG, in_channels=64, out_channels=144)):
        legal = [c for c in amx_candidates(form, AMX) if c.rows < 3 or c.vectors == 1]
        blocks = {(c.rows, c.columns, c.vectors): c for c in legal}
        for config, seed in zip(itertools.islice(blocks.values(), 12), itertools.count()):
            check(plan_amx(form, AMX, config), seed)


@pytest.mark.parametrize(
    ("form", "machine", "reason"),
    [
        (_LONG, AVX512_VNNI, "avx512vnni has no matrix tiles"),
        (replace(_LONG, groups=2), AMX, "2 groups of channels"),
        (replace(_LONG, weight=ElementType.I4), AMX, "tiles multiply bytes, not i8 by i4"),
        (replace(_LONG, input=ElementType.I16), AMX, "tiles multiply bytes, not i16 by i8"),
        (replace(_LONG, output=ElementType.I32), AMX, "sums are stored as i8 or i16, not i32"),
    ],
)
def test_what_tiles_cannot_take(form: Convolution, machine: object, reason: str) -> None:
    assert refusal(form, machine) == reason  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=reason):
        plan_amx(form, machine)  # type: ignore[arg-type]


def test_a_block_without_registers_is_refused() -> None:
    config = plan_amx(_LONG, AMX).config
    with pytest.raises(ValueError, match=r"a block of 3 x 3 tiles of 9 pixels has no registers"):
        plan_amx(_LONG, AMX, replace(config, rows=3, columns=1, vectors=3, share_rows=9))
