"""Random quantized graphs of 1 to 8 operators, over all operators of the IR.

Two ways to grow a graph, mixed at random. A *case* of `tests/op_cases` is connected to values that are
there, brought to its types by requantizing, cutting, padding and reshaping: so every operator occurs. A
*growth* of `tests/growths.py` picks values and finds an operator that takes them as they are: residual joins,
chains in place, concatenations of concatenations, slices of parts, the same value twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from compiler.ir.diagnostics import Location, TypeMismatchError
from compiler.ir.graph import Graph, Value
from compiler.ir.op import Op
from compiler.ir.types import Shape, TensorType, quantized
from compiler.numerics.element import Array, ElementType
from compiler.numerics.quantization import Quantization, QuantizedType
from compiler.ops.edge import Dequantize, Quantize, Requantize
from compiler.ops.operands import largest_difference
from compiler.ops.shape import Reshape, Transpose
from compiler.ops.slicing import Pad, Slice
from tests.op_cases import OpCase, all_cases, code_types

# Without a loop form: passes remove it before lowering.
FLOAT_ONLY = frozenset({"batch_norm"})
CASES = {name: case for name, case in all_cases().items() if name not in FLOAT_ONLY}
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


def grow_case(g: Growing) -> None:
    """Connects a random case of a random operator."""
    case: OpCase = g.draw(CASES[g.draw(st.sampled_from(sorted(CASES)))])
    inputs: list[Value] = []
    for index, (type_, array) in enumerate(zip(case.types, case.arrays, strict=True)):
        if index in case.constants:
            inputs.append(g.constant(array, type_))
            continue
        codes = type_ if type_.is_quantized else quantized(type_.shape, g.draw(code_types()))
        exact = g.pick(lambda v, wanted=codes: v.type == wanted)
        near = g.pick()
        if exact is not None:
            value = exact
        elif near is not None and not g.chance(5):
            value = g.brought_to(near, codes)
        else:
            value = g.input(codes)
        inputs.append(value if type_.is_quantized else g.must(Dequantize(), value))
    if all(v.constant is not None for v in inputs):
        return
    g.grow(case.op, *inputs)


@st.composite
def base_shapes(draw: DrawFn) -> Shape:
    """[N, H, W, C] with ragged channels, or fewer axes."""
    channels = draw(st.integers(1, 40))
    rank = draw(st.sampled_from([4, 4, 4, 3, 2, 1]))
    if rank == 4:
        return (
            draw(st.sampled_from([1, 1, 1, 2])),
            draw(st.integers(1, 7)),
            draw(st.integers(1, 7)),
            channels,
        )
    return (*(draw(st.integers(1, 5)) for _ in range(rank - 1)), channels)


@st.composite
def quantized_graphs(
    draw: DrawFn, real_edges: bool = True, most: int = 8, into: Graph | None = None, prefix: str = ""
) -> Graph:
    """A graph of 1 to `most` grown operators (and those that connect them). into: a graph that it joins, as
    a component of its own."""
    from tests.growths import GROWTHS

    g = Growing(draw, real_edges, prefix)
    if into is not None:
        g.graph = into
    for _ in range(draw(st.integers(1, 2))):
        g.values.append(g.input(quantized(draw(base_shapes()), draw(code_types()))))
    for _ in range(draw(st.integers(1, most))):
        growth = grow_case if g.chance(3) else draw(st.sampled_from(GROWTHS))
        growth(g)
    g.graph.outputs += _outputs(g)
    return g.graph


def _outputs(g: Growing) -> list[Value]:
    """Every value that nobody uses, and some that are used inside too."""
    chosen = [v for v in g.values if not v.uses or g.chance(6)]
    ends = list(dict.fromkeys(chosen)) or [g.values[-1]]
    if not g.real_edges:
        return [*(_own_value(g, v) for v in ends), *g.raw]
    outputs = [*(_real(g, v) for v in ends), *g.raw]
    real = [v for v in g.graph.inputs if v.name.startswith(f"{g.prefix}x")]
    if g.chance(6):
        outputs.append(g.must(Reshape((real[0].type.count,)), real[0]))
    return outputs


def _own_value(g: Growing, value: Value) -> Value:
    """Outputs are computed: an input is reshaped, as the importer does it."""
    return g.must(Reshape(value.type.shape), value) if value.producer is None else value


def _real(g: Growing, value: Value) -> Value:
    value = g.must(Dequantize(), value)
    match g.number(0, 5):
        case 0:
            return g.must(Reshape((1, value.type.count)), value)
        case 1:
            return g.must(Transpose(tuple(range(value.type.rank))[::-1]), value)
        case _:
            return value


def random_arrays(graph: Graph, seed: int) -> dict[str, Array]:
    """Codes over their whole range, or reals over that of the codes they become, and a little beyond."""
    rng = np.random.default_rng(seed)
    return {v.name: _random_array(v, rng) for v in graph.inputs}


def _random_array(value: Value, rng: np.random.Generator) -> Array:
    element = value.type.element
    if element is not ElementType.F32:
        return rng.integers(element.low, element.high + 1, value.type.shape).astype(element.dtype)
    to = next((n.op.to for n, _ in value.uses if isinstance(n.op, Quantize)), None)
    if to is None:
        return rng.normal(size=value.type.shape).astype(np.float32)
    codes = rng.uniform(to.element.low * 1.02, to.element.high * 1.02, value.type.shape)
    return ((codes - to.zero_point) * to.scale).astype(np.float32)
