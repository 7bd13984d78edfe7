"""What narrow weights gain on the NPU: simulated cycles of the same network with weights of 8, 4 and 2 bits.

    python -m benchmarks.npu_low_bit [--network NAME ...] [--npu NAME ...]

Networks of the zoo, and two that are bound by one thing alone: `products`, 3x3 convolutions of 64 channels
over 32x32 pixels, and `weights`, dense layers of 1024. Codes of weights are compressed where that makes them
shorter, 8-bit ones more than others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.cases import CaseError
from benchmarks.npu_vela import NETWORKS, PRESETS, quantized
from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph, Value
from compiler.ir.types import TensorType
from compiler.ir.types import quantized as codes
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.contraction import bias_type
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from sim.config import load_config
from targets.streams.lowering import lower_to_streams
from targets.streams.model import model_of
from targets.streams.running import time_model

WIDTHS = (ElementType.I8, ElementType.I4, ElementType.I2)
_CODES = QuantizedType(ElementType.I8, Quantization((0.02,), -3))


class _Network:
    """Layers one behind the other, with random weights: Gaussian ones, as trained networks have."""

    def __init__(self, element: ElementType, *shape: int) -> None:
        self.element, self.rng = element, np.random.default_rng(0)
        self.graph = Graph("net")
        self.last = self.graph.add_input("x", codes(shape, _CODES))

    def layer(self, op: Conv2D | Dense, *shape: int) -> None:
        limit, where = self.element.weight_limit, Location((f"layer{len(self.graph.nodes)}",))
        real = self.rng.standard_normal(shape)
        weight = np.clip(np.round(real * limit / np.abs(real).max()), -limit, limit).astype(np.int8)
        type_ = TensorType(shape, self.element, Quantization((0.01,) * shape[0], 0, 0))
        bias = bias_type(self.last.type, type_)
        constants: list[Value] = [
            self.graph.constant(weight, type_, where, "w"),
            self.graph.constant(np.zeros(shape[0], np.int32), bias, where, "b"),
        ]
        (self.last,) = self.graph.append(op, [self.last, *constants], where)

    def done(self) -> Graph:
        self.graph.outputs.append(self.last)
        return self.graph


def products(element: ElementType) -> Graph:
    """Bound by the array: a weight is used for a thousand pixels."""
    net = _Network(element, 1, 32, 32, 64)
    for _ in range(4):
        net.layer(Conv2D(pads=(1, 1, 1, 1), to=_CODES), 64, 3, 3, 64)
    return net.done()


def weights(element: ElementType) -> Graph:
    """Bound by the memory that weights lie in: each one is used once."""
    net = _Network(element, 1, 1024)
    for _ in range(4):
        net.layer(Dense(to=_CODES), 1024, 1024)
    return net.done()


MADE: dict[str, Callable[[ElementType], Graph]] = {"products": products, "weights": weights}


def row(name: str, npu: str) -> str:
    config = load_config(npu)
    found: list[str] = []
    first = 0
    for element in WIDTHS:
        graph = MADE[name](element) if name in MADE else quantized(name, element)
        timing = time_model(model_of(lower_to_streams(graph, config), name))
        first = first or timing.cycles
        limit = "/".join(sorted({s.limit for s in timing.totals}))
        found.append(f"{timing.cycles:>9} {first / timing.cycles:5.2f} {limit:<11}")
    return f"{name:18} {npu:8} " + " ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = [*MADE, *NETWORKS.values()]
    parser.add_argument("--network", choices=known, action="append")
    parser.add_argument("--npu", choices=list(PRESETS.values()), action="append")
    options = parser.parse_args()
    print(f"{'':27} {'int8 cycles, gain':27} {'int4':27} {'int2':27}")
    try:
        for name in options.network or known:
            for npu in options.npu or PRESETS.values():
                print(row(name, npu), flush=True)
    except CaseError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
