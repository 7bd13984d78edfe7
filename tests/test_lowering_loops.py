"""Law: the kernel of any loop form, on any tiles, computes what `evaluate` says, and writes nothing else."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.loops.evaluate import evaluate
from compiler.loops.expression import Axis, Constant, Expression, Rescale, Select, clamp, maximum, minimum
from compiler.loops.form import Buffer, LoopForm, Reduction, Role, Stage
from compiler.loops.nest import span_of, take_apart
from compiler.lowering.build import build_module
from compiler.lowering.loop_nest import prim_func
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from compiler.numerics.fixed_point import MAX_SHIFT
from schedules.arm_machines import CORTEX_A53, NEOVERSE_N1
from schedules.loop_tiles import LoopsConfig
from schedules.loops import LoopsPlan, candidate_configs, default_config, plan_loops
from schedules.machines import MACHINES, host_features, host_machine
from tests import loop_families as f
from tests.emulated_kernel import run_emulated
from tests.loop_kernel import load_kernels, run_kernel

I8, I32, I64, F32 = ElementType.I8, ElementType.I32, ElementType.I64, ElementType.F32
HOST = host_machine()
QUICK = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

FAMILIES: dict[str, LoopForm] = {
    "add": f.add((1, 5, 7, 10)),
    "add of three channels": f.add((1, 9, 9, 3)),
    "add in place": f.add((2, 3, 5, 24), in_place=True),
    "multiply": f.multiply_channels((1, 5, 3, 72)),
    "multiply few": f.multiply_channels((1, 15, 13, 3)),
    "requantize": f.requantize((3, 100)),
    "clip": f.relu((1, 7, 5, 30)),
    "lookup": f.table((1, 7, 19, 10)),
    "max pool": f.max_pool(11, 9, 20),
    "max pool of one channel": f.max_pool(12, 12, 1, kernel=2, pad=0),
    "average pool": f.average_pool(8, 10, 70),
    "global average": f.global_average_pool(2, 7, 7, 100),
    "global average of few": f.global_average_pool(1, 5, 4, 3),
    "softmax": f.softmax(3, 130),
    "softmax of ten": f.softmax(1, 10),
    "large softmax": f.softmax(2, 1001),
    "to channels first": f.transpose((1, 9, 7, 40), (0, 3, 1, 2)),
    "to channels last": f.transpose((1, 35, 6, 7), (0, 2, 3, 1)),
    "of two images": f.transpose((2, 48, 5, 9), (0, 2, 3, 1)),
    "pixels": f.transpose((1, 3, 11, 13), (0, 2, 3, 1)),
    "reversed": f.transpose((4, 17, 33), (2, 1, 0)),
    "quantize": f.quantize(3, 9, 13),
    "quantize many": f.quantize(20, 6, 7),
    "quantize one": f.quantize(1, 6, 7),
    "dequantize": f.dequantize(7, 5, 36),
    "concatenate": f.concatenate(20, (8, 24, 3)),
    "pad": f.pad(5, 6, 21),
    "pad one channel": f.pad(5, 40, 1),
    "nearest": f.resize_nearest(5, 4, 17),
    "bilinear": f.resize_bilinear(5, 4, 19, 9, 11),
}


def operands_of(form: LoopForm, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    known = {"add": f.add_parameters(), "softmax": f.softmax_table()}
    result: dict[str, Array] = {}
    for b in form.buffers:
        if b.role not in (Role.INPUT, Role.CONSTANT):
            continue
        if b.element is F32:
            value = rng.normal(0, 40, b.shape).astype(np.float32)
            if b.name == "parameters":
                value = np.array([1.7, -128, 127], np.float32)
        elif b.element is I8:
            value = rng.integers(-128, 128, b.shape).astype(np.int8)
        elif b.name == "channel":
            value = rng.integers(-(1 << 31), 1 << 31, b.shape)
        elif b.name in ("rows", "columns"):
            value = f.interpolation_table(form.buffer("x").shape[b.name == "columns"], b.shape[0])
        else:
            value = known.get(form.name, f.requantize_parameters())[: prod(b.shape)].reshape(b.shape)
        result[b.name] = value.astype(b.element.dtype)
    if form.name == "quantize":
        result["zero_point"] = np.zeros(1, np.int32)
    return result


def assert_same(got: dict[str, Array], want: dict[str, Array]) -> None:
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("tile_elements", [1, 1 << 14])
def test_families_equal_their_forms(tile_elements: int) -> None:
    config = replace(default_config(FAMILIES["add"], HOST), tile_elements=tile_elements)
    plans = {name: plan_loops(form, HOST, config) for name, form in FAMILIES.items()}
    kernels = load_kernels(list(plans.values()))
    for plan in plans.values():
        operands = operands_of(plan.form)
        assert_same(run_kernel(plan, kernels[plan.symbol], operands), evaluate(plan.form, operands))


RUNNABLE = [m for m in MACHINES if m.is_x86 and host_features().issuperset(m.required_features)]


@pytest.mark.parametrize("machine", [m for m in RUNNABLE if m is not HOST], ids=lambda m: m.name)
def test_families_on_every_machine_that_this_cpu_is(machine: CpuMachine) -> None:
    plans = [plan_loops(form, machine) for form in FAMILIES.values()]
    kernels = load_kernels(plans)
    for plan in plans:
        operands = operands_of(plan.form, 1)
        assert_same(run_kernel(plan, kernels[plan.symbol], operands), evaluate(plan.form, operands))


def test_a_kernel_in_place_equals_one_that_is_not() -> None:
    plan = plan_loops(FAMILIES["add in place"], HOST)
    [kernel] = load_kernels([plan]).values()
    operands = operands_of(plan.form)
    for source in ("a", "b"):
        assert_same(run_kernel(plan, kernel, operands, aliases={"y": source}), evaluate(plan.form, operands))


def test_llvm_is_told_that_buffers_in_place_may_be_one() -> None:
    def code(in_place: bool) -> str:
        plan = plan_loops(f.add((4, 64), in_place), HOST)
        function = prim_func(plan.form, plan.parts, HOST, plan.scratch_offsets)
        return build_module({plan.symbol: function}, dict(HOST.target)).inspect_source("ll")

    assert "ptr noalias" in code(False)
    assert "ptr noalias" not in code(True)
    # a, b and y are one alias class; the parameters and it are two.
    assert code(True).count('"tvm-alias"') == 1


@pytest.mark.parametrize("machine", [HOST, NEOVERSE_N1], ids=lambda m: m.name)
def test_products_are_not_fused_with_sums(machine: CpuMachine) -> None:
    """A fused multiply-add rounds once where the form says twice."""
    plan = plan_loops(f.quantize(3, 8, 16), machine)
    function = prim_func(plan.form, plan.parts, machine, plan.scratch_offsets)
    assembly = build_module({plan.symbol: function}, dict(machine.target)).inspect_source("asm")
    kernel = assembly[: assembly.index(".Lfunc_end0")]
    assert "mul" in kernel
    assert not any(word in kernel for word in ("vfmadd", "fmla", "fmadd"))


def test_halves_round_as_float32_does() -> None:
    """x * reciprocal + 1/2 for values next to the halves, where one rounding and two differ."""
    form = f.quantize(1, 1, 4096)
    x = np.float32(1) + np.arange(4096, dtype=np.float32) * np.float32(2**-23)
    x = (x * (np.arange(4096) % 100)).astype(np.float32).reshape(1, 1, 1, 4096)
    operands = {
        "x": x,
        "parameters": np.array([0.5 + 2**-24, -128, 127], np.float32),
        "zero_point": np.zeros(1, np.int32),
    }
    plan = plan_loops(form, HOST)
    kernel = load_kernels([plan])[plan.symbol]
    assert_same(run_kernel(plan, kernel, operands), evaluate(form, operands))


def rescale_form(count: int) -> LoopForm:
    x, y = f.given("x", (count,), I32), f.made("y", (count,), I32)
    m, s = f.constant("multiplier", count), f.constant("shift", count)
    i = y.axes()
    return LoopForm("rescale", (x, m, s, y), (Stage("y", i, Rescale(x.load(*i), m.load(*i), s.load(*i))),))


def rescale_operands() -> dict[str, Array]:
    """Extreme accumulators and multipliers, with every shift whose result fits."""
    shifts = np.arange(1, MAX_SHIFT + 1, dtype=np.int64)
    accumulators = np.array([0, 1, -1, 2, -3, 77, -12345, 2**30 - 1, -(2**30), 2**31 - 1, -(2**31)])
    multipliers = np.array([1 << 30, (1 << 30) + 1, 1518500250, (1 << 31) - 1])
    a, m, s = (x.reshape(-1) for x in np.meshgrid(accumulators, multipliers, shifts))
    fits = np.abs((a * m) >> s) < 2**31 - 1
    a, m, s = (x[fits].astype(np.int32) for x in (a, m, s))
    return {"x": a, "multiplier": m, "shift": s}


@pytest.mark.parametrize("machine", RUNNABLE, ids=lambda m: m.name)
def test_rescale_is_exact_for_every_shift_and_extreme(machine: CpuMachine) -> None:
    operands = rescale_operands()
    plan = plan_loops(rescale_form(operands["x"].size), machine)
    kernel = load_kernels([plan])[plan.symbol]
    assert_same(run_kernel(plan, kernel, operands), evaluate(plan.form, operands))


@st.composite
def integer_expressions(draw: st.DrawFn, leaves: list[Expression], depth: int = 3) -> Expression:
    """I32 expressions that stay within 20 bits, whatever the leaves are (8 bits)."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(leaves))
    a, b = (draw(integer_expressions(leaves, depth - 1)) for _ in range(2))
    match draw(st.integers(0, 8)):
        case 0:
            return clamp(a + b, -1000, 900)
        case 1:
            return clamp(a - b, -500, 70)
        case 2:
            return clamp(a * clamp(b, -128, 127), -(1 << 19), 1 << 19)
        case 3:
            return a // draw(st.integers(1, 9))
        case 4:
            return Select(a.less(b), minimum(a, b), maximum(a, 3))
        case 5:
            return (a << draw(st.integers(0, 3))) >> draw(st.integers(3, 9))
        case 6:
            return a & draw(st.integers(0, 255))
        case 7:
            return Select(a.equals(b).both(a.less(5)), a, b)
        case _:
            return clamp(
                Rescale(a, Constant(draw(st.integers(1 << 30, (1 << 31) - 1))), Constant(33)), -300, 300
            )


@dataclass(frozen=True)
class Case:
    form: LoopForm
    config: LoopsConfig


def with_gaps(draw: st.DrawFn, buffer: Buffer) -> Buffer:
    """The buffer, or a slice of a wider one: pixels further apart than their channels."""
    if not draw(st.booleans()):
        return buffer
    *outer, channels = buffer.shape
    pitch = channels + draw(st.integers(0, 5))
    strides = [prod(outer[d + 1 :]) * pitch for d in range(len(outer))]
    return replace(buffer, strides=(*strides, 1))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = (*draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)), draw(st.integers(1, 80)))
    order = tuple(draw(st.permutations(range(len(shape)))))
    turned = tuple(shape[order.index(d)] for d in range(len(shape)))
    a, b = with_gaps(draw, f.given("a", shape)), with_gaps(draw, f.given("b", turned))
    c, t = f.constant("channel", shape[-1]), f.constant("table", 256, element=I8)
    y, z = with_gaps(draw, f.made("y", shape)), with_gaps(draw, f.made("z", shape))
    i = y.axes()
    leaves: list[Expression] = [a.load(*i).cast(I32), Constant(draw(st.integers(-128, 127))), i[-1]]
    leaves.append(clamp(c.load(i[-1]), -128, 127))
    if draw(st.booleans()):
        leaves.append(b.load(*(i[order.index(d)] for d in range(len(shape)))).cast(I32))
    if draw(st.booleans()):
        leaves.append(t.load(a.load(*i).cast(I32) + 128).cast(I32))
    first = clamp(draw(integer_expressions(leaves)), -128, 127).cast(I8)
    stages = [Stage("y", i, first)]
    buffers = [a, b, c, t, y]
    if draw(st.booleans()):
        buffers.append(z)
        again: list[Expression] = [y.load(*i).cast(I32), *leaves] if draw(st.booleans()) else leaves
        stages.append(Stage("z", i, clamp(draw(integer_expressions(again)), -128, 127).cast(I8)))
    config = LoopsConfig(
        vector_bytes=draw(st.sampled_from([16, 64, 256])), tile_elements=draw(st.sampled_from([1, 60, 5000]))
    )
    return Case(LoopForm("drawn", tuple(buffers), tuple(stages)), config)


@QUICK
@given(st.lists(cases(), min_size=6, max_size=6), st.integers(0, 2**31))
def test_drawn_forms(drawn: list[Case], seed: int) -> None:
    plans = [plan_loops(case.form, HOST, case.config) for case in drawn]
    kernels = load_kernels(plans)
    for plan in plans:
        operands = operands_of(plan.form, seed)
        order = np.random.default_rng(seed).permutation(plan.tiles).tolist()
        assert_same(run_kernel(plan, kernels[plan.symbol], operands, order), evaluate(plan.form, operands))


@st.composite
def reductions(draw: st.DrawFn) -> Case:
    """A reduction over any axes, then a stage that uses it beside the input."""
    shape = (*draw(st.lists(st.integers(1, 7), min_size=2, max_size=3)), draw(st.integers(1, 70)))
    over = draw(st.lists(st.sampled_from(range(len(shape))), min_size=1, unique=True))
    axes = tuple(Axis(f"a{d}", n) for d, n in enumerate(shape))
    kept = tuple(a for d, a in enumerate(axes) if d not in over)
    x = with_gaps(draw, f.given("x", shape))
    total = Buffer("total", tuple(a.extent for a in kept), I32, Role.SCRATCH)
    y = f.made("y", shape)
    kind = draw(st.sampled_from(Reduction))
    stages = (
        Stage("total", kept, x.load(*axes).cast(I32), tuple(axes[d] for d in over), kind, Constant(-7)),
        Stage("y", axes, clamp((total.load(*kept) >> 4) + x.load(*axes).cast(I32), -128, 127).cast(I8)),
    )
    config = LoopsConfig(
        vector_bytes=draw(st.sampled_from([16, 256])), tile_elements=draw(st.sampled_from([1, 500]))
    )
    return Case(LoopForm("drawn_reduction", (x, total, y), stages), config)


@QUICK
@given(st.lists(reductions(), min_size=6, max_size=6), st.integers(0, 2**31))
def test_drawn_reductions(drawn: list[Case], seed: int) -> None:
    plans = [plan_loops(case.form, HOST, case.config) for case in drawn]
    kernels = load_kernels(plans)
    for plan in plans:
        operands = operands_of(plan.form, seed)
        assert_same(run_kernel(plan, kernels[plan.symbol], operands), evaluate(plan.form, operands))


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
@pytest.mark.parametrize(
    "machine", [NEOVERSE_N1, pytest.param(CORTEX_A53, marks=pytest.mark.slow)], ids=lambda m: m.name
)
def test_families_under_emulation(machine: CpuMachine) -> None:
    plans = [plan_loops(form, machine) for form in FAMILIES.values()]
    operands = [operands_of(plan.form, 2) for plan in plans]
    for plan, given_, got in zip(plans, operands, run_emulated(plans, operands), strict=True):
        assert_same(got, evaluate(plan.form, given_))


def test_planning_tells_structure_by_its_symbol() -> None:
    a, b = plan_loops(f.add((1, 4, 4, 8)), HOST), plan_loops(f.add((1, 4, 4, 8)), HOST)
    assert a == b and hash(a) == hash(b) and a.symbol == b.symbol
    assert a.symbol.startswith(f"qs8_add_{a.lanes}_{HOST.name}_")
    assert plan_loops(f.add((1, 4, 4, 9)), HOST).symbol != a.symbol


def test_candidates_are_distinct_and_begin_with_the_default() -> None:
    form = FAMILIES["add"]
    candidates = list(candidate_configs(form, HOST))
    assert candidates[0] == default_config(form, HOST)
    assert len(set(candidates)) == len(candidates) > 4


def test_contiguous_elements_become_one_long_axis() -> None:
    [part] = take_apart(f.add((2, 5, 7, 3)))
    assert [a.extent for a in part.shared] == [210]
    [padded] = take_apart(f.pad(5, 6, 7))
    assert [a.extent for a in padded.shared] == [7, 8, 7]


def test_independent_stages_are_parts_of_their_own() -> None:
    assert len(take_apart(f.concatenate(4, (1, 2, 3)))) == 3
    assert len(take_apart(f.softmax(2, 5))) == 1


def test_a_misshapen_constant_is_refused() -> None:
    plan = plan_loops(f.table((4, 4)), HOST)
    with pytest.raises(ValueError, match="table is int8"):
        plan.pack({"table": np.zeros(255, np.int8)})


def test_packed_elements_are_refused() -> None:
    x, y = f.given("x", (8,), ElementType.I4), f.made("y", (8,))
    form = LoopForm("unpack", (x, y), (Stage("y", y.axes(), x.load(*y.axes()).cast(I8)),))
    with pytest.raises(ValueError, match="buffer x holds packed i4 codes"):
        plan_loops(form, HOST)


def test_tiles_share_large_work() -> None:
    plan: LoopsPlan = plan_loops(f.add((1, 56, 56, 64)), HOST)
    assert 8 <= plan.tiles <= 64
    assert plan_loops(f.add((1, 2, 2, 4)), HOST).tiles == 1
    assert span_of(f.given("x", (2, 3), strides=(8, 1))) == 11
