"""Why a model cannot be compiled: all its nodes at once, each with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compiler.frontend.decoding import domain_of
from compiler.frontend.reading import Model
from compiler.ir.diagnostics import BitloomError, Location, NodeError

if TYPE_CHECKING:
    from onnx import NodeProto

_QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
_QUANTIZED_DOMAINS = ("qonnx.", "finn.", "onnx.brevitas")


def operator_name(node: NodeProto) -> str:
    """`Conv`, or `com.microsoft.FusedConv`."""
    domain = domain_of(node)
    return f"{domain}.{node.op_type}" if domain else node.op_type


def unsupported(node: NodeProto, name: str) -> NodeError:
    """The error of a node that no importer takes."""
    message, hint = _reason(node)
    return NodeError(Location((name,)), operator_name(node), message, hint)


def _reason(node: NodeProto) -> tuple[str, str]:
    if node.op_type in _QUANTIZED or node.domain.startswith(_QUANTIZED_DOMAINS):
        return (
            "models that are already quantized are not supported yet",
            "give the float model that it was made from",
        )
    if node.op_type in ("Loop", "Scan"):
        return "loops are not supported", "export the model with its loops unrolled"
    if node.op_type == "If":
        return (
            "the condition is computed at run time; only a branch that is known at import can be taken",
            "export the model without control flow that depends on the input",
        )
    if domain_of(node):
        return (
            f'operators of the domain "{node.domain}" are not supported',
            "export the model with standard ONNX operators only",
        )
    return "this operator is not supported", "replace it in the model by supported operators"


def combined(model: Model, errors: Sequence[NodeError]) -> BitloomError:
    """One error for all: a line per node, and each different hint once."""
    hints = "; ".join(dict.fromkeys(e.hint for e in errors if e.hint is not None)) or None
    if len(errors) == 1:
        return model.error(errors[0].message, hints)
    lines = "".join(f"\n  {e.message}" for e in errors)
    return model.error(f"{len(errors)} nodes cannot be compiled:{lines}", hints)
