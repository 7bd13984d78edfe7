"""Who is timed: one module for each inference engine, with a class `Engine`.

An engine runs in a process of its own (`benchmarks.engines.serve`), under the Python of its own virtual
environment. Its module may import numpy, `benchmarks.case` and its own package, nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from benchmarks.case import Case

Run = Callable[[], object]
"""One inference of the case's timed input, numpy in and numpy out."""


class RefusedError(Exception):
    """An engine cannot take a case; the message says why and what would help."""


class Engine(Protocol):
    """Fields of the class are its options: strings by name."""

    def prepare(self, case: Case, folder: Path) -> Path:
        """Quantizes or compiles, once for each case, into folder. Returns what `open` takes.

        Errors: RefusedError."""
        ...

    def open(self, prepared: Path, case: Case, threads: int) -> Run:
        """Loads what was prepared for a number of threads."""
        ...


def engine_named(name: str, options: Mapping[str, str]) -> Engine:
    """The engine of module `name` in this package."""
    engine: Engine = importlib.import_module(f"{__name__}.{name}").Engine(**options)
    return engine
