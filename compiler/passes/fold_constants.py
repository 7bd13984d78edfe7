"""Computes at compile time what depends on constants alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.interpreter import run_node
from compiler.ir.graph import Graph
from compiler.ir.literal import Constant
from compiler.passes.base import Notes, Pass


@dataclass(frozen=True, slots=True)
class FoldConstants(Pass):
    name: ClassVar[str] = "fold-constants"

    def run(self, graph: Graph, notes: Notes) -> int:
        count = 0
        for node in list(graph.nodes):
            arrays = [v.constant for v in node.inputs]
            known = [a for a in arrays if a is not None]
            if isinstance(node.op, Constant) or not arrays or len(known) < len(arrays):
                continue
            for value, array in zip(node.outputs, run_node(node, known), strict=True):
                name = value.name
                graph.rename(value, f"{name}.folded")
                graph.replace_uses(value, graph.constant(array, value.type, node.location, name))
            graph.erase(node)
            count += 1
        return count
