"""All operators. A file of this package is discovered by being there: its `Op` subclasses by their
mnemonics, its ONNX importers by the `imports` mark."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

from compiler.ir.literal import Constant
from compiler.ir.op import Op
from compiler.ops.importing import Importer


def _modules() -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]


def _operators() -> dict[str, type[Op]]:
    found: dict[str, type[Op]] = {Constant.mnemonic: Constant}
    for module in _modules():
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Op) and cls.__module__ == module.__name__:
                if inspect.isabstract(cls) or cls.__name__.startswith("_"):
                    continue
                if cls.mnemonic in found:
                    raise TypeError(f"two operators are called {cls.mnemonic}")
                found[cls.mnemonic] = cls
    return found


def _importers() -> dict[tuple[str, str], Importer]:
    found: dict[tuple[str, str], Importer] = {}
    for module in _modules():
        for function in vars(module).values():
            for key in getattr(function, "onnx_op_types", ()):
                if function.__module__ != module.__name__:
                    continue
                if key in found:
                    raise TypeError(f"two importers for ONNX {key}")
                found[key] = function
    return found


OPS = _operators()
# By (domain, operator type).
IMPORTERS = _importers()
