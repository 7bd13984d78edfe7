"""A random quantized graph while it grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.diagnostics import Location, TypeMismatchError
from compiler.ir.graph import Graph, Value
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.edge import Quantize, Requantize
from compiler.ops.operands import largest_difference
from compiler.ops.shape import Reshape
from compiler.ops.slicing import Pad, Slice
from compiler.quantize.quantize_graph import widened
from tests.op_cases import code_types

LARGEST = 6000  # elements of a value


@dataclass
class Growing:
    """A graph while it is drawn. values: activations in codes, which operators may take. raw: others.

    real_edges: inputs and outputs are f32, as of every imported model; else they are codes.
    """

    draw: DrawFn
    real_edges: bool
    prefix: str = ""
    graph: Graph = field(default_factory=lambda: Graph("random"))
    values: list[Value] = field(default_factory=list[Value])
    raw: list[Value] = field(default_factory=list[Value])

    def location(self, op: Op) -> Location:
        return Location((f"{self.prefix}{op.mnemonic}{len(self.graph.nodes)}",))

    def apply(self, op: Op, *inputs: Value) -> Value | None:
        """The result of `op`; None where it does not take these inputs, or the result is too large."""
        types, constants = [v.type for v in inputs], [v.constant for v in inputs]
        try:
            (type_,) = op.infer(types)
        except TypeMismatchError:
            return None
        if not op.reads_bits and any(v.type.element is ElementType.B1 and v.constant is None for v in inputs):
            return None
        if type_.element is ElementType.B1 and not op.writes_bits:
            return None
        if type_.count > LARGEST or op.overflow(types, constants) is not None:
            return None
        location = self.location(op)
        return self.graph.append(op, inputs, location, [location.names[0]])[0]

    def grow(self, op: Op, *inputs: Value) -> None:
        """As `apply`, and later operators may use the result."""
        value = self.apply(op, *inputs)
        if value is None:
            return
        element, quantization = value.type.element, value.type.quantization
        if element is ElementType.F32:
            self.values.append(self.must(Quantize(self.draw(code_types())), value))
        elif value.type.is_quantized:
            self.values.append(value)
        elif quantization is not None and quantization.axis is None:
            to = self.draw(types_reaching(quantization.scale * 2**16))
            self.values.append(self.must(Requantize(to), value))
        else:  # accumulators per channel: no operator takes them
            self.raw.append(value)

    def must(self, op: Op, *inputs: Value) -> Value:
        value = self.apply(op, *inputs)
        assert value is not None
        return value

    def input(self, type_: TensorType) -> Value:
        """Codes of a new input of the graph."""
        name = f"{self.prefix}x{len(self.graph.inputs)}"
        if self.real_edges:
            real = self.graph.add_input(name, TensorType(type_.shape, ElementType.F32))
            return self.must(Quantize(type_.codes), real)
        if type_.element is ElementType.B1:  # no port has packed codes
            return self.must(Requantize(type_.codes), self.input(widened(type_)))
        return self.graph.add_input(name, type_)

    def constant(self, array: Array, type_: TensorType) -> Value:
        name = f"{self.prefix}c{len(self.graph.nodes)}"
        return self.graph.constant(array, type_, Location((name,)), name)

    def pick(self, wanted: Callable[[Value], bool] = lambda _value: True) -> Value | None:
        """One of the values, more often a late one."""
        found = [v for v in self.values if wanted(v)]
        if not found:
            return None
        return found[-1 - min(self.draw(st.integers(0, 2 * len(found) - 1)), len(found) - 1)]

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def chance(self, one_in: int) -> bool:
        return self.number(1, one_in) == 1

    def requantized(self, x: Value, to: QuantizedType) -> Value:
        return x if x.type.codes == to else self.must(Requantize(to), x)

    def brought_to(self, x: Value, type_: TensorType) -> Value:
        """Some of the elements of `x`, as many as `type_` has, repeated zeros behind them."""
        if type_.element is ElementType.B1:  # bits are not cut and padded
            return self.requantized(self.brought_to(x, widened(type_)), type_.codes)
        x = self.requantized(x, type_.codes)
        if x.type.shape == type_.shape:
            return x
        flat, count = (x if x.type.rank == 1 else self.must(Reshape((x.type.count,)), x)), type_.count
        if flat.type.count > count:
            flat = self.must(Slice((self.number(0, flat.type.count - count),), (count,), (1,)), flat)
        elif flat.type.count < count:
            flat = self.must(Pad((0,), (count - flat.type.count,)), flat)
        return flat if type_.rank == 1 else self.must(Reshape(type_.shape), flat)


@st.composite
def types_reaching(draw: DrawFn, reach: float) -> QuantizedType:
    """Types of results whose magnitude is about `reach`, so that few codes saturate."""
    element = draw(st.sampled_from([ElementType.I8, ElementType.I8, ElementType.I16]))
    scale = float(np.float32(max(reach, 1e-6) / element.high * draw(st.sampled_from([0.25, 0.5, 1.0, 2.0]))))
    zero_point = draw(st.just(0) | st.integers(element.low // 2, element.high // 2))
    return QuantizedType(element, Quantization((scale,), zero_point))


def reach(type_: TensorType) -> float:
    """Largest magnitude of a real value."""
    return largest_difference(type_) * type_.codes.scale
