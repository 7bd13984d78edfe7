"""Digests of a template's sources: a record holds for the code that it was measured with."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# What lies below (numerics, forms) says what is computed, and does not change how fast that is.
_COUNTED = ("schedules.", "compiler.lowering.", "sim.", "targets.streams.")


@cache
def source_version(*modules: str) -> str:
    """8 hex digits of the sources of `modules` and of all that they import from `_COUNTED`, at the top or
    within functions. Comments and docstrings do not count: they change nothing that was measured."""
    digest = hashlib.sha256()
    for path in sorted(sources_of(*modules)):
        digest.update(path.relative_to(_ROOT).as_posix().encode())
        digest.update(without_comments(path.read_text()).encode())
    return digest.hexdigest()[:8]


def sources_of(*modules: str) -> set[Path]:
    """Source files that modules depend on, as far as versions count them, their own included."""
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        stem = _ROOT / waiting.pop().replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.exists() and path not in found:
                found.add(path)
                waiting += _imports(path)
    return found


def without_comments(source: str) -> str:
    """The lines of a Python source, less docstrings, lines that are comments alone, and empty lines."""
    within, dropped = set[int](), set[int]()
    for node in ast.walk(_tree(source)):
        match node:
            case ast.Constant(value=str()) | ast.JoinedStr():
                within.update(_lines(node))
            case ast.Expr(value=ast.Constant(value=str())):
                dropped.update(_lines(node))
            case _:
                pass
    kept: list[str] = []
    for number, line in enumerate(source.splitlines(), 1):
        bare = not line.strip() or line.lstrip().startswith("#")
        if number not in dropped and (number in within or not bare):
            kept.append(line)
    return "\n".join(kept)


def _lines(node: ast.expr | ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith(_COUNTED):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _tree(source: str) -> ast.Module:
    return ast.parse(source)
