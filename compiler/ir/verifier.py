"""Checks that run after every pass: structure, types, and that no accumulator can overflow."""

from __future__ import annotations

from compiler.ir.diagnostics import TypeMismatchError
from compiler.ir.graph import Graph, Node, Value
from compiler.numerics.element import ElementType


class VerificationError(Exception):
    """A broken invariant of the IR: a fault of the compiler, never of the user."""


def verify(graph: Graph) -> None:
    """Errors: VerificationError for a broken structure; NodeError (by the operator's own `check`) for an
    operator whose accumulator could leave int32."""
    defined: set[int] = set()
    names: set[str] = set()
    for value in graph.values():
        if value.name in names:
            raise VerificationError(f"two values are named %{value.name}")
        names.add(value.name)
    defined.update(id(v) for v in graph.inputs)
    for node in graph.nodes:
        _verify_node(node, defined)
        defined.update(id(v) for v in node.outputs)
    for value in graph.outputs:
        if id(value) not in defined:
            raise VerificationError(f"output {value!r} is not computed in the graph")
    _verify_uses(graph)


def _verify_node(node: Node, defined: set[int]) -> None:
    for value in node.inputs:
        if id(value) not in defined:
            raise VerificationError(f"{node!r} uses {value!r} before it is defined")
    try:
        types = node.op.infer([v.type for v in node.inputs])
    except TypeMismatchError as error:
        raise VerificationError(f"{node!r}: {error}") from error
    if reason := _unreadable_bits(node):
        raise VerificationError(f"{node!r}: {reason}")
    if list(types) != [v.type for v in node.outputs]:
        raise VerificationError(f"{node!r}: inference says {[str(t) for t in types]}")
    for value in node.outputs:
        if value.producer is not node:
            raise VerificationError(f"{value!r} names another producer than {node!r}")
    reason = node.op.overflow([v.type for v in node.inputs], [v.constant for v in node.inputs])
    if reason is not None:
        raise node.error(reason, "give the layer wider weights or narrower activations")


def _unreadable_bits(node: Node) -> str | None:
    """Why packed bits cannot be what the node reads or writes."""
    computed = [v for v in (*node.inputs, *node.outputs) if v.constant is None]
    bits = [v for v in computed if v.type.element is ElementType.B1]
    if any(v.type.rank == 0 for v in bits):
        return "b1 codes are packed along the last axis, and there is none"
    if not node.op.reads_bits and any(v in node.inputs for v in bits):
        return f"{node.op.mnemonic} reads no b1 codes: requantize them to i8"
    if not node.op.writes_bits and any(v in node.outputs for v in bits):
        return f"{node.op.mnemonic} gives no b1 codes: requantize its result to b1"
    return None


def _verify_uses(graph: Graph) -> None:
    found: dict[int, list[tuple[int, int]]] = {}
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            found.setdefault(id(value), []).append((id(node), index))
    for value in graph.values():
        _verify_use_list(value, found.get(id(value), []))


def _verify_use_list(value: Value, found: list[tuple[int, int]]) -> None:
    if sorted((id(n), i) for n, i in value.uses) != sorted(found):
        raise VerificationError(f"{value!r}: its list of uses is wrong")
