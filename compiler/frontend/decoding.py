"""From protobuf messages to Python values: tensors, attributes, types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.frontend.reading import ExternalData, is_external
from compiler.ir.diagnostics import BitloomError
from compiler.ir.types import TensorType, f32
from compiler.numerics.element import Array

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto, TensorProto, TypeProto


def decode_tensor(tensor: TensorProto, model: Path) -> Array:
    """The tensor's numbers. External data is mapped, not read. model: the model's file.

    Errors: BitloomError where there are more or fewer bytes than its type and shape tell.
    """
    try:
        return _external(tensor, model) if is_external(tensor) else _embedded(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise BitloomError(
            f'{model}: the data of tensor "{tensor.name}" do not fit its type and shape: {error}',
            "copy or export the model again",
        ) from None


def _embedded(tensor: TensorProto) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _external(tensor: TensorProto, model: Path) -> Array:
    from onnx import helper

    place, shape = ExternalData.of(tensor, model), tuple(tensor.dims)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(shape)
    if place.length not in (None, count * dtype.itemsize) or count == 0:
        return _unpacked(tensor, replace(place, length=place.length or 0))
    return np.memmap(place.path, dtype, "r", place.offset, shape)


def _unpacked(tensor: TensorProto, place: ExternalData) -> Array:
    """Types of less than a byte are stored packed; onnx knows how."""
    from onnx import TensorProto, numpy_helper

    with place.path.open("rb") as file:
        file.seek(place.offset)
        raw = file.read(place.length)
    return numpy_helper.to_array(TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw))


def decode_attributes(node: NodeProto, model: Path) -> dict[str, Any]:
    """Numbers, strings, arrays, lists of int, float or str; subgraphs stay GraphProto."""
    return {a.name: _attribute(a, model) for a in node.attribute}


def _attribute(attribute: AttributeProto, model: Path) -> Any:
    from onnx import helper

    value: Any = helper.get_attribute_value(attribute)
    if attribute.type == attribute.TENSOR:
        return decode_tensor(attribute.t, model)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type == attribute.STRINGS:
        return [text.decode("utf-8", "replace") for text in value]
    if attribute.type in (attribute.INTS, attribute.FLOATS):
        return list(value)
    return value


def domain_of(node: NodeProto) -> str:
    """Empty for the standard operators, which have two spellings."""
    return "" if node.domain == "ai.onnx" else node.domain


def constant_value(attributes: Mapping[str, Any]) -> Array | None:
    """What a Constant node holds; None for kinds that are not supported (sparse tensors, strings)."""
    match list(attributes.items()):
        case [("value", value)]:
            return value
        case [("value_float" | "value_floats", value)]:
            return np.array(value, np.float32)
        case [("value_int" | "value_ints", value)]:
            return np.array(value, np.int64)
        case _:
            return None


def is_real(type_: TypeProto) -> bool:
    """Whether it is a tensor of floating-point numbers, which all become f32."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    return type_.HasField("tensor_type") and type_.tensor_type.elem_type in kinds


def static_type(type_: TypeProto) -> TensorType | None:
    """The f32 type, where it is a tensor of real numbers whose shape is known in full."""
    if not is_real(type_) or not type_.tensor_type.HasField("shape"):
        return None
    dims = type_.tensor_type.shape.dim
    if not all(d.HasField("dim_value") and d.dim_value > 0 for d in dims):
        return None
    return f32(*(d.dim_value for d in dims))


def type_text(type_: TypeProto) -> str:
    """`float tensor`, `sequence`: for messages."""
    from onnx import TensorProto

    if not type_.HasField("tensor_type"):
        return str(type_.WhichOneof("value") or "untyped").removesuffix("_type")
    return f"{TensorProto.DataType.Name(type_.tensor_type.elem_type).lower()} tensor"
