"""First light of the IR: a float convolution becomes integer, prints, parses and runs."""

import numpy as np

from compiler.interpreter import run
from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph
from compiler.ir.op import Quantized, QuantizedOperand
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.ir.types import f32, quantized
from compiler.ir.verifier import verify
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType, from_range
from compiler.ops import OPS
from compiler.ops.convolution import Conv2D
from compiler.ops.edge import Dequantize, Quantize


def test_a_quantized_convolution_prints_parses_and_runs() -> None:
    rng = np.random.default_rng(0)
    here = Location(("conv1", "relu1"))
    weight = rng.normal(size=(8, 3, 3, 4))
    bias = rng.normal(size=8)
    x_to = QuantizedType(ElementType.I8, from_range(-1, 1))
    y_to = QuantizedType(ElementType.I8, from_range(0, 20))
    conv = Conv2D(pads=(1, 1, 1, 1), clamp=(0.0, float("inf")))
    quantization = conv.quantize(
        [
            QuantizedOperand(quantized((1, 5, 6, 4), x_to)),
            QuantizedOperand(f32(8, 3, 3, 4), weight),
            QuantizedOperand(f32(8), bias),
        ],
        [y_to],
        ElementType.I8,
    )
    assert isinstance(quantization, Quantized)
    graph = Graph("g")
    x = graph.add_input("x y", f32(1, 5, 6, 4))
    (q,) = graph.append(Quantize(x_to), [x], here)
    constants = [graph.constant(a, t, here, f"c{i}") for i, (t, a) in quantization.constants.items()]
    (y,) = graph.append(quantization.op, [q, *constants], here)
    (out,) = graph.append(Dequantize(), [y], here, ["out"])
    graph.outputs = [out]
    verify(graph)

    again = parse_graph(graph_text(graph), OPS)
    assert graph_text(again) == graph_text(graph)
    data = rng.uniform(-1, 1, size=(1, 5, 6, 4)).astype(np.float32)
    result = run(again, {"x y": data})["out"]
    (expected,) = conv.float_reference(
        [f32(1, 5, 6, 4), f32(8, 3, 3, 4), f32(8)], [data.astype(np.float64), weight, bias]
    )
    assert np.abs(result - np.clip(expected, 0, 20)).max() < 0.15
    assert result.max() > 1
