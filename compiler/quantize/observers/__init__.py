"""Observers turn the values that a tensor takes on the calibration data into a range to quantize.

Each file holds one class; the command line takes names and options from here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from compiler.quantize.observers.base import Observer

__all__ = ["OBSERVERS", "Observer"]


def _observers() -> dict[str, type[Observer]]:
    found: dict[str, type[Observer]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Observer) and not inspect.isabstract(cls):
                found[cls.name] = cls
    return found


OBSERVERS = _observers()
