"""onnxruntime: float32, or int8 as QDQ with uint8 activations and int8 weights per channel, its fastest
form on x86."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.case import Case
from benchmarks.engines import Run


@dataclass(frozen=True, slots=True)
class Engine:
    """precision: int8 or fp32."""

    precision: str

    def prepare(self, case: Case, folder: Path) -> Path:
        if self.precision == "fp32":
            return case.model
        clean, quantized = folder / f"{case.name}-clean.onnx", folder / f"{case.name}-int8.onnx"
        # Symbolic shapes matter to dynamic shapes alone, and would need sympy.
        quant_pre_process(case.model, clean, skip_symbolic_shape=True)
        quantize_static(
            clean,
            quantized,
            Calibration(case),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return quantized

    def open(self, prepared: Path, case: Case, threads: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(prepared, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {case.input_name: case.timed_input})


class Calibration(CalibrationDataReader):
    def __init__(self, case: Case) -> None:
        self._feeds = iter([{case.input_name: each} for each in case.calibration])

    def get_next(self) -> Any:
        """None ends the calibration: onnxruntime's convention."""
        return next(self._feeds, None)
