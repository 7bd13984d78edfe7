"""LiteRT with its XNNPACK delegate, on int8 files that others made: it has no converter from ONNX.

Such files take codes; the timed input is quantized once before, outside of what is timed, to the peer's
advantage.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case
from benchmarks.engines import RefusedError, Run

# By name: the package lives in an environment of its own, where type checkers do not see it.
interpreter: Any = importlib.import_module("ai_edge_litert.interpreter")


@dataclass(frozen=True, slots=True)
class Engine:
    def prepare(self, case: Case, folder: Path) -> Path:
        if case.tflite is None:
            raise RefusedError(f"no int8 .tflite file of {case.name}; converting needs TensorFlow")
        return case.tflite

    def open(self, prepared: Path, case: Case, threads: int) -> Run:
        model = interpreter.Interpreter(model_path=str(prepared), num_threads=threads)
        model.allocate_tensors()
        (source,), outputs = model.get_input_details(), model.get_output_details()
        codes = _codes(case.timed_input, source)

        def run() -> object:
            model.set_tensor(source["index"], codes)
            model.invoke()
            return [model.get_tensor(each["index"]) for each in outputs]

        return run


def _codes(values: np.ndarray[Any, np.dtype[np.float32]], port: dict[str, Any]) -> Any:
    """The input as the model takes it: channels last, and quantized where its type is integer."""
    shape = tuple(int(size) for size in port["shape"])
    if values.shape != shape:
        values = np.moveaxis(values, 1, -1).reshape(shape)
    scale, zero_point = port["quantization"]
    if not scale:
        return values.astype(port["dtype"])
    bounds = np.iinfo(port["dtype"])
    return np.clip(np.round(values / scale) + zero_point, bounds.min, bounds.max).astype(port["dtype"])
