"""What a pass is, and what it may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from compiler.ir.diagnostics import Location
from compiler.ir.graph import Graph
from compiler.ir.verifier import verify


@dataclass(frozen=True, slots=True)
class Note:
    """Something the report tells the user about one place of the model."""

    location: Location
    pass_name: str
    text: str


@dataclass(slots=True)
class Notes:
    """Collected while passes run, shown in the report and in the manifest."""

    entries: list[Note] = field(default_factory=list[Note])

    def add(self, location: Location, pass_name: str, text: str) -> None:
        self.entries.append(Note(location, pass_name, text))


class Pass(ABC):
    """A rewrite of a verified graph into a verified graph. Subclasses are frozen dataclasses whose fields
    are the pass's options."""

    __slots__ = ()
    name: ClassVar[str]

    @abstractmethod
    def run(self, graph: Graph, notes: Notes) -> int:
        """Edits `graph` in place and returns how many rewrites it made."""


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did, for reports."""

    name: str
    rewrites: int


def run_pass(p: Pass, graph: Graph, notes: Notes) -> PassRecord:
    """Runs a pass, then the verifier."""
    rewrites = p.run(graph, notes)
    verify(graph)
    return PassRecord(p.name, rewrites)
