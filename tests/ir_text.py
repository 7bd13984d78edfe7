"""Graphs written by hand in tests: the IR's text, with numbers for constants and without what is always
alike."""

from __future__ import annotations

import difflib
import json
import re

import numpy as np

from compiler.ir.graph import Graph
from compiler.ir.literal import Literal
from compiler.ir.parser import parse_graph
from compiler.ir.printer import attribute_text, graph_text
from compiler.ir.verifier import verify
from compiler.numerics.element import ElementType
from compiler.ops import OPS
from compiler.passes.base import Notes, Pass, run_pass

_CONSTANT = re.compile(r"(%\S+) = (\[.*\]|-?[\d.]+) : ((\w+)\[([\d,]*)\].*?)( @\(.*\))?$")


def graph(text: str) -> Graph:
    """The lines of a graph. `%w = [1, 2] : f32[2]` is a constant; a line without `@(…)` has no location;
    attributes left out have their defaults."""
    lines = [_line(line.strip()) for line in text.strip().splitlines()]
    parsed = parse_graph("\n".join(['graph "g" {', *lines, "}", ""]), OPS)
    verify(parsed)
    return parsed


def _line(line: str) -> str:
    match = _CONSTANT.fullmatch(line)
    if match is not None:
        name, numbers, type_, element, shape, where = match.groups()
        dtype = ElementType(element).dtype
        array = np.array(json.loads(numbers), dtype).reshape([int(n) for n in shape.split(",") if n])
        value = attribute_text(Literal(array))
        return f"{name} = constant() {{value = {value}, type = {type_}}} : {type_}{where or ' @()'}"
    if "=" not in line.split("{", maxsplit=1)[0] or line.startswith(("input", "output")) or "@(" in line:
        return line
    return f"{line} @()"


def check_pass(p: Pass, before: str, after: str, rewrites: int) -> Notes:
    """Runs the pass on one text and compares with the other; gives the notes."""
    found, notes = graph(before), Notes()
    record = run_pass(p, found, notes)
    made, expected = (graph_text(g).splitlines() for g in (found, graph(after)))
    assert made == expected, "\n".join(difflib.unified_diff(expected, made, "expected", "made", lineterm=""))
    assert record.rewrites == rewrites
    return notes
