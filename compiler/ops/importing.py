"""What an operator's ONNX importer sees: a decoded node, and a graph to build into. No protobuf here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from compiler.ir.diagnostics import Location, NodeError
from compiler.ir.graph import Graph, Value
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from compiler.numerics.element import Array, ElementType

# An input is a tensor computed at run time, an array known at import, or absent.
Input: TypeAlias = Value | Array | None
Results: TypeAlias = Sequence[Value | Array]
Importer: TypeAlias = Callable[["OnnxNode"], Results]
_F = TypeVar("_F", bound=Importer)


def imports(*op_types: str, domain: str = "") -> Callable[[_F], _F]:
    """Marks a function of `compiler/ops` as the importer of the ONNX operators `op_types`."""

    def mark(function: _F) -> _F:
        function.__dict__["onnx_op_types"] = tuple((domain, t) for t in op_types)
        return function

    return mark


@dataclass(slots=True)
class OnnxNode:
    """One ONNX node. attributes: int, float, str, numpy array, or a list of int, float or str.

    Importers return one result per output: a Value of `graph`, or an array where it is known already.
    """

    graph: Graph
    op_type: str
    opset: int
    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def location(self) -> Location:
        return Location((self.name,))

    def error(self, message: str, hint: str | None = None) -> NodeError:
        return NodeError(self.location, self.op_type, message, hint)

    def has(self, index: int) -> bool:
        """Whether input `index` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Input `index` as a value; a known array becomes a float constant.

        Errors: NodeError where it is absent, or known but of an element type without a float meaning.
        """
        found = self.inputs[index] if self.has(index) else None
        if found is None:
            raise self.error(f"input {index} is missing")
        return found if isinstance(found, Value) else self.constant(found)

    def array(self, index: int) -> Array:
        """Input `index`, which must be known at import.

        Errors: NodeError where it is absent or computed at run time.
        """
        found = self.inputs[index] if self.has(index) else None
        if found is None or isinstance(found, Value):
            raise self.error(
                f"input {index} must be a constant"
                + ("" if found is None else f", but %{found.name} is computed"),
                "export the model with constant parameters, or simplify it (onnxsim)",
            )
        return found

    def integers(self, index: int) -> tuple[int, ...]:
        """Input `index` as a tuple of ints (axes, shapes, pads)."""
        return tuple(int(x) for x in np.asarray(self.array(index)).reshape(-1))

    def constant(self, array: Array, name: str | None = None) -> Value:
        """A float32 constant of the graph."""
        if not np.issubdtype(array.dtype, np.floating):
            raise self.error(f"{array.dtype} tensors are not supported as data", "cast the tensor to float32")
        data = np.asarray(array, np.float32)
        type_ = TensorType(data.shape, ElementType.F32)
        return self.graph.constant(data, type_, self.location, name or f"{self.name}.constant")

    def emit(self, op: Op, *inputs: Value) -> Value:
        """Appends `op` and returns its only output. A moved tensor keeps its calibration source."""
        (value,) = self.graph.append(op, inputs, self.location, [f"{self.outputs[0]}.{op.mnemonic}"])
        if op.keeps_quantization and len(inputs) == 1 and value.type.count == inputs[0].type.count:
            value.source = inputs[0].source
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._attribute(name, default, int))

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._attribute(name, default, float, int))

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._attribute(name, default, str))

    def tuple_of(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        found = cast("Sequence[int]", self._attribute(name, default, list, tuple))
        return tuple(int(x) for x in found)

    def _attribute(self, name: str, default: Any, *kinds: type) -> Any:
        found = self.attributes.get(name)
        if found is None and default is None:
            raise self.error(f'attribute "{name}" is missing')
        if found is None:
            return default
        if not isinstance(found, kinds):
            raise self.error(f'attribute "{name}" is of type {type(found).__name__}, not {kinds[0].__name__}')
        return found
