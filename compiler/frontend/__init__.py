"""ONNX files to float graphs: `reading.load_model`, then `importing.import_graph`.

Protocol buffers and the onnx package end at this package's border. `onnx` is imported inside functions, so
that a file that is no model at all is refused at once. Models that are quantized already (QDQ, QOperator,
QONNX) will enter here too, in a file of their own that turns their nodes into quantized types; today
`importing` refuses them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.frontend.importing import import_graph
    from compiler.frontend.reading import Model, load_model

__all__ = ["Model", "import_graph", "load_model"]

# Imported on first use: `wire` alone says what a file is, long before any operator is known.
_HOMES = {"Model": "reading", "import_graph": "importing", "load_model": "reading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
