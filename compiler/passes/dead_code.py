"""Removes nodes whose results nobody uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.ir.graph import Graph
from compiler.passes.base import Notes, Pass


@dataclass(frozen=True, slots=True)
class RemoveDeadCode(Pass):
    name: ClassVar[str] = "remove-dead-code"

    def run(self, graph: Graph, notes: Notes) -> int:
        count = 0
        for node in reversed(list(graph.nodes)):
            if not any(v.uses or graph.is_output(v) for v in node.outputs):
                graph.erase(node)
                count += 1
        return count
