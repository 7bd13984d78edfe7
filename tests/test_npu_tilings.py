"""Laws of tilings: any that fits computes the same bits, and the one that is chosen is the fastest tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ir.graph import Graph
from compiler.loops.form import Convolution
from compiler.lowering.program import kernel_calls
from compiler.lowering.storage import place_values
from compiler.numerics.element import ElementType
from schedules import npu_search
from schedules.npu_matrix import MatrixProduct
from schedules.npu_matrix_tiling import MatrixTiling, matrix_tilings
from schedules.npu_mechanisms import Mechanisms
from schedules.npu_search import candidate_tilings, choose_tiling, trial
from schedules.npu_space import tiling_space, with_two_engines
from schedules.npu_tiling import Fold, Shape, Tiling, folds_of
from sim.config import NpuConfig, load_config
from targets.streams import layers, matrices
from tests.npu_networks import check_exact, graph_of
from tests.op_cases import OpCase
from tests.random_graphs import random_arrays
from tests.test_npu_layers import large_matrices
from tests.test_npu_networks import configurations, convolutions

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))
I8 = ElementType.I8


def shape_of(
    height: int, width: int, inputs: int, outputs: int, kernel: tuple[int, int], groups: int = 1
) -> Shape:
    """Of stride 1 and pads that keep the size."""
    pad = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    form = Convolution(
        1, height, width, inputs, height, width, outputs, *kernel, I8, I8, I8, pad=pad, groups=groups
    )
    return Shape(form, False, False)


def check_tiling(graph: Graph, config: NpuConfig, number: int, seed: int, fold: Fold | None = None) -> None:
    """The graph's only layer by tiling `number` of its space (of one fold, where that is given)."""

    def drawn(shape: Shape, of: NpuConfig, _mechanisms: Mechanisms) -> Tiling | None:
        space = with_two_engines(tiling_space(shape, of), shape)
        if fold is not None and (space.fold == fold).any():
            space = space.where(space.fold == fold)
        return space.tiling(number % len(space)) if len(space) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "choose_tiling", drawn)
        check_exact(graph, config, random_arrays(graph, seed))


@settings(ANY, max_examples=25)
@given(convolutions(), configurations(), st.integers(0, 1 << 30), st.integers(0, 2**16))
def test_any_tiling_is_exact(graph: Graph, config: NpuConfig, number: int, seed: int) -> None:
    check_tiling(graph, config, number, seed)


@pytest.mark.slow
@settings(ANY, max_examples=1000)
@given(convolutions(), configurations(), st.integers(0, 1 << 30), st.integers(0, 2**16))
def test_any_of_many_tilings_is_exact(graph: Graph, config: NpuConfig, number: int, seed: int) -> None:
    check_tiling(graph, config, number, seed)


@pytest.mark.parametrize("fold", [Fold.ROW, Fold.WINDOW])
@settings(ANY, max_examples=15)
@given(st.data(), configurations(), st.integers(0, 1 << 30), st.integers(0, 2**16))
def test_folded_kernels_are_exact(
    fold: Fold, data: st.DataObject, config: NpuConfig, number: int, seed: int
) -> None:
    """Few channels, pads on all sides, strides, slices of wider pixels (groups), dilated rows."""

    def folds(graph: Graph) -> bool:
        forms = (c.lowered.form for c in kernel_calls(graph, place_values(graph)))
        (form,) = (f for f in forms if isinstance(f, Convolution))
        return fold in folds_of(form, config.mac.reduction_lanes(form.input.bits))

    graph = data.draw(convolutions(most_inputs=6).filter(folds))
    check_tiling(graph, config, number, seed, fold)


MATRICES = (large_matrices(), configurations(), st.booleans(), st.integers(0, 1 << 30))


@settings(ANY, max_examples=10)
@given(*MATRICES)
def test_any_tiling_of_matrices_is_exact(
    case: OpCase, config: NpuConfig, exchanged: bool, number: int
) -> None:
    check_matrices(case, config, exchanged, number)


@pytest.mark.slow
@settings(ANY, max_examples=200)
@given(*MATRICES)
def test_any_of_many_tilings_of_matrices_is_exact(
    case: OpCase, config: NpuConfig, exchanged: bool, number: int
) -> None:
    check_matrices(case, config, exchanged, number)


def check_matrices(case: OpCase, config: NpuConfig, exchanged: bool, number: int) -> None:
    """Whichever operand takes the place of weights."""

    def drawn(p: MatrixProduct, of: NpuConfig, _mechanisms: Mechanisms) -> tuple[MatrixProduct, MatrixTiling]:
        parts = [q.merged for q in (p, p.exchanged) if q.right.element is I8]
        turned = parts[exchanged % len(parts)]
        tilings = matrix_tilings(turned, of)
        return turned, tilings[number % len(tilings)]

    graph, inputs = graph_of(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "choose_matrix_tiling", drawn)
        check_exact(graph, config, inputs)


def test_bits_take_blocks_that_the_accumulators_take_in_a_cycle() -> None:
    """All 64 lanes would leave no room for a second block: weights would come again for each tile."""
    config = load_config("npu-256")
    b1 = ElementType.B1
    form = Convolution(1, 14, 14, 256, 14, 14, 256, 3, 3, b1, b1, b1, pad=(1, 1))
    chosen = choose_tiling(Shape(form, False, False), config)
    assert chosen is not None and chosen.outputs == config.mac.accumulator_port_bits // 32
    bytes_of_weights = form.out_channels * form.taps // 8
    assert trial(chosen, Shape(form, False, False), config).cycles < 1.4 * bytes_of_weights


def test_folds_are_those_that_save_steps_of_the_array() -> None:
    few = shape_of(9, 9, 3, 8, (3, 3)).form
    assert folds_of(few, 16) == [Fold.NONE, Fold.ROW, Fold.WINDOW]  # 9, 3 and 2 steps
    assert folds_of(replace(few, in_channels=16), 16) == [Fold.NONE]
    assert folds_of(replace(few, dilation=(1, 2)), 16) == [Fold.NONE]
    assert folds_of(replace(few, dilation=(2, 1)), 16) == [Fold.NONE, Fold.ROW, Fold.WINDOW]
    assert folds_of(replace(few, in_channels=8, out_channels=8, groups=8), 16) == [Fold.NONE]


@pytest.mark.parametrize("preset", ["npu-128", "npu-512"])
def test_no_slower_tiling_than_the_model_s_is_chosen_every_time(preset: str) -> None:
    config = load_config(preset)
    shape = shape_of(20, 12, 24, 40, (3, 3))
    chosen = choose_tiling(shape, config)
    found = candidate_tilings(shape, config)
    assert len(found) > 1 and found == candidate_tilings(shape, config)
    assert chosen is not None and chosen in [c.tiling for c in found]
    cheapest = trial(found[0].tiling, shape, config).cycles
    assert trial(chosen, shape, config).cycles <= max(cheapest, found[0].least)


@pytest.mark.parametrize("preset", ["npu-128", "npu-256", "npu-512"])
@pytest.mark.parametrize(
    "shape",
    [
        shape_of(14, 14, 96, 200, (1, 1)),
        shape_of(28, 28, 24, 48, (3, 3)),
        shape_of(56, 56, 64, 64, (3, 3), groups=64),
        shape_of(7, 7, 320, 640, (1, 1)),
    ],
    ids=["pointwise", "convolution", "depthwise", "weights"],
)
def test_a_trial_of_some_steps_tells_what_all_take(
    preset: str, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(preset)
    chosen = choose_tiling(shape, config)
    assert chosen is not None
    some = trial(chosen, shape, config).cycles
    monkeypatch.setattr(npu_search, "_INSTRUCTIONS", 1 << 30)
    assert some == pytest.approx(trial(chosen, shape, config).cycles, rel=0.15)


def test_an_image_of_one_channel_fills_the_array() -> None:
    """A kernel of 10 x 4 over one channel: forty steps of one row of the array each, or three of sixteen."""
    config = load_config("npu-128")
    form = Convolution(1, 49, 10, 1, 25, 5, 64, 10, 4, I8, I8, I8, stride=(2, 2), pad=(4, 1))
    shape = Shape(form, False, False)
    chosen = choose_tiling(shape, config)
    assert chosen is not None and chosen.fold is Fold.WINDOW
    forty = 40 * 25 * 5 * 64 // config.mac.columns
    assert trial(chosen, shape, config).cycles < forty / 4


def test_results_of_several_blocks_leave_in_one_store() -> None:
    config = load_config("npu-128")
    shape = shape_of(32, 32, 16, 16, (1, 1))
    chosen = choose_tiling(shape, config)
    assert chosen is not None and chosen.stored == 16 > config.mac.columns
    apart = [t for t in all_tilings(shape, config) if t.stored == config.mac.columns]
    others = [trial(t, shape, config).cycles for t in apart[:: len(apart) // 8]]
    assert trial(chosen, shape, config).cycles < min(others)


def all_tilings(shape: Shape, config: NpuConfig) -> list[Tiling]:
    space = tiling_space(shape, config)
    return [space.tiling(i) for i in range(len(space))]
