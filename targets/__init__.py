"""Device families. Each file beside this one that has a function `targets()` contributes targets."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from compiler.ir.diagnostics import BitloomError

if TYPE_CHECKING:
    from compiler.driver import Target


def all_targets() -> Mapping[str, Target]:
    """Every known target by name."""
    found: dict[str, Target] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.ispkg:
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        found.update({t.name: t for t in getattr(module, "targets", list)()})
    return found


def target_named(name: str) -> Target:
    """Errors: BitloomError that lists the known targets."""
    known = all_targets()
    if name not in known:
        raise BitloomError(f'unknown target "{name}"', f"known targets: {', '.join(known)}")
    return known[name]
