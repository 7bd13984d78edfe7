"""Names that users type, turned into objects once, at the edge."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from compiler.ir.diagnostics import BitloomError
from compiler.numerics.element import ElementType
from compiler.quantize.observers import OBSERVERS, Observer

WEIGHTS = {
    "int8": ElementType.I8,
    "int4": ElementType.I4,
    "int2": ElementType.I2,
    "binary": ElementType.B1,
}
WEIGHT_SCALES = {"channel": True, "tensor": False}
ACTIVATIONS = {"int8": ElementType.I8, "int16": ElementType.I16}


def element_named(name: str, what: str) -> ElementType:
    """Element type of weights or activations. Errors: BitloomError that lists the known names."""
    known = WEIGHTS if what == "weights" else ACTIVATIONS
    if name not in known:
        raise BitloomError(f'unknown type of {what} "{name}"', f"known: {', '.join(known)}")
    return known[name]


def scales_named(name: str) -> bool:
    """Whether weights have a scale for each channel. Errors: BitloomError that lists the known names."""
    if name not in WEIGHT_SCALES:
        raise BitloomError(f'unknown scales of weights "{name}"', f"known: {', '.join(WEIGHT_SCALES)}")
    return WEIGHT_SCALES[name]


def observer_named(name: str, options: Mapping[str, float]) -> Callable[[], Observer]:
    """Makes observers of one kind. Errors: BitloomError that lists the known names or options."""
    if name not in OBSERVERS:
        raise BitloomError(f'unknown observer "{name}"', f"known: {', '.join(OBSERVERS)}")
    cls = OBSERVERS[name]
    known = observer_options(cls)
    for option in options:
        if option not in known:
            raise BitloomError(
                f'observer "{name}" has no option "{option}"',
                f"its options: {', '.join(known) if known else 'none'}",
            )
    typed = {o: type(known[o])(v) for o, v in options.items()}
    return cast("Callable[[], Observer]", functools.partial(cls, **cast(Any, typed)))


def observer_options(cls: type[Observer]) -> dict[str, float]:
    """Options of an observer with their defaults: its fields that the constructor takes."""
    return {f.name: cast(float, f.default) for f in dataclasses.fields(cast(Any, cls)) if f.init}
