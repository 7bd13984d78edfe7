"""Narrow kernels against our own int8 kernel of the same shape, on one thread of this computer.

    python -m benchmarks.low_bit [--rounds 15] [--only binary|weights]

*binary*: b1 activations by b1 weights, to b1 and to int8. *weights*: int8 activations by int4, int2 and
binary weights where a layer has one pixel, so that each weight is used once. Kernels take turns; a ratio
(int8's time over the narrow kernel's, so that more is better) is taken round by round, and its median printed
with the 10th and 90th percentile. "From memory": the second-level cache is filled anew before every call.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array, ElementType
from schedules.binary import plan_binary
from schedules.binary_geometry import is_binary
from schedules.convolution import plan_convolution
from schedules.convolution_layout import ConvolutionLayout
from schedules.machines import host_machine
from tests.built_kernel import guarded, load

B1, I2, I4, I8 = ElementType.B1, ElementType.I2, ElementType.I4, ElementType.I8
_ROUND_NS = 3e6  # that a kernel runs in one round, about


def layer(size: int, channels: int, outputs: int, kernel: int = 1) -> Convolution:
    """An int8 layer of a square image; size 1 is a dense layer."""
    pad = (kernel - 1) // 2
    return Convolution(
        *(1, size, size, channels, size, size, outputs, kernel, kernel, I8, I8, I8), pad=(pad, pad)
    )


CONVOLUTIONS = (
    layer(56, 64, 64, 3),
    layer(28, 128, 128, 3),
    layer(14, 256, 256, 3),
    layer(7, 512, 512, 3),
    layer(14, 512, 512),
    layer(14, 1024, 256),
    layer(1, 4096, 4096),
)
DENSE = (layer(1, 1024, 1001), layer(1, 2048, 1000), layer(1, 4096, 4096))


def constants(form: Convolution, rng: np.random.Generator) -> dict[str, Array]:
    """Random operands of a layer, with sums that spread over the codes."""
    outputs, limit = form.out_channels, form.weight.weight_limit
    shape = (outputs, form.kernel_height, form.kernel_width, form.in_channels)
    weight = rng.integers(-limit, limit + 1, shape) if form.weight is not B1 else rng.choice([-1, 1], shape)
    return {
        "weight": weight.astype(np.int8),
        "bias": rng.integers(-1000, 1000, outputs).astype(np.int32),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs).astype(np.int32),
        "shift": np.full(outputs, 41, np.int32),
        "parameters": np.array([0, 0, form.output.low, form.output.high], np.int32),
    }


def timed(plan: ConvolutionLayout, function: Callable[..., int]) -> Callable[[int], float]:
    """Nanoseconds of a call, from a number of calls in a row."""
    rng = np.random.default_rng(0)
    arrays = plan.pack(constants(plan.form, rng))
    for name in plan.operands:
        if name == "scratch":
            arrays[name] = np.zeros(plan.scratch_bytes, np.uint8)
        elif name not in arrays:
            count, dtype = plan.operand_type(name)
            arrays[name] = rng.integers(0, 128, count).astype(dtype)
    operands = [guarded(arrays[name]) for name in plan.operands]
    pointers = [ctypes.c_void_p(o.ctypes.data) for o in operands]
    tiles = ctypes.c_int32(plan.tiles)

    def run(calls: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            function(*pointers, ctypes.c_int32(0), tiles)
        assert operands
        return (time.perf_counter_ns() - start) / calls

    return run


def pushed_out(run: Callable[[int], float], bytes_: int) -> Callable[[int], float]:
    """The same with the caches' contents replaced before every call."""
    other = np.zeros(bytes_ // 8, np.int64)

    def cold(calls: int) -> float:
        total = 0.0
        for _ in range(calls):
            other.sum()
            total += run(1)
        return total / calls

    return cold


def vector_kernel(form: Convolution, machine: CpuMachine) -> ConvolutionLayout:
    """The kernel of vector instructions: matrix tiles would take an int8 layer of many pixels elsewhere."""
    return plan_binary(form, machine) if is_binary(form) else plan_convolution(form, machine)


def compare(forms: Sequence[Convolution], rounds: int, cold: bool) -> list[list[float]]:
    """Times of each form in turn, a list for each round. cold: weights are not in the second-level cache."""
    machine = host_machine()
    plans = [vector_kernel(form, machine) for form in forms]
    functions = load(plans)
    runs = [timed(plan, functions[plan.symbol]) for plan in plans]
    if cold:
        runs = [pushed_out(run, 2 * machine.l2_bytes) for run in runs]
    for run in runs:
        run(2)
    calls = [max(3, min(2000, int(_ROUND_NS / run(3)))) for run in runs]
    if cold:
        calls = [min(c, 20) for c in calls]
    return [[run(n) for run, n in zip(runs, calls, strict=True)] for _ in range(rounds)]


def show(form: Convolution, names: Sequence[str], times: Sequence[Sequence[float]], note: str = "") -> None:
    """One line for each narrow kernel."""
    table = np.array(times)
    kernel = f"{form.kernel_height}x{form.kernel_width}"
    what = f"{form.in_height:3}² {form.in_channels:4}→{form.out_channels:<4} {kernel}"
    rate = form.macs / np.median(table[:, 0])
    print(f"{what} int8 {np.median(table[:, 0]) / 1000:8.1f} µs, {rate:5.0f} GMAC/s{note}")
    for i, name in enumerate(names, 1):
        low, middle, high = np.percentile(table[:, 0] / table[:, i], [10, 50, 90])
        rate = form.macs / np.median(table[:, i])
        print(f"      {name:22} {middle:5.2f} × ({low:.2f} to {high:.2f}), {rate:6.0f} GMAC/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=["binary", "weights"])
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(host_machine().name)
    if options.only != "weights":
        for form in CONVOLUTIONS:
            narrow = replace(form, input=B1, weight=B1)
            forms = [form, replace(narrow, output=B1), narrow]
            show(form, ["b1 × b1 → b1", "b1 × b1 → int8"], compare(forms, options.rounds, cold=False))
    if options.only != "binary":
        for form in DENSE:
            forms = [form, *(replace(form, weight=w) for w in (I4, I2, B1))]
            for cold, note in ((False, ", again and again"), (True, ", weights from memory")):
                names = ["int8 × int4", "int8 × int2", "int8 × binary"]
                show(form, names, compare(forms, options.rounds, cold), note)


if __name__ == "__main__":
    main()
