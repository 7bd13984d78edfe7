"""Each pass on float graphs by a text before and a text after."""

import numpy as np
import pytest

from compiler.interpreter import run
from compiler.passes.base import Notes, run_pass
from compiler.passes.dead_code import RemoveDeadCode
from compiler.passes.fold_batch_norm import FoldBatchNorm
from compiler.passes.fold_constants import FoldConstants
from compiler.passes.fuse_activation import FuseActivation
from compiler.passes.layout import SinkTransposes
from compiler.passes.pipeline import FLOAT_PASSES, INTEGER_PASSES
from tests.ir_text import check_pass, graph


def test_dead_code_goes_back_to_front() -> None:
    check_pass(
        RemoveDeadCode(),
        """
        input %x: f32[2]
        %w = [1, 2] : f32[2]
        %a = add(%x, %w) : f32[2]
        %b = clip(%a) {low = 0.0} : f32[2]
        %y = clip(%x) {low = 0.0} : f32[2]
        output %y
        """,
        """
        input %x: f32[2]
        %y = clip(%x) {low = 0.0} : f32[2]
        output %y
        """,
        rewrites=3,
    )


def test_what_depends_on_constants_alone_is_computed() -> None:
    check_pass(
        FoldConstants(),
        """
        input %x: f32[2]
        %v = [1, 2] : f32[2]
        %w = [10, 20] : f32[2]
        %s = add(%v, %w) : f32[2] @("sum")
        %d = mul(%s, %w) : f32[2] @("product")
        %y = add(%x, %d) : f32[2]
        output %y
        """,
        """
        input %x: f32[2]
        %d = [110, 440] : f32[2] @("product")
        %s = [11, 22] : f32[2] @("sum")
        %v = [1, 2] : f32[2]
        %w = [10, 20] : f32[2]
        %y = add(%x, %d) : f32[2]
        output %y
        """,
        rewrites=2,
    )


def test_a_constant_output_is_computed_under_its_name() -> None:
    check_pass(
        FoldConstants(),
        """
        input %x: f32[2]
        %v = [1, -2] : f32[2]
        %y = clip(%v) {low = 0.0} : f32[2] @("clip")
        output %y, %x
        """,
        """
        input %x: f32[2]
        %y = [1, 0] : f32[2] @("clip")
        %v = [1, -2] : f32[2]
        output %y, %x
        """,
        rewrites=1,
    )


BATCH_NORM = """
        input %x: f32[1,2]
        %s = [2, 4] : f32[2]
        %o = [1, -1] : f32[2]
        %m = [0.5, 0] : f32[2]
        %v = [1, 4] : f32[2]
"""


def test_batch_norm_goes_into_the_weights() -> None:
    """Factors 2/sqrt(1) = 2 and 4/sqrt(4) = 2; offsets 1 - 0.5 * 2 = 0 and -1."""
    check_pass(
        FoldBatchNorm(),
        BATCH_NORM
        + """
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %b = [10, 20] : f32[2]
        %a = dense(%x, %w, %b) : f32[1,2] from "a" @("fc")
        %y = batch_norm(%a, %s, %o, %m, %v) {epsilon = 0.0} : f32[1,2] from "y" @("bn")
        output %y
        """,
        """
        input %x: f32[1,2]
        %a.bias = [20, 39] : f32[2] @("fc", "bn")
        %w.1 = [[2, 4], [6, 8]] : f32[2,2] @("fc", "bn")
        %s = [2, 4] : f32[2]
        %o = [1, -1] : f32[2]
        %m = [0.5, 0] : f32[2]
        %v = [1, 4] : f32[2]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %b = [10, 20] : f32[2]
        %y = dense(%x, %w.1, %a.bias) : f32[1,2] from "y" @("fc", "bn")
        output %y
        """,
        rewrites=1,
    )


def test_batch_norm_alone_becomes_mul_and_add() -> None:
    check_pass(
        FoldBatchNorm(),
        BATCH_NORM
        + """
        %y = batch_norm(%x, %s, %o, %m, %v) {epsilon = 0.0} : f32[1,2] @("bn")
        output %y
        """,
        """
        input %x: f32[1,2]
        %y.offset = [0, -1] : f32[2] @("bn")
        %y.factor = [2, 2] : f32[2] @("bn")
        %s = [2, 4] : f32[2]
        %o = [1, -1] : f32[2]
        %m = [0.5, 0] : f32[2]
        %v = [1, 4] : f32[2]
        %y.scaled = mul(%x, %y.factor) : f32[1,2] @("bn")
        %y = add(%y.scaled, %y.offset) : f32[1,2] @("bn")
        output %y
        """,
        rewrites=1,
    )


@pytest.mark.parametrize(
    ("operator", "weight", "bias"),
    [
        ("mul(%a, %c)", "[[10, 20], [300, 400]]", "[10, 100]"),
        ("mul(%c, %a)", "[[10, 20], [300, 400]]", "[10, 100]"),
        ("add(%c, %a)", "[[1, 2], [3, 4]]", "[11, 101]"),
        ("sub(%a, %c)", "[[1, 2], [3, 4]]", "[-9, -99]"),
        ("sub(%c, %a)", "[[-1, -2], [-3, -4]]", "[9, 99]"),
    ],
)
def test_arithmetic_with_a_constant_per_channel_goes_into_the_weights(
    operator: str, weight: str, bias: str
) -> None:
    check_pass(
        FoldBatchNorm(),
        f"""
        input %x: f32[1,2]
        %c = [10, 100] : f32[2]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %b = [1, 1] : f32[2]
        %a = dense(%x, %w, %b) : f32[1,2] @("fc")
        %y = {operator} : f32[1,2] @("op")
        output %y
        """,
        f"""
        input %x: f32[1,2]
        %a.bias = {bias} : f32[2] @("fc", "op")
        %w.1 = {weight} : f32[2,2] @("fc", "op")
        %c = [10, 100] : f32[2]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %b = [1, 1] : f32[2]
        %y = dense(%x, %w.1, %a.bias) : f32[1,2] @("fc", "op")
        output %y
        """,
        rewrites=1,
    )


@pytest.mark.parametrize(
    "rest",
    [
        # The sum is read twice: once before the factor.
        """%y = mul(%a, %c) : f32[1,2]
        %z = add(%a, %y) : f32[1,2]
        output %z""",
        # The sum is an output itself.
        """%y = mul(%a, %c) : f32[1,2]
        output %y, %a""",
        # The factor is not one per channel.
        """%r = reshape(%a) {shape = (2, 1)} : f32[2,1]
        %y = mul(%r, %d) : f32[2,1]
        output %y""",
    ],
)
def test_nothing_folds_into_weights_whose_own_result_is_needed(rest: str) -> None:
    text = f"""
        input %x: f32[1,2]
        %c = [10, 100] : f32[2]
        %d = [[10], [100]] : f32[2,1]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %a = dense(%x, %w) : f32[1,2]
        {rest}
        """
    check_pass(FoldBatchNorm(), text, text, rewrites=0)


def test_nothing_folds_through_an_activation() -> None:
    text = """
        input %x: f32[1,2]
        %c = [10, 100] : f32[2]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %a = dense(%x, %w) {clamp = (0.0, inf)} : f32[1,2]
        %y = mul(%a, %c) : f32[1,2]
        output %y
        """
    check_pass(FoldBatchNorm(), text, text, rewrites=0)


def test_activations_join_the_clamp_of_their_producer() -> None:
    """ReLU, then a clip whose bounds reach beyond it: the clamp is what both leave."""
    check_pass(
        FuseActivation(),
        """
        input %x: f32[1,2]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %a = dense(%x, %w) : f32[1,2] from "a" @("fc")
        %b = clip(%a) {low = 0.0} : f32[1,2] from "b" @("relu")
        %y = clip(%b) {low = -1.0, high = 6.0} : f32[1,2] from "y" @("clip")
        output %y
        """,
        """
        input %x: f32[1,2]
        %w = [[1, 2], [3, 4]] : f32[2,2]
        %y = dense(%x, %w) {clamp = (0.0, 6.0)} : f32[1,2] from "y" @("fc", "relu", "clip")
        output %y
        """,
        rewrites=2,
    )


@pytest.mark.parametrize("outputs", ["%y, %z", "%y, %a"])
def test_an_activation_stays_where_the_sum_is_needed(outputs: str) -> None:
    text = f"""
        input %x: f32[1,2]
        %a = add(%x, %x) : f32[1,2]
        %y = clip(%a) {{low = 0.0}} : f32[1,2]
        %z = mul(%a, %x) : f32[1,2]
        output {outputs}
        """
    check_pass(FuseActivation(), text, text, rewrites=0)


def test_transposes_sink_and_cancel() -> None:
    """One conversion to channels last in front, one back behind: what an importer leaves around ReLU. Both
    are then dead code."""
    check_pass(
        SinkTransposes(),
        """
        input %x: f32[1,2,3,4]
        %t = transpose(%x) {permutation = (0, 2, 3, 1)} : f32[1,3,4,2]
        %a = clip(%t) {low = 0.0} : f32[1,3,4,2] from "a" @("relu")
        %y = transpose(%a) {permutation = (0, 3, 1, 2)} : f32[1,2,3,4] from "y"
        output %y
        """,
        """
        input %x: f32[1,2,3,4]
        %t = transpose(%x) {permutation = (0, 2, 3, 1)} : f32[1,3,4,2]
        %y = clip(%x) {low = 0.0} : f32[1,2,3,4] from "a" @("relu")
        %a = transpose(%y) {permutation = (0, 2, 3, 1)} : f32[1,3,4,2] from "a" @("relu")
        output %y
        """,
        rewrites=3,
    )


def test_a_transpose_of_extents_of_1_is_a_reshape() -> None:
    check_pass(
        SinkTransposes(),
        """
        input %x: f32[1,1,1,5]
        %y = transpose(%x) {permutation = (0, 3, 1, 2)} : f32[1,5,1,1]
        output %y
        """,
        """
        input %x: f32[1,1,1,5]
        %y = reshape(%x) {shape = (1, 5, 1, 1)} : f32[1,5,1,1]
        output %y
        """,
        rewrites=1,
    )


def test_transposes_that_differ_stay() -> None:
    text = """
        input %x: f32[2,2,2]
        %a = transpose(%x) {permutation = (0, 2, 1)} : f32[2,2,2]
        %b = transpose(%x) {permutation = (1, 0, 2)} : f32[2,2,2]
        %y = add(%a, %b) : f32[2,2,2]
        output %y
        """
    check_pass(SinkTransposes(), text, text, rewrites=0)


def test_passes_have_names_of_their_own() -> None:
    """`inspect --after PASS` finds a pass by its name."""
    for pipeline in (FLOAT_PASSES, INTEGER_PASSES):
        classes = {type(p) for p in pipeline}
        assert len({p.name for p in pipeline}) == len(classes)


def test_the_float_pipeline_keeps_what_the_graph_computes() -> None:
    text = """
        input %x: f32[1,2,3,3]
        %t = transpose(%x) {permutation = (0, 2, 3, 1)} : f32[1,3,3,2]
        %w = [1, -2, 3, 4, -5, 6] : f32[3,1,1,2]
        %s = [2, 4, 1] : f32[3]
        %o = [1, -1, 0] : f32[3]
        %m = [0.5, 0, 1] : f32[3]
        %v = [1, 4, 9] : f32[3]
        %c = conv2d(%t, %w) : f32[1,3,3,3] @("conv")
        %n = batch_norm(%c, %s, %o, %m, %v) {epsilon = 0.001} : f32[1,3,3,3] @("bn")
        %r = clip(%n) {low = 0.0, high = 6.0} : f32[1,3,3,3] @("relu6")
        %y = transpose(%r) {permutation = (0, 3, 1, 2)} : f32[1,3,3,3]
        output %y
        """
    before, after = graph(text), graph(text)
    for p in FLOAT_PASSES:
        run_pass(p, after, Notes())
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(run(after, {"x": x})["y"], run(before, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    operators = [n.op.mnemonic for n in after.activations()]
    assert operators == ["transpose", "conv2d", "transpose"]
