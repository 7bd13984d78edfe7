"""What is timed: models with calibration inputs, by path or by name."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.case import Case
from benchmarks.networks import IMAGE_SHAPE, resnet50

CALIBRATION_COUNT = 16  # enough to set the ranges of a model that is only timed
SEED = 0
ZOO_VARIABLE = "BITLOOM_ZOO"


class CaseError(Exception):
    """What was asked for cannot be measured here; the message says what, why and what can."""


def load_case(name: str, folder: Path) -> Case:
    """name: `resnet50`, a path that ends in .onnx, or a model of the zoo. folder takes generated models."""
    if name == "resnet50":
        path = folder / "resnet50.onnx"
        resnet50(path, SEED)
        return Case(name, path, "image", _noise(IMAGE_SHAPE))
    if name.endswith(".onnx"):
        return _from_file(Path(name))
    return _from_zoo(name)


def _from_file(path: Path) -> Case:
    """A model of one float32 input of static shape, fed with noise: values hardly change a network's time."""
    if not path.is_file():
        raise CaseError(f"{path}: no such file")
    inputs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    static = len(inputs) == 1 and all(isinstance(size, int) for size in inputs[0].shape)
    if not static or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise CaseError(f"{path}: needs exactly one float32 input of static shape, has {found}")
    return Case(path.stem, path, inputs[0].name, _noise(tuple(inputs[0].shape)))


def _from_zoo(name: str) -> Case:
    found = load_from_zoo(name)
    calibration = tuple(found.calibration[:CALIBRATION_COUNT])
    return Case(name, found.model, found.input_name, calibration, _tflite_of(name))


def _tflite_of(name: str) -> Path | None:
    """The zoo's int8 file of the same network: `ad01_int8.tflite` is that of `ad01_autoencoder`."""
    folder = Path(os.environ[ZOO_VARIABLE]) / "tflite"
    found = sorted(folder.glob("*_int8.tflite"))
    return next((p for p in found if name.startswith(p.name.removesuffix("_int8.tflite"))), None)


def load_from_zoo(name: str) -> Any:
    """The zoo's own record: model, input_name, calibration, evaluation, labels (None where it has none).

    Errors: CaseError where there is no zoo, or where it has no such model.
    """
    folder = os.environ.get(ZOO_VARIABLE)
    if folder is None:
        raise CaseError(f"{name}: not resnet50, no .onnx path, and {ZOO_VARIABLE} names no folder of models")
    source = Path(folder) / "zoo.py"
    spec = importlib.util.spec_from_file_location("bitloom_zoo", source)
    if spec is None or spec.loader is None or not source.is_file():
        raise CaseError(f"{name}: {ZOO_VARIABLE} is {folder}, which holds no zoo.py")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    known: tuple[str, ...] = zoo.NAMES
    if name not in known:
        raise CaseError(f"{name}: unknown model; known are resnet50, {', '.join(known)}, and .onnx paths")
    load: Callable[[str], Any] = zoo.load
    return load(name)


def _noise(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng(SEED)
    return tuple(random.standard_normal(shape, np.float32) for _ in range(CALIBRATION_COUNT))
