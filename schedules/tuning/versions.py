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
def source_version(module: str) -> str:
    """8 hex digits of the sources of `module` and of all that it imports from `_COUNTED`, at the
    top or within functions."""
    digest = hashlib.sha256()
    for path in sorted(sources_of(module)):
        digest.update(path.relative_to(_ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def sources_of(module: str) -> set[Path]:
    """Source files that a module depends on, as far as versions count them, itself included."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = (_ROOT / waiting.pop().replace(".", "/")).with_suffix(".py")
        if path.exists() and path not in found:
            found.add(path)
            waiting += _imports(path)
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(_COUNTED):
            yield node.module
