"""Our packages have short names; a user's own folder `sim` or `targets` must not take their place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SIBLINGS = ("compiler", "schedules", "sim", "targets")


def check_siblings() -> None:
    """Errors: ImportError that names both folders and the remedy."""
    home = Path(__file__).resolve().parents[1]
    for name in _SIBLINGS:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if found != home / name:
            raise ImportError(
                f"bitloom needs its package {name!r} from {home / name}, but Python finds "
                f"{'nothing' if found is None else found}; rename that folder or start Python elsewhere"
            )
