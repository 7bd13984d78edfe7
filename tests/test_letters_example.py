"""The demonstration's committed files are what its page says, and its pictures can be rendered again."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from examples.letters.render import LETTERS, TEST_FONTS, TRAINING_FONTS, model_input, render

FOLDER = Path(__file__).parent.parent / "examples" / "letters"


def test_same_seed_renders_the_same_pictures() -> None:
    first, again, other = (render(TEST_FONTS, 60, seed) for seed in (7, 7, 8))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.images, other.images)


def test_classes_are_equally_frequent() -> None:
    labels = render(TEST_FONTS, 2 * len(TEST_FONTS) * len(LETTERS), seed=0).labels
    assert np.bincount(labels).tolist() == [2 * len(TEST_FONTS)] * len(LETTERS)


def test_every_picture_shows_something() -> None:
    images = render(TRAINING_FONTS, 200, seed=0).images
    assert images.shape == (200, 32, 32)
    assert np.ptp(images, axis=(1, 2)).min() > 40


def test_no_test_font_is_a_training_font() -> None:
    assert not set(TRAINING_FONTS) & set(TEST_FONTS)


def test_accuracy_is_what_the_page_says() -> None:
    stated = re.search(r"\*\*([0-9.]+) %\*\*", (FOLDER / "README.md").read_text())
    assert stated is not None
    session = onnxruntime.InferenceSession(FOLDER / "letters.onnx", providers=["CPUExecutionProvider"])
    with np.load(FOLDER / "test.npz") as test:
        labels = test["labels"]
        outputs = [np.asarray(session.run(None, {"image": x[None]})[0]) for x in model_input(test["images"])]
    assert np.bincount(labels, minlength=26).tolist() == [40] * 26
    accuracy = 100 * np.mean(np.concatenate(outputs).argmax(axis=1) == labels)
    # Another processor's float32 may turn a picture that lies on the edge: one in 1,040 is 0.1 point.
    assert accuracy == pytest.approx(float(stated[1]), abs=0.25)


def test_calibration_is_in_the_form_of_the_models_input() -> None:
    with np.load(FOLDER / "calibration.npz") as calibration, np.load(FOLDER / "test.npz") as test:
        inputs = calibration["image"]
        test_inputs = model_input(test["images"])
    assert inputs.dtype == np.float32
    assert inputs.shape == (104, 1, 32, 32)
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    seen = {each.tobytes() for each in inputs}
    assert not any(each.tobytes() in seen for each in test_inputs)


def test_model_holds_what_the_compiler_should_meet() -> None:
    model = onnx.load(FOLDER / "letters.onnx")
    onnx.checker.check_model(model, full_check=True)
    nodes = model.graph.node
    assert {node.op_type for node in nodes} == {
        "Add",
        "BatchNormalization",
        "Clip",
        "Conv",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "HardSwish",
        "Relu",
        "Softmax",
    }
    attributes = [
        {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        for node in nodes
        if node.op_type == "Conv"
    ]
    assert any(each["pads"] == [0, 0, 1, 1] and each["strides"] == [2, 2] for each in attributes)
    assert {24, 48, 96, 160} <= {each["group"] for each in attributes}


def test_committed_files_stay_small() -> None:
    files = [FOLDER / name for name in ("letters.onnx", "test.npz", "calibration.npz")]
    assert sum(file.stat().st_size for file in files) < 2_000_000
