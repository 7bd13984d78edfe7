"""What a program is, in numbers: rows per layer, and a summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.literal import Constant
from compiler.ir.types import TensorType
from compiler.lowering.program import Program


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One node of the quantized graph. names: the ONNX nodes behind it. input, output: types as text.
    weight_bits: of its constant weights, None without. weight_bytes: packed constants; activation_bytes:
    inputs read and outputs written."""

    names: tuple[str, ...]
    operator: str
    input: str
    output: str
    weight_bits: int | None
    macs: int
    weight_bytes: int
    activation_bytes: int
    kernel: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals. arena_lower_bound: no memory plan can be smaller than this."""

    layers: int
    kernels: int
    macs: int
    weight_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    scratch_bytes_per_thread: int


def graph_rows(graph: Graph) -> list[LayerRow]:
    """A row for each node that computes."""
    return [_row(node) for node in graph.nodes if not isinstance(node.op, Constant)]


def layer_rows(program: Program) -> list[LayerRow]:
    """As `graph_rows`, with each node's kernel (None for views and copies saved)."""
    kernels = {step.node: step.plan.symbol for step in program.steps}
    nodes = [n for n in program.graph.nodes if not isinstance(n.op, Constant)]
    return [dataclasses.replace(_row(n), kernel=kernels.get(n)) for n in nodes]


def program_summary(programs: Collection[Program]) -> dict[str, int]:
    """The `Summary` of a graph's programs as a dictionary, for the manifest: all their kernels, and the
    memory of the one that takes most."""
    largest = max(programs, key=lambda program: program.memory.arena_bytes)
    rows = graph_rows(largest.graph)
    return dataclasses.asdict(
        Summary(
            layers=len(rows),
            kernels=len({symbol for program in programs for symbol in program.kernels()}),
            macs=sum(r.macs for r in rows),
            weight_bytes=sum(r.weight_bytes for r in rows),
            arena_bytes=largest.memory.arena_bytes,
            arena_lower_bound=largest.memory.lower_bound,
            scratch_bytes_per_thread=max(program.scratch_bytes for program in programs),
        )
    )


def _row(node: Node) -> LayerRow:
    types = [v.type for v in node.inputs]
    constants = [v for v in node.inputs if v.constant is not None]
    activations = [v for v in node.inputs if v.constant is None]
    weights = [v for v in constants if v.type.is_quantized]
    return LayerRow(
        names=node.location.names,
        operator=node.op.mnemonic,
        input=short_type(activations[0].type) if activations else "",
        output=short_type(node.outputs[0].type),
        weight_bits=weights[0].type.element.bits if weights else None,
        macs=node.op.macs(types),
        weight_bytes=_bytes(constants),
        activation_bytes=_bytes([*activations, *node.outputs]),
    )


def _bytes(values: Sequence[Value]) -> int:
    return sum(v.type.packed_bytes for v in values)


def short_type(type_: TensorType) -> str:
    """`i8[1,56,56,64] s=0.0235 z=-128`."""
    shape = f"{type_.element.value}[{','.join(map(str, type_.shape))}]"
    q = type_.quantization
    if q is None:
        return shape
    if q.axis is not None:
        return f"{shape} s={min(q.scales):.3g}…{max(q.scales):.3g} per channel"
    return f"{shape} s={q.scale:.4g} z={q.zero_point}"
