"""Element-wise kernels against memory: bytes per second as a share of a plain copy's, in one process.

    python -m benchmarks.loop_kernels [--size small|large]

small: operands fit L2; large: they do not. Times are medians on one core; the copy is the compiled form
`copy` of the same number of bytes, timed in the same round.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from compiler.loops.form import LoopForm, Role, Stage
from compiler.loops.nest import span_of
from compiler.numerics.element import Array, ElementType
from schedules.loops import LoopsPlan, plan_loops
from schedules.machines import host_machine
from tests import loop_families as f
from tests.loop_kernel import Kernel, load_kernels, pointers, stored

_ROUNDS = 15
_SECONDS = 0.004  # per measurement


def copy(size: int) -> LoopForm:
    x, y = f.given("x", (size,)), f.made("y", (size,))
    return LoopForm("copy", (x, y), (Stage("y", y.axes(), x.load(*y.axes())),))


def families(scale: int) -> dict[str, LoopForm]:
    """scale: 1 for operands within L2, more for larger ones."""
    h = 28 * scale
    return {
        "add": f.add((1, h, 28, 64)),
        "mul by channel": f.multiply_channels((1, h, 28, 64)),
        "requantize": f.requantize((1, h, 28, 64)),
        "clip": f.relu((1, h, 28, 64)),
        "lookup": f.table((1, h, 28, 64)),
        "max pool 3x3 s2": f.max_pool(2 * h, 56, 64),
        "average pool 2x2": f.average_pool(2 * h, 56, 64),
        "global average": f.global_average_pool(1, h, 28, 64),
        "concat 16+48": f.concatenate(h * 28, (16, 48)),
        "pad 1": f.pad(h, 28, 64),
        "nearest x2": f.resize_nearest(h, 28, 32),
        "bilinear x2": f.resize_bilinear(h, 28, 32, 2 * h, 56),
        "NHWC->NCHW 64": f.transpose((1, h, 28, 64), (0, 3, 1, 2)),
        "NCHW->NHWC 64": f.transpose((1, 64, h, 28), (0, 2, 3, 1)),
        "NCHW->NHWC 3": f.transpose((1, 3, 4 * h, 112), (0, 2, 3, 1)),
        "quantize NCHW 3": f.quantize(3, 4 * h, 112),
        "dequantize NCHW 64": f.dequantize(h, 28, 64),
        "softmax 1000": f.softmax(8 * scale, 1000),
    }


def operands_of(form: LoopForm) -> dict[str, Array]:
    """Random activations; constants that keep every family in range."""
    known = {"add": f.add_parameters(), "softmax": f.softmax_table()}
    rng = np.random.default_rng(0)
    result: dict[str, Array] = {}
    for b in form.operands:
        if b.element is ElementType.F32:
            result[b.name] = rng.uniform(0.01, 1, b.shape).astype(np.float32)
        elif b.element is ElementType.I8:
            result[b.name] = rng.integers(-128, 128, b.shape).astype(np.int8)
        elif b.name in ("rows", "columns"):
            result[b.name] = f.interpolation_table(b.shape[0] // 2, b.shape[0])
        else:
            known_value = known.get(form.name, f.requantize_parameters())
            result[b.name] = known_value[: b.shape[0]].astype(b.element.dtype)
    return result


def timer(plan: LoopsPlan, kernel: Kernel) -> Callable[[], float]:
    """A function that measures seconds per run of all tiles."""
    storage = stored(plan, operands_of(plan.form))
    scratch = np.zeros(plan.scratch_bytes + 64, np.uint8)
    arguments = pointers(plan, storage, scratch)

    def measure() -> float:
        repeats, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < _SECONDS or not repeats:
            kernel(*arguments, 0, plan.tiles)
            repeats += 1
        assert storage and scratch.size  # the operands must outlive the runs
        return elapsed / repeats

    return measure


def bytes_moved(form: LoopForm) -> int:
    return sum(span_of(b) * b.element.dtype.itemsize for b in form.operands if b.role is not Role.CONSTANT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--only", default="", help="families whose name contains this")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    forms = families(1 if arguments.size == "small" else 32)
    forms = {name: form for name, form in forms.items() if arguments.only in name}
    print(f"{'family':20} {'us':>9} {'ns/elem':>8} {'GB/s':>7} {'of copy':>8}")
    for name, form in forms.items():
        plans = [plan_loops(g, host_machine()) for g in (form, copy(bytes_moved(form) // 2))]
        kernels = load_kernels(plans)
        run, base = (timer(plan, kernels[plan.symbol]) for plan in plans)
        times = [(run(), base()) for _ in range(_ROUNDS)]
        seconds = median(t for t, _ in times)
        share = median(b / t for t, b in times)
        rate = bytes_moved(form) / seconds / 1e9
        print(
            f"{name:20} {seconds * 1e6:9.1f} {seconds * 1e9 / f.elements(form):8.3f} {rate:7.1f} {share:8.2f}"
        )


if __name__ == "__main__":
    main()
