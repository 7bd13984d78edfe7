"""A model whose inner tensors can be seen: for calibration, and for comparing layer by layer."""

from __future__ import annotations

from collections.abc import Iterable

from compiler.frontend.reading import Model


def serialized_with_outputs(model: Model, names: Iterable[str]) -> bytes:
    """The model's protobuf with the tensors `names` as further outputs; external data stays outside."""
    from onnx import GraphProto, ModelProto, ValueInfoProto

    present = {o.name for o in model.proto.graph.output}
    added = [ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present]
    # Protobuf merges messages that are written one after the other: the weights are not copied to add a name.
    return model.proto.SerializeToString() + ModelProto(graph=GraphProto(output=added)).SerializeToString()
