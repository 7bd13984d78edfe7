"""Convolution kernels against the peak of this core's dot product and against onnxruntime's int8 kernels.

    python -m benchmarks.kernels [--network NAME] [--machine NAME] [--no-peer] [--each]

One thread, pinned; ours and the peer's runs alternate, medians. The peak is that of the instruction that the
kernel uses, VPDPBUSD or TDPBUSD, measured by a loop that only touches registers. The peer uses what it likes.
Where two ports do all vector work, requantizing takes its share of them: some 8 operations for 16 sums, as
much as 12 % of the products of a reduction over 256.
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
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.layers import NETWORKS
from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import Array
from schedules.amx import AmxPlan
from schedules.cpu import plan_kernel
from schedules.machines import MACHINES, host_machine, machine_named, runs_here
from tests.built_kernel import guarded, load

_PEAKS = """
#include <immintrin.h>
#include <string.h>
__attribute__((target("avx512f,avx512vnni"))) int vectors(long rounds) {
    __m512i a[16], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
    for (int i = 0; i < 16; i++) a[i] = _mm512_setzero_si512();
    for (long r = 0; r < rounds; r++) {
        for (int i = 0; i < 16; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 1; i < 16; i++) a[0] = _mm512_add_epi32(a[0], a[i]);
    return _mm512_reduce_add_epi32(a[0]);
}
__attribute__((target("amx-tile,amx-int8"))) int tiles(long rounds) {
    struct { unsigned char palette, row, zero[14]; unsigned short bytes[16]; unsigned char rows[16]; } sizes;
    memset(&sizes, 0, sizeof sizes);
    sizes.palette = 1;
    for (int i = 0; i < 8; i++) sizes.bytes[i] = 64, sizes.rows[i] = 16;
    _tile_loadconfig(&sizes);
    for (long r = 0; r < rounds; r++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return 0;
}
"""
# Multiply-accumulates of a round of each loop.
_ROUND_MACS = {"vectors": 16 * 64, "tiles": 4 * 16 * 16 * 64}


def peaks() -> dict[str, Callable[[], float]]:
    """Functions that measure this core's rate in MAC/ns: of VPDPBUSD on vectors of 512 bits, of TDPBUSD."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peaks.c", Path(folder) / "peaks.so"
        source.write_text(_PEAKS)
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        loops = ctypes.CDLL(str(library))
    rounds = 5_000

    def rate(name: str) -> float:
        return rounds * _ROUND_MACS[name] / _best(lambda: getattr(loops, name)(ctypes.c_long(rounds)), 15)

    return {name: lambda name=name: rate(name) for name in _ROUND_MACS}


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


def kernel_call(plan: Any, function: Callable[..., int]) -> Callable[[], object]:
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


# Layers that are long enough to hide loads and requantization behind their products.
LEAST_TAPS, LEAST_OUTPUTS = 256, 64


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


def measure(layers: Counter[Convolution], machine: CpuMachine, peer: bool, each: bool) -> None:
    plans = [plan_kernel(form, machine) for form in layers]
    functions = load(plans)
    rates = peaks()
    totals, shares, of_vectors = np.zeros(3), list[float](), list[float]()
    for form, plan in zip(layers, plans, strict=True):
        call = kernel_call(plan, functions[plan.symbol])
        repeats = int(np.clip(20e6 / (form.macs / 150 + 2000), 9, 200))
        call()
        peak = rates["tiles" if isinstance(plan, AmxPlan) else "vectors"]
        with tempfile.TemporaryDirectory() as folder:
            other = Peer(form, folder) if peer else None
            ours, limits = [], []
            for _ in range(5):
                limits.append(form.macs / peak())
                ours.append(_best(call, repeats))
                if other is not None:
                    for _ in range(repeats):
                        other.run()
            theirs = other.median_ns() if other is not None else float("nan")
        row = np.array([np.median(ours), np.median(limits), theirs])
        totals += row * layers[form]
        pixels = form.batch * form.out_height * form.out_width
        if form.taps >= LEAST_TAPS and form.out_channels >= LEAST_OUTPUTS and pixels > 1:
            shares.append(row[1] / row[0])
            of_vectors.append(form.macs / rates["vectors"]() / row[0])
        if each:
            print(f"{layers[form]}x {_describe(form)} {_row(row)}  {plan.symbol}")
    print(f"total {_row(totals)}")
    if shares:
        print(
            f"layers of at least {LEAST_TAPS} products and {LEAST_OUTPUTS} channels: "
            f"{min(shares):.1%} to {max(shares):.1%} of peak, median {np.median(shares):.1%}"
        )
        if any(isinstance(plan, AmxPlan) for plan in plans):
            print(f"the same over the rate of vpdpbusd: {min(of_vectors):.2f} to {max(of_vectors):.2f}")


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
    machines = [m.name for m in MACHINES if runs_here(m) and m.vector_bits == 512]
    parser.add_argument("--machine", choices=machines, default=host_machine().name)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in options.network or list(NETWORKS):
        print(f"== {name}")
        measure(NETWORKS[name](), machine_named(options.machine), not options.no_peer, options.each)


if __name__ == "__main__":
    main()
