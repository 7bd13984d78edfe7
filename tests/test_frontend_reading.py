"""What is said of files that are no model, or not all of one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.frontend import load_model
from compiler.ir.diagnostics import BitloomError
from tests.onnx_models import make_model, node, save

NO_PROTOBUF = (
    "m.onnx: not an ONNX model: the file is not a protobuf of ONNX's ModelProto\n"
    "hint: export the model to ONNX (torch.onnx.export, tf2onnx) and give that file"
)


def refusal(path: Path) -> str:
    with pytest.raises(BitloomError) as caught:
        load_model(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def simple() -> onnx.ModelProto:
    return make_model([node("Relu", "x", "y")], {"x": [1, 4]}, ["y"])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "m.onnx: the file is empty"),
        (b"\x00\x01\x02\x03 garbage", NO_PROTOBUF),
        (b"just some words", NO_PROTOBUF),
        (b"\x08", NO_PROTOBUF),
        (b"\x3a\xff\x01ab", NO_PROTOBUF),
        (
            b"\x1c\x00\x00\x00TFL3\x14\x00",
            "m.onnx: not an ONNX model: it looks like a TensorFlow Lite model\n"
            "hint: convert it: python -m tf2onnx.convert --tflite FILE --output FILE.onnx",
        ),
        (
            b"\n<!DOCTYPE html><html>",
            "m.onnx: not an ONNX model: it looks like an HTML or XML page\n"
            "hint: check the address that it was downloaded from",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            "m.onnx: not an ONNX model: it looks like a Git LFS pointer, not the file itself\n"
            "hint: fetch the file: git lfs pull",
        ),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert refusal(path) == text


def test_a_zip_archive_is_perhaps_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    assert refusal(path) == (
        "m.onnx: not an ONNX model: it looks like a zip archive, perhaps a PyTorch checkpoint\n"
        "hint: export it with torch.onnx.export"
    )


def test_missing_files_and_directories(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m.onnx") == "m.onnx: no such file"
    folder = tmp_path / "f"
    folder.mkdir()
    said = "f: this is a directory, not an ONNX file\nhint: "
    assert refusal(folder) == said + "give the path of an .onnx file"
    save(simple(), folder)
    assert refusal(folder) == said + "it holds m.onnx"


def test_every_cut_through_a_model_is_seen(tmp_path: Path) -> None:
    data = simple().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(3, len(data)):
        path.write_bytes(data[:length])
        text = refusal(path)
        assert text.startswith(("m.onnx: truncated ONNX model", "m.onnx: the model holds no graph")) or (
            # What follows the graph are the versions of the operators: without them a model is of opset 1.
            "opset 1 is older than 7" in text
        ), (length, text)


def test_truncation_names_the_field_and_what_is_missing(tmp_path: Path) -> None:
    data = simple().SerializeToString()
    behind = onnx.ModelProto(opset_import=simple().opset_import).SerializeToString()
    assert data.endswith(behind)
    (tmp_path / "m.onnx").write_bytes(data[:20])
    assert refusal(tmp_path / "m.onnx") == (
        f'm.onnx: truncated ONNX model: the file ends after 20 bytes inside its field "graph", '
        f"{len(data) - len(behind) - 20} bytes short\nhint: copy or download the file again"
    )


def test_damage_inside_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08\x3a\x03\xff\xff\xff")
    assert refusal(path) == (
        "m.onnx: damaged ONNX model: its protobuf cannot be decoded\nhint: copy or download the file again"
    )


def test_models_without_a_graph_or_outputs(tmp_path: Path) -> None:
    assert refusal(save(onnx.ModelProto(ir_version=8), tmp_path)) == (
        "m.onnx: the model holds no graph\nhint: export the model again"
    )
    assert refusal(save(make_model([], {"x": [1]}, []), tmp_path)) == (
        "m.onnx: the graph has no outputs\nhint: export the model again"
    )


def external(folder: Path, location: str = "w.bin") -> Path:
    proto = make_model([node("Add", "x w", "y"), node("Add", "y v", "z")], {"x": [4]}, ["z"])
    for name, offset in (("w", 0), ("v", 16)):
        tensor = proto.graph.initializer.add(name=name, data_type=1, dims=[4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", "16")):
            tensor.external_data.add(key=key, value=value)
    return save(proto, folder)


def test_missing_external_data_names_file_and_tensors(tmp_path: Path) -> None:
    assert refusal(external(tmp_path)) == (
        'm.onnx: external data is missing: w.bin (tensor "w" and 1 more)\n'
        "hint: put the data file beside the model"
    )


def test_short_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(20))
    assert refusal(external(tmp_path)) == (
        'm.onnx: external data is cut off: tensor "v" needs bytes 16 to 32 of w.bin, which has 20\n'
        "hint: copy or download the data file again"
    )


def test_external_data_stays_in_the_folder(tmp_path: Path) -> None:
    assert refusal(external(tmp_path, "../secret")) == (
        'm.onnx: tensor "w" lies in "../secret", outside of the model\'s folder\n'
        "hint: keep external data beside the model"
    )


def test_the_digest_covers_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    first = load_model(path).digest
    assert load_model(path).digest == first
    (tmp_path / "w.bin").write_bytes(bytes(32))
    assert load_model(path).digest != first


def test_opsets_that_nobody_knows(tmp_path: Path) -> None:
    proto = simple()
    proto.opset_import[0].version = 999
    newest = onnx.defs.onnx_opset_version()
    assert refusal(save(proto, tmp_path)) == (
        f"m.onnx: opset 999 is newer than {newest}, the newest that onnx {onnx.__version__} knows\n"
        f"hint: upgrade the onnx package, or export the model with opset {newest} or lower"
    )


def test_old_opsets_are_converted_where_onnx_can(tmp_path: Path) -> None:
    old = make_model([node("Relu", "x", "y")], {"x": [1, 4]}, ["y"], opset=6)
    assert load_model(save(old, tmp_path)).opset == 7
    strange = make_model([node("Nope", "x", "y")], {"x": [1, 4]}, ["y"], opset=6)
    text = refusal(save(strange, tmp_path))
    assert text.startswith("m.onnx: opset 6 is older than 7, and onnx cannot convert it: ")
    assert text.endswith("\nhint: export the model with opset 7 or higher")
