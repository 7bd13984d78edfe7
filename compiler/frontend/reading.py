"""From a path to a checked ModelProto: bytes, external data, opset, local functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.frontend.wire import read_checked
from compiler.ir.diagnostics import BitloomError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

OLDEST_OPSET = 7
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Model:
    """An ONNX model in memory; tensors in external files stay there.

    Local functions are inlined and the opset is at least `OLDEST_OPSET`, so the names of its tensors
    are not always those of the file.
    """

    path: Path
    proto: ModelProto

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return _opset(self.proto)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that the model is, external data included; names of files do not count."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        places = (ExternalData.of(t, self.path) for t in tensors(self.proto.graph) if is_external(t))
        for file in dict.fromkeys(place.path for place in places):
            digest.update(file.read_bytes())
        return digest.digest()

    def error(self, message: str, hint: str | None = None) -> BitloomError:
        return BitloomError(f"{self.path}: {message}", hint)


@dataclass(frozen=True, slots=True)
class ExternalData:
    """Where a tensor's bytes stand outside of the model's file. length is None for 'to the end'."""

    path: Path
    offset: int
    length: int | None

    @classmethod
    def of(cls, tensor: TensorProto, model: Path) -> ExternalData:
        """model: the model's file. Errors: BitloomError where the location leaves its folder."""
        entries = {e.key: e.value for e in tensor.external_data}
        location = Path(entries.get("location", ""))
        if location.is_absolute() or ".." in location.parts:
            raise BitloomError(
                f'{model}: tensor "{tensor.name}" lies in "{location}", outside of the model\'s folder',
                "keep external data beside the model",
            )
        length = entries.get("length")
        return cls(model.parent / location, int(entries.get("offset", 0)), int(length) if length else None)


def load_model(path: Path) -> Model:
    """Reads and checks an ONNX file.

    Errors: BitloomError for a file that is missing, no ONNX model, cut off, without its external data,
    without a graph, or of an opset that `onnx` does not know or cannot convert.
    """
    proto = _parse(path, read_checked(path))
    if not proto.HasField("graph"):
        raise BitloomError(f"{path}: the model holds no graph", "export the model again")
    if not proto.graph.output:
        raise BitloomError(f"{path}: the graph has no outputs", "export the model again")
    _check_external_data(path, proto)
    return Model(path, _inlined(path, _converted(path, proto)))


def _parse(path: Path, data: bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise BitloomError(
            f"{path}: damaged ONNX model: its protobuf cannot be decoded", "copy or download the file again"
        ) from None
    return proto


def is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == tensor.EXTERNAL


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers and tensor attributes, of subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("g"):
        yield from tensors(attribute.g)
    for graph in attribute.graphs:
        yield from tensors(graph)


def _check_external_data(path: Path, proto: ModelProto) -> None:
    """Errors: BitloomError where files are missing or too short; it lists each file once."""
    missing: dict[Path, list[str]] = {}
    for tensor in tensors(proto.graph):
        if not is_external(tensor):
            continue
        place = ExternalData.of(tensor, path)
        if not place.path.is_file():
            missing.setdefault(place.path, []).append(tensor.name)
            continue
        end, size = place.offset + (place.length or 0), place.path.stat().st_size
        if size < end:
            raise BitloomError(
                f'{path}: external data is cut off: tensor "{tensor.name}" needs bytes {place.offset} to '
                f"{end} of {place.path}, which has {size}",
                "copy or download the data file again",
            )
    if missing:
        lines = [f'{file} (tensor "{names[0]}"{_and_more(names)})' for file, names in missing.items()]
        raise BitloomError(
            f"{path}: external data is missing: {', '.join(lines)}", "put the data file beside the model"
        )


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _opset(proto: ModelProto) -> int:
    # Models from before ONNX had operator sets import none.
    return max((o.version for o in proto.opset_import if o.domain in _STANDARD_DOMAINS), default=1)


def _converted(path: Path, proto: ModelProto) -> ModelProto:
    """The model in an opset that the importers know."""
    import onnx
    from onnx import shape_inference, version_converter

    opset, newest = _opset(proto), onnx.defs.onnx_opset_version()
    if opset > newest:
        raise BitloomError(
            f"{path}: opset {opset} is newer than {newest}, the newest that onnx {onnx.__version__} knows",
            f"upgrade the onnx package, or export the model with opset {newest} or lower",
        )
    if opset >= OLDEST_OPSET:
        return proto
    try:
        # The converter needs shapes to turn the broadcasting of old models into today's.
        return version_converter.convert_version(shape_inference.infer_shapes(proto), OLDEST_OPSET)
    # A name that is no text is found out as late as in the converter's own message.
    except (
        RuntimeError,
        UnicodeDecodeError,
        shape_inference.InferenceError,
        version_converter.ConvertError,
    ) as error:
        raise BitloomError(
            f"{path}: opset {opset} is older than {OLDEST_OPSET}, and onnx cannot convert it: "
            f"{_reason(error)}",
            f"export the model with opset {OLDEST_OPSET} or higher",
        ) from None


def _inlined(path: Path, proto: ModelProto) -> ModelProto:
    """The model without local functions."""
    if not proto.functions:
        return proto
    from onnx import inliner

    try:
        return inliner.inline_local_functions(proto, convert_version=True)
    except RuntimeError as error:
        raise BitloomError(
            f"{path}: its local functions cannot be inlined: {_reason(error)}",
            "export the model without functions (export_modules_as_functions=False)",
        ) from None


def _reason(error: Exception) -> str:
    """What an assertion of onnx says, without the place in its sources."""
    return str(error).split("failed: ", 1)[-1].strip().splitlines()[0]
