"""Laws of the loop language: evaluation, guards, forms as values, and flat memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.loops.evaluate import evaluate
from compiler.loops.expression import (
    Axis,
    Binary,
    BinaryOp,
    Constant,
    Expression,
    Rescale,
    Select,
    maximum,
    minimum,
)
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.loops.nest import take_apart
from compiler.loops.rewrite import Linear
from compiler.numerics.element import Array, ElementType
from tests import loop_families as f

I8, I32, F32 = ElementType.I8, ElementType.I32, ElementType.F32


def apply(value: Expression, **inputs: Array) -> list[int]:
    """`value` on axis i over vectors `inputs`."""
    count = next(len(x) for x in inputs.values())
    y = f.made("y", (count,), value.element)
    buffers = [f.given(name, (count,), I32) for name in inputs]
    form = LoopForm("apply", (*buffers, y), (Stage("y", (Axis("i", count),), value),))
    return evaluate(form, inputs)["y"].tolist()


def x_at(index: Expression | int, count: int = 4) -> Expression:
    return f.given("x", (count,), I32).load(index)


X = np.array([5, -7, 12, -1], np.int32)
I = Axis("i", 4)  # noqa: E741


def test_an_unguarded_load_out_of_bounds_is_an_error() -> None:
    with pytest.raises(IndexError, match="load of x leaves axis 0 of extent 4"):
        apply(x_at(I + 1), x=X)


def test_a_condition_guards_the_load_of_its_branch_only() -> None:
    assert apply(Select(I.less(3), x_at(I + 1), Constant(0)), x=X) == [-7, 12, -1, 0]
    with pytest.raises(IndexError):
        apply(Select(I.less(3), Constant(0), x_at(I + 1)), x=X)


def test_guards_nest() -> None:
    inner = Select(Constant(0).less(I), x_at(I - 1), Constant(100))
    assert apply(Select(I.less(2), inner, x_at(3)), x=X) == [100, 5, -1, -1]


def test_division_floors_and_shifts_are_arithmetic() -> None:
    assert apply(x_at(I) // 4, x=X) == [1, -2, 3, -1]
    assert apply(x_at(I) >> 2, x=X) == [1, -2, 3, -1]


def test_operators_take_python_numbers_of_the_other_type() -> None:
    assert apply(2 + x_at(I) * 3 - 1, x=X) == [16, -20, 37, -2]
    assert apply(maximum(minimum(x_at(I), 6), -2), x=X) == [5, -2, 6, -1]
    assert apply(x_at(I) & 3, x=X) == [1, 1, 0, 3]


def test_types_are_never_mixed_silently() -> None:
    with pytest.raises(TypeError, match="cast one operand"):
        Binary(BinaryOp.ADD, Constant(1), Constant(1.0, F32))
    with pytest.raises(TypeError, match="select of"):
        Select(Constant(0).less(1), Constant(1), Constant(1.0, F32))


def test_within_is_a_half_open_range() -> None:
    inside = Select(x_at(I).within(-7, 12), Constant(1), Constant(0))
    assert apply(inside, x=X) == [1, 1, 0, 1]


def test_reductions_begin_at_their_initial_value() -> None:
    x, y = f.given("x", (2, 3), I32), f.made("y", (2,), I32)
    i, k = Axis("i", 2), Axis("k", 3)
    data = {"x": np.array([[1, 2, 3], [-4, -5, -6]], np.int32)}
    for kind, start, want in ((Reduction.SUM, 10, [16, -5]), (Reduction.MAX, -1, [3, -1])):
        stage = Stage("y", (i,), x.load(i, k), (k,), kind, Constant(start))
        assert evaluate(LoopForm("reduce", (x, y), (stage,)), data)["y"].tolist() == want


def test_a_reduction_without_an_initial_value_is_refused() -> None:
    with pytest.raises(ValueError, match="needs axes and an initial value"):
        Stage("y", (), Constant(0), (Axis("k", 3),))


def test_a_stage_writes_at_its_origin() -> None:
    x, y = f.given("x", (2,), I32), f.made("y", (5,), I32)
    form = LoopForm("place", (x, y), (Stage("y", x.axes(), x.load(*x.axes()), origin=(2,)),))
    assert evaluate(form, {"x": np.array([7, 8], np.int32)})["y"].tolist() == [0, 0, 7, 8, 0]


def test_operands_of_the_wrong_shape_are_refused() -> None:
    form = f.relu((4,))
    with pytest.raises(ValueError, match="operand x is"):
        evaluate(form, {"x": np.zeros(3, np.int8), "bounds": np.zeros(2, np.int8)})
    with pytest.raises(KeyError, match="bounds"):
        evaluate(form, {"x": np.zeros(4, np.int8)})


def test_forms_are_values() -> None:
    assert f.softmax(3, 10) == f.softmax(3, 10)
    assert hash(f.max_pool(8, 8, 4)) == hash(f.max_pool(8, 8, 4))
    assert f.softmax(3, 10) != f.softmax(3, 11)


def test_two_buffers_of_one_name_are_refused() -> None:
    x = f.given("x", (1,))
    with pytest.raises(ValueError, match="two buffers of one name"):
        LoopForm("twice", (x, x), ())
    with pytest.raises(ValueError, match="writes unknown buffer z"):
        LoopForm("nowhere", (x,), (Stage("z", (), Constant(0)),))


def test_rescale_is_an_int32() -> None:
    assert Rescale(Constant(1), Constant(1 << 30), Constant(31)).element is I32
    rescaled = Rescale(x_at(I), Constant(1 << 30), Constant(31))
    assert apply(rescaled, x=X) == [3, -3, 6, 0]  # halves go up


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5)), max_size=6), st.integers(-9, 9))
def test_sums_of_axes_collect(terms: list[tuple[int, int]], constant: int) -> None:
    axes = [Axis(f"a{d}", 7) for d in range(3)]
    e: Expression = Constant(constant)
    for d, factor in terms:
        e = e + axes[d] * factor
    linear = Linear.of(e)
    assert linear.constant == constant
    for d, axis in enumerate(axes):
        assert linear.step(axis) == sum(factor for at, factor in terms if at == d)
    assert Linear.of(linear.expression()) == linear


def test_an_axis_inside_another_function_has_no_step() -> None:
    axis = Axis("a", 8)
    assert Linear.of((axis // 2) * 3 + 1).step(axis) is None
    assert Linear.of(axis + axis // 2).step(axis) is None


def test_strides_become_addresses() -> None:
    x = Buffer("x", (2, 3), I8, Role.INPUT, strides=(10, 1))
    y = f.made("y", (2, 3))
    [part] = take_apart(LoopForm("copy", (x, y), (Stage("y", y.axes(), x.load(*y.axes())),)))
    [nest] = part.nests
    store, load = nest.addresses
    assert [store.step(a) for a in part.shared] == [3, 1]
    assert [load.step(a) for a in part.shared] == [10, 1]
