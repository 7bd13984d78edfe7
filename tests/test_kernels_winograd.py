"""Winograd kernels compute the form's definition bit for bit, at the bounds of their integers too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.cpu import plan_kernel
from schedules.machines import AVX2, AVX_VNNI, X86_64, runs_here
from schedules.winograd import (
    BLOCK,
    MOST_CHANNELS,
    WinogradConfig,
    WinogradPlan,
    plan_winograd,
    transformed,
    winograd_pays,
)
from tests.built_kernel import call, load
from tests.test_kernels_convolution import (
    SLOW_DRAWS,
    check,
    codes_of,
    draw_constants,
    draw_image,
    operands_of,
    reference,
)

I8 = ElementType.I8
needs_avx2 = pytest.mark.skipif(not runs_here(AVX2), reason="this processor has no AVX2")
FORM = Convolution(1, 14, 14, 32, 14, 14, 16, 3, 3, I8, I8, I8, pad=(1, 1))


@st.composite
def forms(draw: st.DrawFn) -> Convolution:
    """Odd and even sizes from the least on, padded on any side or none, slices of wider tensors."""
    height, width = draw(st.integers(7, 18)), draw(st.integers(7, 18))
    top, left, bottom, right = (draw(st.integers(0, 1)) for _ in range(4))
    channels, outputs = BLOCK * draw(st.integers(1, 3)), 8 * draw(st.integers(1, 5))
    return Convolution(
        *(draw(st.integers(1, 2)), height + 2 - top - bottom, width + 2 - left - right, channels),
        *(height, width, outputs, 3, 3, I8, I8, I8),
        pad=(top, left),
        input_pitch=draw(st.sampled_from([None, channels + 16])),
        output_pitch=draw(st.sampled_from([None, outputs + 8])),
    )


@needs_avx2
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW_DRAWS)
@given(form=forms(), seed=st.integers(0, 2**32 - 1), extreme=st.booleans())
def test_kernel_equals_the_definition(form: Convolution, seed: int, extreme: bool) -> None:
    check(plan_winograd(form, AVX2), seed, extreme)


@needs_avx2
@settings(max_examples=10, deadline=None)
@given(
    vectors=st.integers(1, 2),
    tiles=st.integers(1, 12),
    share_rows=st.sampled_from([1, 7]),
    share_panels=st.integers(1, 2),
)
def test_every_configuration_computes_the_same(
    vectors: int, tiles: int, share_rows: int, share_panels: int
) -> None:
    form = replace(FORM, out_channels=32)
    config = WinogradConfig(vectors=vectors, tiles=tiles, share_rows=share_rows, share_panels=share_panels)
    check(plan_winograd(form, AVX2, config), seed=7)


@needs_avx2
@pytest.mark.parametrize("code", [-128, 127])
@pytest.mark.parametrize("weight", [-127, 127])
def test_sums_at_their_bounds_are_exact(code: int, weight: int) -> None:
    channels = MOST_CHANNELS // BLOCK * BLOCK
    form = Convolution(1, 15, 15, channels, 13, 13, 8, 3, 3, I8, I8, I8)
    constants = draw_constants(form, np.random.default_rng(0))
    constants["weight"][:] = weight
    constants["shift"][:] = 54
    image = np.full_like(draw_image(form, np.random.default_rng(0)), code)
    plan = plan_winograd(form, AVX2)
    operands = operands_of(plan, image, constants, 0x5A)
    call(load([plan])[plan.symbol], [operands[n] for n in plan.operands], [(0, plan.tiles)])
    np.testing.assert_array_equal(codes_of(plan, operands["output"], 0x5A), reference(form, image, constants))


def test_bound_on_channels_is_the_last_that_fits() -> None:
    def largest(channels: int) -> int:
        """Of a sum at one position, and of four times an output."""
        return max(channels * (4 * 255) * (9 * 127), 4 * 9 * channels * 255 * 127)

    assert largest(MOST_CHANNELS) < 2**31 <= largest(MOST_CHANNELS + 1)


def test_transformed_weights_stay_in_their_bound() -> None:
    signs = np.array(np.meshgrid(*[[-127, 127]] * 9)).reshape(9, -1).T.reshape(-1, 3, 3, 1)
    assert np.abs(transformed(signs.astype(np.int8)).astype(np.int64)).max() == 9 * 127


@pytest.mark.parametrize(
    "form",
    [
        replace(FORM, kernel_height=1, pad=(0, 1)),
        replace(FORM, stride=(2, 2), out_height=7, out_width=7),
        replace(FORM, dilation=(2, 2), out_height=12, out_width=12),
        replace(FORM, groups=2),
        replace(FORM, in_channels=24),
        replace(FORM, out_channels=20),
        replace(FORM, weight=ElementType.I4),
        replace(FORM, input=ElementType.I16),
        replace(FORM, output=ElementType.I32),
        replace(FORM, in_channels=(MOST_CHANNELS // BLOCK + 1) * BLOCK),
        replace(FORM, in_height=6, in_width=6, out_height=6, out_width=6),
        replace(FORM, in_height=7, in_width=7, out_height=7, out_width=7, in_channels=512, out_channels=512),
    ],
)
def test_other_forms_go_elsewhere(form: Convolution) -> None:
    assert not winograd_pays(form, AVX2)
    with pytest.raises(ValueError, match="no Winograd kernel on avx2"):
        plan_winograd(form, AVX2)


def test_machines_with_better_products_take_direct_kernels() -> None:
    assert isinstance(plan_kernel(FORM, AVX2), WinogradPlan)
    assert not any(isinstance(plan_kernel(FORM, machine), WinogradPlan) for machine in (AVX_VNNI, X86_64))
