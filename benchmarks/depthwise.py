"""Depthwise layers against the core's limit and against onnxruntime, one thread, in one process.

    python -m benchmarks.depthwise

Columns: time (median), GMAC/s, share of the limit, onnxruntime's time and its ratio to ours (one
QLinearConv, what a QDQ layer is fused to: uint8 activations, int8 weights, a scale per channel, NHWC in
and out). The limit counts the method's vector instructions per output vector (dot products, gathering,
rescaling, narrowing), two a cycle, at the clock that the register-only dot-product loop reaches at its
best (the machine may be shared: the times are medians, so a share of the limit is a lower bound).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compiler.loops.form import Convolution
from compiler.numerics.element import Array, ElementType
from schedules.depthwise import DepthwisePlan, plan_depthwise
from schedules.machines import AVX512_VNNI

SHAPES = [  # height = width, channels, stride, kernel
    (112, 32, 1, 3), (112, 96, 2, 3), (56, 144, 1, 3), (56, 144, 2, 3), (28, 192, 1, 3), (28, 192, 2, 3),
    (14, 384, 1, 3), (14, 576, 1, 3), (14, 576, 2, 3), (7, 960, 1, 3),
    (56, 144, 2, 5), (28, 240, 1, 5), (14, 480, 1, 5),
]  # fmt: skip
INSTRUCTIONS_RESCALE = (
    6 + 1.75
)  # of one vector: srl, 2 mul, permute, add, sra; packs, zero point and clamp by 4
PEAK = """
#include <immintrin.h>
double run(long n) {
  __m512i a[12], x = _mm512_set1_epi32(3), y = _mm512_set1_epi32(5);
  for (int i = 0; i < 12; i++) a[i] = x;
  for (long k = 0; k < n; k++) {
    for (int i = 0; i < 12; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
    __asm__ volatile("" : "+v"(x));
  }
  int s = 0;
  for (int i = 0; i < 12; i++) s += _mm512_reduce_add_epi32(a[i]);
  return s;
}
int nothing(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int begin, int end) { return 0; }
"""


def layer(size: int, channels: int, stride: int, kernel: int) -> Convolution:
    pad, out = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
    i8 = ElementType.I8
    return Convolution(
        1, size, size, channels, out, out, channels, kernel, kernel, i8, i8, i8,
        stride=(stride, stride), pad=(pad, pad), groups=channels,
    )  # fmt: skip


def link(name: str, folder: str, source: str, *options: str) -> ctypes.CDLL:
    library = Path(folder) / f"{name}.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", *options, source, "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def aligned(values: Array) -> Array:
    raw = np.zeros(values.nbytes + 192, np.uint8)
    start = 64 + -(raw.ctypes.data + 64) % 64
    copy = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def kernel_call(
    plan: DepthwisePlan, folder: str, nothing: Any
) -> tuple[Callable[[], int], Callable[[], int]]:
    """The layer, and a call of a function that does nothing (what Python takes)."""
    f, rng = plan.form, np.random.default_rng(0)
    operands = plan.pack(
        {
            "weight": rng.integers(-127, 128, (f.out_channels, f.kernel_height, f.kernel_width, 1)).astype(
                np.int8
            ),
            "bias": rng.integers(-1000, 1000, f.out_channels).astype(np.int32),
            "multiplier": rng.integers(1 << 30, 1 << 31, f.out_channels).astype(np.int32),
            "shift": np.full(f.out_channels, 40, np.int32),
            "parameters": np.array([-3, -128, -128, 127], np.int32),
        }
    )
    operands["input"] = rng.integers(0, 256, (f.in_height, f.in_width, f.in_channels)).astype(np.uint8)
    operands["output"] = np.zeros((f.out_height, f.out_width, f.out_channels), np.uint8)
    operands["scratch"] = np.zeros(plan.scratch_bytes, np.uint8)
    held = [aligned(np.ascontiguousarray(operands[name])) for name in plan.operands]
    source = Path(folder) / f"{plan.symbol}.o"
    source.write_bytes(plan.build())
    function = getattr(link(plan.symbol, folder, str(source)), plan.symbol)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in held]
    tiles = plan.tiles

    def layer_once() -> int:
        assert held  # what the pointers point to
        return function(*pointers, 0, tiles)

    return layer_once, lambda: nothing(*pointers, 0, 0)


def onnxruntime_call(f: Convolution) -> Callable[[], None]:
    rng, channels = np.random.default_rng(0), f.out_channels
    weight = rng.integers(-127, 128, (channels, 1, f.kernel_height, f.kernel_width)).astype(np.int8)
    scale = rng.uniform(0.001, 0.01, channels).astype(np.float32)
    values: dict[str, Any] = {
        "xs": np.float32(0.02), "xz": np.uint8(125), "w": weight, "ws": scale,
        "wz": np.zeros(channels, np.int8),
        "ys": np.float32(0.05), "yz": np.uint8(0), "b": rng.integers(-1000, 1000, channels).astype(np.int32),
    }  # fmt: skip
    pads = [f.pad[0], f.pad[1], f.pad[0], f.pad[1]]
    node = helper.make_node(
        "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"],
        group=channels, pads=pads, strides=list(f.stride), kernel_shape=[f.kernel_height, f.kernel_width],
    )  # fmt: skip
    node_in = helper.make_node("Transpose", ["nhwc"], ["x"], perm=[0, 3, 1, 2])
    node_out = helper.make_node("Transpose", ["y"], ["out"], perm=[0, 2, 3, 1])
    graph = helper.make_graph(
        [node_in, node, node_out],
        "depthwise",
        [helper.make_tensor_value_info("nhwc", TensorProto.UINT8, [1, f.in_height, f.in_width, channels])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, [1, f.out_height, f.out_width, channels])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    image = rng.integers(0, 256, (1, f.in_height, f.in_width, channels)).astype(np.uint8)
    binding.bind_cpu_input("nhwc", image)
    binding.bind_output("out", "cpu")
    return lambda: session.run_with_iobinding(binding)


def once(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def limit_seconds(plan: DepthwisePlan, dot_seconds: float) -> float:
    """Two 512-bit instructions in the time of one dot product."""
    f, layout = plan.form, plan.layout
    lanes = 16
    vectors = f.batch * f.out_height * f.out_width * -(-f.out_channels // lanes)
    dots = sum(len(s) for s in layout.steps) / layout.config.rows
    gathered = layout.band_columns * layout.row_groups * 2 / (layout.config.rows * f.out_width)
    return vectors * (dots + gathered + INSTRUCTIONS_RESCALE) / 2 * dot_seconds


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, {AVX512_VNNI.name}, one thread")
    print(f"{'layer':24}{'us':>8}{'GMAC/s':>8}{'of limit':>9}{'ort us':>9}{'ratio':>7}")
    with TemporaryDirectory() as folder:
        source = Path(folder) / "peak.c"
        source.write_text(PEAK)
        probe = link("peak", folder, str(source), "-O2", "-mcpu=znver4")
        dot_s = once(lambda: probe.run(1000), 1) / 12000
        for size, channels, stride, kernel in SHAPES:
            form = layer(size, channels, stride, kernel)
            plan = plan_depthwise(form, AVX512_VNNI)
            ours, empty = kernel_call(plan, folder, probe.nothing)
            theirs = onnxruntime_call(form)
            rows = [
                (once(ours, 8), once(empty, 8), once(theirs, 4), once(lambda: probe.run(1000), 1) / 12000)
                for _ in range(100)
            ]
            ours_s, empty_s, theirs_s = (float(np.median(c)) for c in list(zip(*rows, strict=True))[:3])
            dot_s = min(dot_s, *(row[3] for row in rows))
            ours_s -= empty_s
            name = f"{size}x{size}x{channels} {kernel}x{kernel}/{stride}"
            print(
                f"{name:24}{ours_s * 1e6:8.1f}{form.macs / ours_s / 1e9:8.1f}"
                f"{limit_seconds(plan, dot_s) / ours_s:9.2f}{theirs_s * 1e6:9.1f}{theirs_s / ours_s:7.1f}"
            )


if __name__ == "__main__":
    main()
