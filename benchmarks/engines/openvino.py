"""OpenVINO int8, quantized by NNCF for speed (symmetric weights, its preset `performance`)."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.engines import Run

# By name: these packages live in an environment of their own, where type checkers do not see them.
ov: Any = importlib.import_module("openvino")


@dataclass(frozen=True, slots=True)
class Engine:
    def prepare(self, case: Case, folder: Path) -> Path:
        nncf: Any = importlib.import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize(
            ov.Core().read_model(case.model),
            nncf.Dataset(list(case.calibration), lambda each: {case.input_name: each}),
            subset_size=len(case.calibration),
            preset=nncf.QuantizationPreset.PERFORMANCE,
        )
        path = folder / f"{case.name}-openvino.xml"
        ov.save_model(quantized, path)
        return path

    def open(self, prepared: Path, case: Case, threads: int) -> Run:
        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # what is not quantized: no bfloat16 behind our back
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = ov.Core().compile_model(prepared, "CPU", hints).create_infer_request()
        return lambda: request.infer({case.input_name: case.timed_input})
