"""Calibration samples in all their forms, and the float model's tensors by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compiler.frontend import Model, load_model
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.ir.types import f32
from compiler.quantize.calibration_run import read_calibration, tensor_stream
from tests.onnx_models import make_model, node

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 3, 4)).astype(np.float32)


def graph(**inputs: tuple[int, ...]) -> Graph:
    g = Graph("g")
    for name, shape in inputs.items():
        g.add_input(name, f32(*shape))
    return g


ONE = {"x": (1, 3, 4)}
TWO = {"x": (1, 3, 4), "m": (1, 2)}


@pytest.mark.parametrize(
    "source",
    [
        IMAGES,
        {"x": IMAGES},
        [IMAGES[:2], IMAGES[2:]],
        [image[None] for image in IMAGES],
        ({"x": image[None]} for image in IMAGES),
        [IMAGES.astype(np.float64)],
    ],
)
def test_all_forms_of_samples_are_the_same_samples(source: Any) -> None:
    samples = read_calibration(source, graph(**ONE))
    assert [sample.keys() for sample in samples] == [{"x"}] * 5
    np.testing.assert_array_equal(np.concatenate([sample["x"] for sample in samples]), IMAGES)
    assert all(sample["x"].dtype == np.float32 for sample in samples)


def test_files_with_names_and_without(tmp_path: Path) -> None:
    masks = RNG.normal(size=(5, 2)).astype(np.float32)
    np.savez(tmp_path / "named.npz", m=masks, x=IMAGES)
    np.savez(tmp_path / "ordered.npz", IMAGES, masks)
    np.save(tmp_path / "one.npy", IMAGES)
    for file in ("named.npz", "ordered.npz"):
        samples = read_calibration(tmp_path / file, graph(**TWO))
        assert len(samples) == 5
        np.testing.assert_array_equal(samples[3]["m"], masks[3:4])
        np.testing.assert_array_equal(samples[3]["x"], IMAGES[3:4])
    assert len(read_calibration(str(tmp_path / "one.npy"), graph(**ONE))) == 5


def test_a_batch_of_several_is_one_sample() -> None:
    samples = read_calibration(np.zeros((6, 3, 4), np.float32), graph(x=(2, 3, 4)))
    assert [sample["x"].shape for sample in samples] == [(2, 3, 4)] * 3


NAN = IMAGES.copy()
NAN[3, 0, :2] = np.nan
NAN[3, 1, 1] = np.inf


@pytest.mark.parametrize(
    ("source", "inputs", "text"),
    [
        (
            {"image": IMAGES},
            ONE,
            'calibration: no input is called "image", and nothing is given for "x"\nhint: inputs: x [1,3,4]',
        ),
        (
            {"x": IMAGES},
            TWO,
            'calibration: nothing is given for "m"\nhint: inputs: x [1,3,4], m [1,2]',
        ),
        (
            IMAGES,
            TWO,
            "calibration: one array without a name, but the model has 2 inputs\n"
            "hint: give dictionaries with the inputs x [1,3,4], m [1,2]",
        ),
        (
            {"x": IMAGES, "m": np.zeros((4, 2), np.float32)},
            TWO,
            'calibration: the inputs have different numbers of samples: 5 for "x", 4 for "m"',
        ),
        (
            list(IMAGES),
            ONE,
            'calibration: input "x" wants the shape [1,3,4], not [3,4]\n'
            "hint: a leading axis that is a multiple of the model's is split into samples",
        ),
        (
            IMAGES,
            {"x": (2, 3, 4)},
            'calibration: input "x" wants the shape [2,3,4], not [5,3,4]\n'
            "hint: a leading axis that is a multiple of the model's is split into samples",
        ),
        (
            IMAGES.astype(np.uint8),
            ONE,
            'calibration: input "x" wants float32, not uint8\n'
            "hint: convert it as the model expects it: array.astype(numpy.float32)",
        ),
        (
            [IMAGES, NAN],
            ONE,
            'calibration: input "x", sample 8: 3 of 12 numbers are not finite (2 NaN, 1 infinite)\n'
            "hint: remove the sample, or mend how it is made",
        ),
        (
            IMAGES.astype(np.float64) * 1e300,
            ONE,
            'calibration: input "x", sample 0: 12 of 12 numbers are not finite (0 NaN, 12 infinite)\n'
            "hint: remove the sample, or mend how it is made",
        ),
        ([], ONE, "calibration: there are no samples\nhint: give at least one; a hundred are better"),
        (IMAGES[:0], ONE, "calibration: there are no samples\nhint: give at least one; a hundred are better"),
        ("nowhere.npz", ONE, "calibration nowhere.npz: cannot be read: No such file or directory"),
    ],
)
def test_samples_that_do_not_fit(source: Any, inputs: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(BitloomError) as caught:
        read_calibration(source, graph(**inputs))
    assert str(caught.value) == text


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY"])
def test_files_that_hold_no_arrays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(BitloomError) as caught:
        read_calibration(path, graph(**ONE))
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "calibration c.npz: not an .npz file of arrays\nhint: write it with numpy.savez(path, input=array)"
    )


def chain() -> onnx.ModelProto:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("Neg", "b", "y")]
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    return make_model(nodes, {"x": ["N", 4]}, ["y"], {"w": weight})


def test_inner_tensors_inputs_and_outputs_are_seen_for_each_sample(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(chain(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    samples = [{"x": RNG.normal(size=(1, 4)).astype(np.float32)} for _ in range(3)]
    model = load_model(path)
    seen = list(tensor_stream(model, ["y", "a", "x", "a"], samples))
    assert [list(tensors) for tensors in seen] == [["y", "a", "x"]] * 3
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    for tensors, sample in zip(seen, samples, strict=True):
        np.testing.assert_array_equal(tensors["x"], sample["x"])
        np.testing.assert_allclose(tensors["a"], sample["x"] @ weight, rtol=1e-5)
        np.testing.assert_array_equal(tensors["y"], -np.maximum(tensors["a"], 0))
    assert [o.name for o in model.proto.graph.output] == ["y"]


def test_what_onnxruntime_refuses_is_told_of_the_model() -> None:
    proto = make_model([node("Nope", "x", "y")], {"x": [1]}, ["y"])
    with pytest.raises(BitloomError, match=r"m\.onnx: onnxruntime cannot run the model"):
        next(tensor_stream(Model(Path("m.onnx"), proto), ["y"], [{"x": np.zeros(1, np.float32)}]))
