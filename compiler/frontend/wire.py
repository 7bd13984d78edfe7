"""What the bytes of a file are, judged without protobuf: an ONNX model, a part of one, or something else."""

from __future__ import annotations

from pathlib import Path

from compiler.ir.diagnostics import BitloomError

# (offset, bytes there, what such a file is, what to do)
_SIGNATURES = (
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model",
        "convert it: python -m tf2onnx.convert --tflite FILE --output FILE.onnx",
    ),
    (4, b"ORTM", "an onnxruntime ORT model", "use the .onnx file that it was made from"),
    (0, b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", "export it with torch.onnx.export"),
    (0, b"\x80\x02", "a Python pickle, perhaps a PyTorch checkpoint", "export it with torch.onnx.export"),
    (0, b"\x89HDF", "an HDF5 file, perhaps a Keras model", "convert it with tf2onnx"),
    (0, b"GGUF", "a GGUF model", "use an ONNX export of the model"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (0, b"<", "an HTML or XML page", "check the address that it was downloaded from"),
    (0, b"{", "a JSON text", "give the binary .onnx file"),
)

# Field numbers of ModelProto: their wire types (0 varint, 2 length-delimited) and names.
_VARINT, _BYTES = 0, 2
_FIELDS = {
    1: (_VARINT, "ir_version"),
    2: (_BYTES, "producer_name"),
    3: (_BYTES, "producer_version"),
    4: (_BYTES, "domain"),
    5: (_VARINT, "model_version"),
    6: (_BYTES, "doc_string"),
    7: (_BYTES, "graph"),
    8: (_BYTES, "opset_import"),
    14: (_BYTES, "metadata_props"),
    20: (_BYTES, "training_info"),
    25: (_BYTES, "functions"),
    26: (_BYTES, "configuration"),
}


class _EndOfFileError(Exception):
    pass


def read_checked(path: Path) -> bytes:
    """The file's bytes. Errors: BitloomError where it cannot be read; those of `check_onnx`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BitloomError(f"{path}: no such file") from None
    except IsADirectoryError:
        found = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"it holds {', '.join(found)}" if found else "give the path of an .onnx file"
        raise BitloomError(f"{path}: this is a directory, not an ONNX file", hint) from None
    except OSError as error:
        raise BitloomError(f"{path}: cannot be read: {error.strerror}") from None
    check_onnx(path, data)
    return data


def check_onnx(path: Path, data: bytes) -> None:
    """Walks over the top-level fields of a ModelProto.

    Errors: BitloomError that says what the file looks like, or where it was cut off.
    """
    if not data:
        raise BitloomError(f"{path}: the file is empty")
    for offset, signature, description, hint in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature or (
            offset == 0 and data[:64].lstrip().startswith(signature)
        ):
            raise BitloomError(f"{path}: not an ONNX model: it looks like {description}", hint)
    position, recognised = 0, False
    while position < len(data):
        start, name = position, ""
        try:
            tag, position = _varint(data, position)
            wire, name = _FIELDS.get(tag >> 3, (-1, ""))
            if tag & 7 != wire:
                raise _not_onnx(path)
            length, position = _varint(data, position)
        except _EndOfFileError:
            raise (_truncated(path, data, name) if recognised else _not_onnx(path)) from None
        if wire == _BYTES:
            position += length
        if position > len(data):
            raise _truncated(path, data, name, position) if recognised else _not_onnx(path)
        # A model starts with its IR version; no other file starts with that field and a small number.
        recognised = recognised or (start == 0 and tag == 8 and length < 256)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Value and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _EndOfFileError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, position


def _not_onnx(path: Path) -> BitloomError:
    return BitloomError(
        f"{path}: not an ONNX model: the file is not a protobuf of ONNX's ModelProto",
        "export the model to ONNX (torch.onnx.export, tf2onnx) and give that file",
    )


def _truncated(path: Path, data: bytes, field: str, wanted: int | None = None) -> BitloomError:
    where = f' inside its field "{field}"' if field else ""
    missing = "" if wanted is None else f", {wanted - len(data)} bytes short"
    return BitloomError(
        f"{path}: truncated ONNX model: the file ends after {len(data)} bytes{where}{missing}",
        "copy or download the file again",
    )
