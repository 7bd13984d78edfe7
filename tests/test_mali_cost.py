"""Laws of the estimate of GPU kernels: it counts what their code does, and more work never looks cheaper."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler.loops.form import Convolution, Form, Role
from compiler.numerics.element import ElementType
from schedules.mali import GpuPlan, plan_gpu_kernel
from schedules.mali_convolution import ClConvolutionConfig, plan_cl_convolution
from schedules.mali_cost import estimate_report, estimates, occupancy, spilled
from schedules.mali_count import tally
from schedules.mali_depthwise import ClDepthwiseConfig, plan_cl_depthwise
from schedules.mali_machines import G72, G76, MACHINES, GpuMachine
from tests.test_kernels_convolution import SLOW_DRAWS, forms
from tests.test_mali_loops import INTEGER

I8, I4 = ElementType.I8, ElementType.I4
machines = st.sampled_from(list(MACHINES.values()))
# A work-group that does not change with the work: what is estimated then changes with the work alone.
GROUP = {"group_x": 4, "group_y": 4, "group_z": 1}


@st.composite
def whole_layers(draw: st.DrawFn) -> Convolution:
    """Convolutions whose tiles of 4 channels and 4 pixels and whose blocks of 16 inputs are whole."""
    kernel = draw(st.sampled_from([1, 3]))
    size = 4 * draw(st.integers(1, 6))
    inputs, outputs = 16 * draw(st.integers(1, 5)), 4 * draw(st.integers(1, 12))
    pad = (kernel // 2, kernel // 2)
    batch = draw(st.integers(1, 3))
    return Convolution(batch, size, size, inputs, size, size, outputs, kernel, kernel, I8, I8, I8, pad=pad)


def planned(form: Convolution, machine: GpuMachine, pixels: int = 4, channels: int = 4) -> GpuPlan:
    return plan_cl_convolution(form, machine, ClConvolutionConfig(pixels=pixels, channels=channels, **GROUP))


KERNEL = """__kernel void k(__global uchar *x_base, int x_at)
{
    __global const char *restrict p_x = (__global const char *restrict)(x_base + x_at);
    const int item_x = get_global_id(0);
    int4 sum = (int4)(0);
    for (int i = 0; i < 10; i += 2) {
        const char16 a = vload16(0, p_x + item_x * 16 + i);
        sum.s0 = DOT16(a, a, sum.s0);
        for (int j = 0; j < 3; j++) {
            sum += convert_int4(vload4(0, p_x + j));
        }
    }
    if (item_x < 7) {
        vstore4(sum, 0, p_y + item_x);
    }
    else {
        p_y[0] = sum.s1;
    }
}
"""


def test_a_kernel_is_counted_by_hand() -> None:
    found = tally(KERNEL, True)
    assert found.dots == 5 * 4
    assert [(a.times, a.bytes, a.store, a.steps) for a in found.accesses] == [
        (5, 16, False, (16, 0)),
        (15, 4, False, (0, 0)),
        (1, 16, True, None),
    ]
    assert (found.loads, found.stores, found.rounds) == (20, 1, 5 + 15)
    # Where x begins, and the test and the address at the end; addresses (3 and 1), the ends of loops (1
    # each), conversion and sum (4 each).
    assert found.operations == 3 + 5 * (3 + 1) + 15 * (1 + 1 + 4 + 4)
    # In the inner loop: the sum, the converted vector, and three indices.
    assert found.registers == 4 + 4 + 3
    assert tally(KERNEL, False).operations > found.operations
    assert tally(KERNEL, False).dots == 0


def test_what_schedules_do_not_write_is_refused() -> None:
    with pytest.raises(ValueError, match="no assignment is written"):
        tally("__kernel void k()\n{\n    int i = 0;\n    i ^ 3;\n}\n", True)
    with pytest.raises(ValueError, match="is not constant"):
        tally("__kernel void k()\n{\n    for (int i = 0; i < n; i++) {\n    }\n}\n", True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(whole_layers(), st.sampled_from([m for m in MACHINES.values() if m.has_dot_product]))
def test_dots_are_the_multiply_accumulates_and_stores_are_the_output(
    form: Convolution, machine: GpuMachine
) -> None:
    [found] = estimates(planned(form, machine))
    pixels = form.batch * form.out_height * form.out_width
    assert 4 * found.dots == pixels * form.out_channels * form.taps
    assert 4 * found.stores == pixels * form.out_channels


@settings(max_examples=60, deadline=None, derandomize=True)
@given(whole_layers(), machines, st.sampled_from(["batch", "in_channels", "out_channels"]))
def test_more_work_is_never_cheaper(form: Convolution, machine: GpuMachine, grown: str) -> None:
    larger = replace(form, **{grown: 2 * getattr(form, grown)})
    [less], [more] = estimates(planned(form, machine)), estimates(planned(larger, machine))
    assert more.cycles >= less.cycles
    assert more.dots == 2 * less.dots and more.operations > less.operations
    assert more.loads > less.loads
    assert more.stores == less.stores * (1 if grown == "in_channels" else 2)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(forms(), machines)
def test_more_inputs_are_never_cheaper(form: Convolution, machine: GpuMachine) -> None:
    assume(form.output is not ElementType.B1)
    more_inputs = replace(form, in_channels=form.in_channels + 16 * form.groups, input_pitch=None)
    plans = [planned(f, machine, 4, 1) for f in (form, more_inputs)]
    [less], [more] = map(estimates, plans)
    assert more.cycles >= less.cycles and more.loads > less.loads
    assert more.dots + more.operations > less.dots + less.operations


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_DRAWS, derandomize=True)
@given(forms(), st.sampled_from([m for m in MACHINES.values() if m.has_dot_product]))
def test_dot_products_are_cheaper_than_what_stands_in_for_them(
    form: Convolution, machine: GpuMachine
) -> None:
    assume(form.output is not ElementType.B1 and form.input is I8)
    without = replace(machine, extensions=())
    [with_dots], [fallback] = estimates(planned(form, machine, 4, 1)), estimates(planned(form, without, 4, 1))
    assert with_dots.dots > 0 and fallback.dots == 0
    assert with_dots.dots + with_dots.operations < fallback.operations
    assert with_dots.cycles <= fallback.cycles
    assert with_dots.registers <= fallback.registers
    assert (with_dots.loads, with_dots.stores) == (fallback.loads, fallback.stores)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(whole_layers(), machines, st.sampled_from([1, 2, 4]))
def test_larger_tiles_hold_more_registers_and_load_less(
    form: Convolution, machine: GpuMachine, tile: int
) -> None:
    form = replace(
        form, out_channels=2 * form.out_channels, out_width=2 * form.out_width, in_width=2 * form.in_width
    )
    [small] = estimates(planned(form, machine, tile, tile))
    for pixels, channels in ((2 * tile, tile), (tile, 2 * tile)):
        [large] = estimates(planned(form, machine, pixels, channels))
        assert large.registers > small.registers
        assert large.occupancy <= small.occupancy
        assert large.loads < small.loads
        assert large.dots == small.dots


@given(machines, st.integers(1, 200), st.integers(1, 512))
def test_occupancy_falls_with_registers(machine: GpuMachine, registers: int, group: int) -> None:
    now, then = occupancy(registers, machine), occupancy(registers + 1, machine)
    assert 0 < then <= now <= 1
    assert occupancy(machine.full_occupancy_registers, machine) == 1
    always_full = machine.full_occupancy_registers == machine.registers  # what is beyond lies in memory
    assert occupancy(machine.full_occupancy_registers + 1, machine) == (1 if always_full else 0.5)
    assert 0 <= spilled(registers, group, machine) <= spilled(registers, 2 * group, machine)
    assert spilled(registers, group, machine) >= max(0, registers - machine.registers)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(whole_layers(), machines, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["registers", "threads"]))
def test_a_machine_of_fewer_registers_is_no_faster(
    form: Convolution, machine: GpuMachine, tile: int, halved: str
) -> None:
    form = replace(form, out_channels=2 * form.out_channels)
    smaller = replace(machine, **{halved: getattr(machine, halved) // 2})
    [now], [then] = (estimates(planned(form, m, tile, tile)) for m in (machine, smaller))
    assert then.cycles >= now.cycles
    if halved == "registers" and now.registers > machine.registers:
        assert spilled(now.registers, 16, smaller) > spilled(now.registers, 16, machine)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(whole_layers(), machines, st.sampled_from([4, 8]))
def test_depthwise_kernels_load_what_neighbours_share_once(
    form: Convolution, machine: GpuMachine, lanes: int
) -> None:
    channels = 2 * lanes
    form = replace(form, in_channels=channels, out_channels=channels, groups=channels)
    config = ClDepthwiseConfig(pixels=1, channels=lanes, **GROUP)
    [one], [four] = (estimates(plan_cl_depthwise(form, machine, replace(config, pixels=n))) for n in (1, 4))
    assert four.loads < one.loads and four.stores == one.stores
    assert four.registers > one.registers


@pytest.mark.parametrize("name", INTEGER)
def test_every_loop_form_is_counted(name: str) -> None:
    form = INTEGER[name]
    for machine in (G72, G76):
        plan = plan_gpu_kernel(form, machine)
        found = estimates(plan)
        assert [e.kernel for e in found] == [k.name for k in plan.kernels]
        assert all(e.cycles > 0 and e.registers > 0 and e.stores > 0 for e in found)
        written = sum(prod(b.shape) for b in form.operands if b.role is Role.OUTPUT)
        # Vectors of up to 16 elements; the last one of a row may be short.
        assert 16 * sum(e.stores for e in found) >= written


def test_the_report_counts_runs() -> None:
    form = Convolution(1, 8, 8, 16, 8, 8, 16, 3, 3, I8, I4, I8, pad=(1, 1))
    other: Form = INTEGER["add"] if "add" in INTEGER else next(iter(INTEGER.values()))
    plans = [plan_gpu_kernel(f, G76) for f in (form, other, form)]
    report = estimate_report(plans, G76)
    assert [row["runs"] for row in report["kernels"]] == [2, 1]
    assert report["seconds"] == pytest.approx(
        sum(e.cycles for plan in plans for e in estimates(plan)) / G76.clock_hz
    )
