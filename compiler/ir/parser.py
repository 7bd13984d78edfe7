"""Text -> graph: a recursive-descent parser for what `printer` writes."""

from __future__ import annotations

import base64
import json
import re
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from compiler.ir.diagnostics import BitloomError, Location
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.literal import Constant, Literal
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import Quantization, QuantizedType

_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(
    rf"""\s*(?:(?P<dense>dense<[^>]*>)
    | (?P<string>{_STRING})
    | (?P<value>%(?:{_STRING}|[A-Za-z_0-9.:/\-]*[A-Za-z_0-9./\-]))
    | (?P<number>[-+]?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?![A-Za-z_]))
    | (?P<word>[A-Za-z_][A-Za-z_0-9]*)
    | (?P<punctuation>[{{}}()\[\]<>=:,@]))""",
    re.VERBOSE,
)
# A list of numbers to its end: lists of scales are most of what a graph's text holds beside constants.
_NUMBERS = re.compile(r"\s*([-+\d.eE]+(?:\s*,\s*[-+\d.eE]+)*)\s*\]")
_ELEMENTS = {e.value: e for e in ElementType}


class ParseError(BitloomError):
    """The text is not what the printer writes; the message gives the line."""


def parse_graph(text: str, ops: Mapping[str, type[Op]]) -> Graph:
    """The graph of `text`. ops: operator classes by mnemonic (`compiler.ops.OPS`).

    Errors: ParseError; NodeError where a printed type contradicts inference.
    """
    return _Parser(text, ops).graph()


class _Parser:
    def __init__(self, text: str, ops: Mapping[str, type[Op]]) -> None:
        self.text, self.ops = text, {**ops, Constant.mnemonic: Constant}
        self.position = 0
        self.match: re.Match[str] | None = None  # the token at `position`, where it has been looked at
        self.values: dict[str, Value] = {}

    def fail(self, message: str) -> ParseError:
        line = self.text.count("\n", 0, self.position) + 1
        return ParseError(f"IR text, line {line}: {message}")

    def _ahead(self) -> re.Match[str]:
        match = self.match
        if match is None:
            match = self.match = _TOKEN.match(self.text, self.position)
        if match is None or match.lastgroup is None:
            raise self.fail(f"unexpected {self.text[self.position : self.position + 20]!r}")
        return match

    def peek(self) -> tuple[str, str]:
        match = self._ahead()
        kind = match.lastgroup or ""
        return kind, match.group(kind)

    def take(self, expected: str | None = None) -> tuple[str, str]:
        match = self._ahead()
        kind = match.lastgroup or ""
        token = match.group(kind)
        if expected is not None and token != expected:
            raise self.fail(f"expected {expected!r}, found {token!r}")
        self.position, self.match = match.end(), None
        return kind, token

    def accept(self, token: str) -> bool:
        if self.peek()[1] != token:
            return False
        self.take()
        return True

    def several(self, item: Callable[[], Any], close: str) -> list[Any]:
        """Items separated by commas up to `close`, which is taken."""
        items: list[Any] = []
        while not self.accept(close):
            if items:
                self.take(",")
            items.append(item())
        return items

    def string(self) -> str:
        kind, token = self.take()
        if kind != "string":
            raise self.fail(f"expected a string, found {token!r}")
        return json.loads(token)

    def name(self) -> str:
        kind, token = self.take()
        if kind != "value":
            raise self.fail(f"expected a value, found {token!r}")
        return json.loads(token[1:]) if token[1] == '"' else token[1:]

    def use(self) -> Value:
        name = self.name()
        if name not in self.values:
            raise self.fail(f"%{name} is not defined above")
        return self.values[name]

    def graph(self) -> Graph:
        self.take("graph")
        graph = Graph(self.string())
        self.take("{")
        while self.accept("input"):
            name = self.name()
            self.take(":")
            value = graph.add_input(name, self.tensor_type())
            value.source = self.source()
            self.values[name] = value
        while self.peek()[1] != "output":
            self.node(graph)
        self.take("output")
        graph.outputs = [self.use()]
        while self.accept(","):
            graph.outputs.append(self.use())
        self.take("}")
        return graph

    def node(self, graph: Graph) -> None:
        names = [self.name()]
        while self.accept(","):
            names.append(self.name())
        self.take("=")
        mnemonic = self.take()[1]
        if mnemonic not in self.ops:
            raise self.fail(f"unknown operator {mnemonic!r}; known: {', '.join(sorted(self.ops))}")
        self.take("(")
        inputs = self.several(self.use, ")")
        attributes = dict(self.several(self.attribute, "}")) if self.accept("{") else {}
        op = self.operator(self.ops[mnemonic], attributes)
        self.take(":")
        types = [self.result_type()]
        while self.accept(","):
            types.append(self.result_type())
        self.take("@")
        self.take("(")
        location = Location(tuple(self.several(self.string, ")")))
        outputs = graph.append(op, inputs, location, names)
        for value, (type_, source), name in zip(outputs, types, names, strict=True):
            if value.type != type_:
                producer: Node | None = value.producer
                assert producer is not None
                raise producer.error(f"the text says {type_}, inference says {value.type}")
            value.source = source
            self.values[name] = value

    def result_type(self) -> tuple[TensorType, str | None]:
        return self.tensor_type(), self.source()

    def source(self) -> str | None:
        return self.string() if self.accept("from") else None

    def attribute(self) -> tuple[str, Any]:
        name = self.take()[1]
        self.take("=")
        return name, self.attribute_value()

    def operator(self, cls: type[Op], attributes: dict[str, Any]) -> Op:
        hints = typing.get_type_hints(cls)
        for name, value in attributes.items():
            hint = hints.get(name)
            if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, Enum):
                attributes[name] = hint(value)
        try:
            return cls(**attributes)
        except (TypeError, ValueError) as error:
            raise self.fail(f"{cls.mnemonic}: {error}") from error

    def attribute_value(self) -> Any:
        kind, token = self.peek()
        match kind:
            case "dense":
                return self.dense(self.take()[1])
            case "string":
                return self.string()
            case "number":
                return self.number()
            case "word" if token in _ELEMENTS:
                return self.typed_attribute()
            case "word":
                self.take()
                words: dict[str, Any] = {"none": None, "true": True, "false": False}
                if token not in words:
                    raise self.fail(f"unknown attribute {token!r}")
                return words[token]
            case _:
                self.take("(")
                return tuple(self.several(self.attribute_value, ")"))

    def number(self) -> int | float:
        kind, token = self.take()
        if kind != "number":
            raise self.fail(f"expected a number, found {token!r}")
        return int(token) if re.fullmatch(r"[-+]?\d+", token) else float(token)

    def typed_attribute(self) -> ElementType | QuantizedType | TensorType:
        element = _ELEMENTS[self.take()[1]]
        if self.peek()[1] == "[":
            return self.rest_of_tensor_type(element)
        quantization = self.quantization()
        return element if quantization is None else QuantizedType(element, quantization)

    def tensor_type(self) -> TensorType:
        token = self.take()[1]
        if token not in _ELEMENTS:
            raise self.fail(f"unknown element type {token!r}")
        return self.rest_of_tensor_type(_ELEMENTS[token])

    def rest_of_tensor_type(self, element: ElementType) -> TensorType:
        self.take("[")
        shape = tuple(int(d) for d in self.several(self.number, "]"))
        return TensorType(shape, element, self.quantization())

    def quantization(self) -> Quantization | None:
        if not self.accept("<"):
            return None
        self.take("scale")
        self.take("=")
        if self.accept("["):
            scales = self.floats()
            self.keyword("axis")
            quantization = Quantization(scales, 0, int(self.number()))
        else:
            scale = float(self.number())
            self.keyword("zero_point")
            quantization = Quantization((scale,), int(self.number()))
        self.take(">")
        return quantization

    def floats(self) -> tuple[float, ...]:
        """Numbers up to "]", which is taken."""
        match = _NUMBERS.match(self.text, self.position)
        if match is not None:
            try:
                found = tuple(map(float, match[1].split(",")))
            except ValueError:
                pass  # said below, number by number
            else:
                self.position, self.match = match.end(), None
                return found
        return tuple(float(s) for s in self.several(self.number, "]"))

    def keyword(self, word: str) -> None:
        for token in (",", word, "="):
            self.take(token)

    def dense(self, token: str) -> Literal:
        match = re.fullmatch(r"dense<([^\[]+)\[([\d,]*)\] (.*)>", token)
        if match is None:
            raise self.fail("an elided constant cannot be read back")
        dtype, shape, data = match.groups()
        flat = np.frombuffer(base64.b64decode(data), np.dtype(dtype))
        return Literal(flat.reshape([int(d) for d in shape.split(",") if d]))
