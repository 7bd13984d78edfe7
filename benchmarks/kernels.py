"""Convolution kernels against the peak of this core's dot product and against onnxruntime's int8 kernels.

    python -m benchmarks.kernels [--network NAME] [--no-peer] [--each]

One thread, pinned; ours and the peer's runs alternate, medians. The peak is measured by a loop that only
touches registers.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.layers import NETWORKS
from compiler.loops.form import Convolution
from compiler.numerics.element import Array
from schedules.convolution import ConvolutionPlan, plan_convolution
from schedules.machines import AVX512_VNNI
from tests.built_kernel import guarded, load

_PEAK = """
#include <immintrin.h>
__attribute__((target("avx512f,avx512vnni"))) int peak(long rounds) {
    __m512i a[16], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
    for (int i = 0; i < 16; i++) a[i] = _mm512_setzero_si512();
    for (long r = 0; r < rounds; r++) {
        for (int i = 0; i < 16; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 1; i < 16; i++) a[0] = _mm512_add_epi32(a[0], a[i]);
    return _mm512_reduce_add_epi32(a[0]);
}
"""


def peak_macs_per_ns() -> Callable[[], float]:
    """A function that measures this core's VPDPBUSD throughput."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(_PEAK)
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        peak = ctypes.CDLL(str(library)).peak
    rounds = 20_000
    return lambda: rounds * 16 * 64 / _best(lambda: peak(ctypes.c_long(rounds)), 15)


def _best(run: Callable[[], object], repeats: int) -> float:
    """Median time of a call in ns."""
    times: list[int] = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times))


def random_constants(form: Convolution, rng: np.random.Generator) -> dict[str, Array]:
    outputs, shape = form.out_channels, (form.out_channels, form.kernel_height, form.kernel_width)
    return {
        "weight": rng.integers(-127, 128, (*shape, form.in_channels // form.groups)).astype(np.int8),
        "bias": rng.integers(-1000, 1000, outputs).astype(np.int32),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs).astype(np.int32),
        "shift": np.full(outputs, 41, np.int32),
        "parameters": np.array([-3, 5, -128, 127], np.int32),
    }


def kernel_call(plan: ConvolutionPlan, function: Callable[..., int]) -> Callable[[], object]:
    """A call of all tiles on random operands."""
    rng = np.random.default_rng(0)
    arrays = plan.pack(random_constants(plan.form, rng))
    for name in plan.operands:
        if name not in arrays:
            count, dtype = plan.operand_type(name)
            arrays[name] = rng.integers(0, 128, count).astype(dtype)
    operands = [guarded(arrays[name]) for name in plan.operands]
    pointers = [ctypes.c_void_p(o.ctypes.data) for o in operands]
    end = ctypes.c_int32(plan.tiles)
    return lambda: (function(*pointers, ctypes.c_int32(0), end), operands)


class Peer:
    """onnxruntime's channels-last QLinearConv of one form; its own profile gives the node's time."""

    def __init__(self, form: Convolution, folder: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "peer")
        model = _peer_model(form).SerializeToString()
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        shape = (form.batch, form.in_height, form.in_width, form.in_channels)
        self.feed = {"x": np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)}

    def run(self) -> None:
        self.session.run(None, self.feed)

    def median_ns(self) -> float:
        events = json.loads(Path(self.session.end_profiling()).read_text())
        times = [e["dur"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        return float(np.median(times)) * 1000


def _peer_model(form: Convolution) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    o, kh, kw, inputs = (
        form.out_channels,
        form.kernel_height,
        form.kernel_width,
        form.in_channels // form.groups,
    )
    constants = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(120),
        "w": rng.integers(-127, 128, (o, inputs, kh, kw)).astype(np.int8),
        "w_scale": np.full(o, 0.01, np.float32),
        "w_zero": np.zeros(o, np.int8),
        "y_scale": np.float32(1.0),
        "y_zero": np.uint8(128),
        "b": rng.integers(-1000, 1000, o).astype(np.int32),
    }
    bottom = max(0, (form.out_height - 1) * form.stride[0] + kh - form.in_height - form.pad[0])
    right = max(0, (form.out_width - 1) * form.stride[1] + kw - form.in_width - form.pad[1])
    node = helper.make_node(
        "QLinearConv",
        ["x", *constants],
        ["y"],
        domain="com.microsoft",
        channels_last=1,
        pads=[*form.pad, bottom, right],
        strides=list(form.stride),
        group=form.groups,
        kernel_shape=[kh, kw],
    )
    x = helper.make_tensor_value_info(
        "x", TensorProto.UINT8, [form.batch, form.in_height, form.in_width, form.in_channels]
    )
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, None)
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph([node], "peer", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _describe(form: Convolution) -> str:
    kernel = f"{form.kernel_height}x{form.kernel_width}/{form.stride[0]}"
    return f"{form.in_height:3}² {form.in_channels:4}→{form.out_channels:<4} {kernel:5}"


def measure(layers: Counter[Convolution], peer: bool, each: bool) -> None:
    plans = [plan_convolution(form, AVX512_VNNI) for form in layers]
    functions = load(plans)
    peak = peak_macs_per_ns()
    totals = np.zeros(3)
    for plan in plans:
        call = kernel_call(plan, functions[plan.symbol])
        repeats = int(np.clip(20e6 / (plan.form.macs / 150 + 2000), 9, 200))
        call()
        with tempfile.TemporaryDirectory() as folder:
            other = Peer(plan.form, folder) if peer else None
            ours, limits = [], []
            for _ in range(5):
                limits.append(plan.form.macs / peak())
                ours.append(_best(call, repeats))
                if other is not None:
                    for _ in range(repeats):
                        other.run()
            theirs = other.median_ns() if other is not None else float("nan")
        row = np.array([np.median(ours), np.median(limits), theirs])
        totals += row * layers[plan.form]
        if each:
            print(f"{layers[plan.form]}x {_describe(plan.form)} {_row(row)}  {plan.config}")
    print(f"total {_row(totals)}")


def _row(row: Array) -> str:
    ours, limit, theirs = row
    text = f"{ours / 1000:8.1f} µs  {limit / ours:5.1%} of peak"
    return (
        text
        if np.isnan(theirs)
        else f"{text}  onnxruntime {theirs / 1000:8.1f} µs  ratio {ours / theirs:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), action="append")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--each", action="store_true", help="one line per layer")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in options.network or list(NETWORKS):
        print(f"== {name}")
        measure(NETWORKS[name](), not options.no_peer, options.each)


if __name__ == "__main__":
    main()
