"""Device families. Each file beside this one that has a function `targets()` contributes targets.

It may also have `target_from(name)`, for names with parameters: a target, or None for another family's name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from compiler.ir.diagnostics import BitloomError

if TYPE_CHECKING:
    from compiler.driver import Target


def all_targets() -> Mapping[str, Target]:
    """Every known target by name, those that this computer runs first."""
    found: list[Target] = [t for module in _families() for t in getattr(module, "targets", list)()]
    return {t.name: t for t in sorted(found, key=lambda t: not t.runs_here)}


def target_named(name: str, variants: Sequence[str] = ()) -> Target:
    """variants: targets that share its libraries; family and C library may be left out ("cortex-a76" beside
    "arm/cortex-a53@musl").

    Errors: BitloomError that lists the known targets, or says why they cannot share a library.
    """
    target = _target_named(name)
    if not variants:
        return target
    libc = name.partition("@")[1:]
    full = [_full_name(variant) for variant in variants]
    return target.with_variants([_target_named(v if "@" in v else "".join((v, *libc))) for v in full])


def _full_name(variant: str) -> str:
    """With the family that was left out."""
    plain, *libc = variant.partition("@")
    known = (name for name in all_targets() if "/" in name and name.partition("/")[2] == plain)
    return "".join((next(known, plain), *libc))


def _target_named(name: str) -> Target:
    for module in _families():
        found: Target | None = getattr(module, "target_from", _no_target)(name)
        if found is not None:
            return found
    known = all_targets()
    if name not in known:
        raise BitloomError(f'unknown target "{name}"', f"known targets: {', '.join(known)}")
    return known[name]


def _families() -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(__path__):
        if not info.ispkg:
            yield importlib.import_module(f"{__name__}.{info.name}")


def _no_target(_name: str) -> None:
    return None
