"""Sums of pairs of 8-bit products on AVX2: steps that cannot saturate, and the others, are exact together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution
from schedules.convolution import plan_convolution
from schedules.convolution_pairs import is_direct
from tests.built_kernel import call, load
from tests.test_kernels_convolution import (
    AVX2,
    HOST_MACHINES,
    I8,
    SLOW_DRAWS,
    codes_of,
    draw_constants,
    draw_image,
    forms,
    operands_of,
    reference,
)


@given(
    st.lists(st.integers(-127, 127), min_size=8, max_size=8),
    st.lists(st.sampled_from([0, 255]), min_size=8, max_size=8),
)
def test_direct_steps_cannot_saturate_and_the_others_can(weights: list[int], codes: list[int]) -> None:
    """Two lanes of one step; sums of pairs are largest with activations at the ends of their range."""
    step = np.array(weights, np.int8).reshape(1, 2, 4)
    pairs = np.array(weights).reshape(4, 2)
    largest, least = np.maximum(pairs, 0).sum(1) * 255, np.minimum(pairs, 0).sum(1) * 255
    fits = bool(np.all((largest <= 32767) & (least >= -32768)))
    assert bool(is_direct(step)[0]) == fits
    if fits:
        sums = (pairs * np.array(codes).reshape(4, 2)).sum(1)
        assert np.all((sums <= 32767) & (sums >= -32768))


@pytest.mark.skipif(AVX2 not in HOST_MACHINES, reason="this processor has no AVX2")
@settings(max_examples=12, deadline=None, suppress_health_check=SLOW_DRAWS)
@given(form=forms(), seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([10, 40, 70]))
def test_sorted_steps_equal_the_definition(form: Convolution, seed: int, spread: int) -> None:
    """Weights of which some steps are direct and others are not."""
    assume(form.weight is I8 and form.input is I8)
    rng = np.random.default_rng(seed)
    constants, image = draw_constants(form, rng), draw_image(form, rng)
    weight = np.clip(rng.normal(0, spread, constants["weight"].shape), -127, 127)
    constants["weight"] = weight.astype(np.int8)
    plan = plan_convolution(form, AVX2)
    operands = operands_of(plan, image, constants, 0x5A)
    call(load([plan])[plan.symbol], [operands[n] for n in plan.operands], [(0, plan.tiles)])
    np.testing.assert_array_equal(codes_of(plan, operands["output"], 0x5A), reference(form, image, constants))


def test_packed_pairs_are_as_long_as_they_need_to_be() -> None:
    form = Convolution(1, 14, 14, 64, 14, 14, 32, 1, 1, I8, I8, I8)
    plan = plan_convolution(form, AVX2)
    most, _ = plan.operand_type("weight")
    constants = draw_constants(form, np.random.default_rng(0))
    for value, size in ((64, most // 2), (127, most)):
        constants["weight"][:] = value
        packed = plan.pack(constants)
        assert packed["weight"].size == size
        assert packed["steps"].size == plan.operand_type("steps")[0]
