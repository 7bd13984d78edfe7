"""Graph -> text. `parser.parse_graph` is the inverse; docs/ir.md gives the grammar."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterator
from enum import Enum

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.literal import Literal
from compiler.ir.op import Op
from compiler.ir.types import TensorType, quantization_text
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType

# A colon inside a name is plain; behind it, it would run into the one before a type.
PLAIN_NAME = re.compile(r"[A-Za-z_0-9.:/\-]*[A-Za-z_0-9./\-]")


def graph_text(graph: Graph, elide_above: int | None = None) -> str:
    """The whole graph. elide_above: constants of more elements print as `dense<...>`, for reading only:
    such a text cannot be parsed back."""
    return "\n".join([f"graph {json.dumps(graph.name)} {{", *_lines(graph, elide_above), "}", ""])


def _lines(graph: Graph, elide_above: int | None) -> Iterator[str]:
    for value in graph.inputs:
        yield f"  input {value_text(value)}: {value.type}{_source(value)}"
    for node in graph.nodes:
        yield "  " + node_text(node, elide_above)
    yield f"  output {', '.join(value_text(v) for v in graph.outputs)}"


def node_text(node: Node, elide_above: int | None = None) -> str:
    """One line: results, operator, operands, attributes, result types, location."""
    results = ", ".join(value_text(v) for v in node.outputs)
    operands = ", ".join(value_text(v) for v in node.inputs)
    types = ", ".join(f"{v.type}{_source(v)}" for v in node.outputs)
    where = ", ".join(json.dumps(n) for n in node.location.names)
    attributes = _attributes(node.op, elide_above)
    return f"{results} = {node.op.mnemonic}({operands}){attributes} : {types} @({where})"


def value_text(value: Value) -> str:
    return "%" + (value.name if PLAIN_NAME.fullmatch(value.name) else json.dumps(value.name))


def _source(value: Value) -> str:
    return "" if value.source is None else f" from {json.dumps(value.source)}"


def _attributes(op: Op, elide_above: int | None) -> str:
    if not dataclasses.is_dataclass(op):
        return ""
    fields = [
        f"{f.name} = {attribute_text(getattr(op, f.name), elide_above)}" for f in dataclasses.fields(op)
    ]
    return f" {{{', '.join(fields)}}}" if fields else ""


def attribute_text(attribute: object, elide_above: int | None = None) -> str:
    """Text of an attribute; the parser reads it back as an equal value."""
    match attribute:
        case None:
            return "none"
        case bool():
            return "true" if attribute else "false"
        case int() | float():
            return repr(attribute)
        case str():
            return json.dumps(attribute)
        case ElementType():
            return attribute.value
        case Enum():
            return json.dumps(attribute.value)
        case TensorType():
            return str(attribute)
        case QuantizedType(element, quantization):
            return element.value + quantization_text(quantization)
        case tuple():
            items = [attribute_text(a, elide_above) for a in attribute]
            return f"({', '.join(items)})"
        case Literal():
            if elide_above is not None and attribute.array.size > elide_above:
                return "dense<...>"
            data = base64.b64encode(attribute.array.tobytes()).decode()
            shape = ",".join(map(str, attribute.array.shape))
            return f"dense<{attribute.array.dtype.str}[{shape}] {data}>"
        case _:
            raise TypeError(f"{type(attribute).__name__} is no attribute type")
