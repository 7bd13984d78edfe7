"""Random quantized graphs of 1 to 8 operators, over all operators of the IR.

Two ways to grow a graph, mixed at random. A *case* of `tests/op_cases` is connected to values that are
there, brought to its types by requantizing, cutting, padding and reshaping: so every operator occurs. A
*growth* of `tests/growths.py` picks values and finds an operator that takes them as they are: residual joins,
chains in place, concatenations of concatenations, slices of parts, the same value twice.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from compiler.ir.graph import Graph, Value
from compiler.ir.types import Shape, quantized
from compiler.numerics.element import Array, ElementType
from compiler.ops.edge import Dequantize, Quantize, Requantize
from compiler.ops.shape import Reshape, Transpose
from compiler.quantize.quantize_graph import widened
from tests.growing import Growing
from tests.growths import GROWTHS
from tests.op_cases import OpCase, all_cases, code_types

# Without a loop form: passes remove it before lowering.
FLOAT_ONLY = frozenset({"batch_norm"})
CASES = {name: case for name, case in all_cases().items() if name not in FLOAT_ONLY}


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
        batch = draw(st.sampled_from([1, 1, 1, 2]))
        return (batch, draw(st.integers(1, 7)), draw(st.integers(1, 7)), channels)
    return (*(draw(st.integers(1, 5)) for _ in range(rank - 1)), channels)


@st.composite
def wide_shapes(draw: DrawFn) -> Shape:
    """Some thousand elements at most: large images, long rows, many channels."""
    match draw(st.integers(0, 3)):
        case 0:
            return (1, draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 3)))
        case 1:
            return (draw(st.integers(1, 2)), draw(st.integers(1, 3)), 3, draw(st.integers(1, 300)))
        case 2:
            return (draw(st.integers(1, 70)), draw(st.integers(1, 80)))
        case _:
            return (draw(st.integers(1, 3)), draw(st.integers(1, 2000)))


@st.composite
def quantized_graphs(
    draw: DrawFn,
    real_edges: bool = True,
    most: int = 8,
    into: Graph | None = None,
    prefix: str = "",
    shapes: SearchStrategy[Shape] | None = None,
) -> Graph:
    """A graph of 1 to `most` grown operators (and those that connect them). into: a graph that it joins, as
    a component of its own. shapes: of its inputs; those of `base_shapes` by default."""
    g = Growing(draw, real_edges, prefix)
    if into is not None:
        g.graph = into
    for _ in range(draw(st.integers(1, 2))):
        g.values.append(
            g.input(quantized(draw(base_shapes() if shapes is None else shapes), draw(code_types())))
        )
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
    """Outputs are computed: an input is reshaped, as the importer does it. No port has packed codes."""
    if value.type.element is ElementType.B1:
        return g.must(Requantize(widened(value.type).codes), value)
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
