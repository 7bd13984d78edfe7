"""bitloom: from an ONNX model to an integer-only library for one device, bit-exact on every target.

import bitloom
artifact = bitloom.compile("model.onnx", target="host", calibration=samples)
model = bitloom.load(artifact.path)
y = model(x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitloom._siblings import check_siblings

if TYPE_CHECKING:
    from bitloom.compiling import Artifact, compile
    from bitloom.exploring import Exploration, explore
    from bitloom.loading import Model, load
    from bitloom.simulation import Simulation, simulate
    from bitloom.verification import Verification, verify
    from compiler.ir.diagnostics import BitloomError

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "BitloomError",
    "Exploration",
    "Model",
    "Simulation",
    "Verification",
    "compile",
    "explore",
    "load",
    "simulate",
    "verify",
]

check_siblings()

# Imported on first use: `import bitloom` and the command line's error paths stay quick.
_HOMES = {
    "Artifact": "bitloom.compiling",
    "BitloomError": "compiler.ir.diagnostics",
    "Model": "bitloom.loading",
    "compile": "bitloom.compiling",
    "Exploration": "bitloom.exploring",
    "explore": "bitloom.exploring",
    "load": "bitloom.loading",
    "Verification": "bitloom.verification",
    "verify": "bitloom.verification",
    "Simulation": "bitloom.simulation",
    "simulate": "bitloom.simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitloom' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
