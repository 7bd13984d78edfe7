"""Who is timed. A contender prepares a model once (quantizes, compiles), then opens it per thread count."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.cases import Case

Run = Callable[[], object]
"""One inference of the case's timed input, numpy in and numpy out."""

Open = Callable[[int], Run]
"""Loads the prepared model for a number of threads."""


@dataclass(frozen=True, slots=True)
class Contender:
    """prepare takes the case and a folder for what it writes."""

    label: str
    prepare: Callable[[Case, Path], Open]


def ours(case: Case, folder: Path) -> Open:
    import bitloom

    artifact = bitloom.compile(
        case.model, target="host", calibration=list(case.calibration), output=folder / f"{case.name}-bitloom"
    )

    def open_model(threads: int) -> Run:
        model = bitloom.load(artifact.path, threads=threads)
        return lambda: model(case.timed_input)

    return open_model


def onnxruntime_float(case: Case, folder: Path) -> Open:
    return _onnxruntime(case, case.model)


def onnxruntime_int8(case: Case, folder: Path) -> Open:
    """QDQ, uint8 activations and int8 weights per channel: onnxruntime's fastest form on x86."""
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
    return _onnxruntime(case, quantized)


OURS = Contender("bitloom", ours)
PEERS = (
    Contender("onnxruntime int8", onnxruntime_int8),
    Contender("onnxruntime fp32", onnxruntime_float),
)


def _onnxruntime(case: Case, model: Path) -> Open:
    def open_model(threads: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {case.input_name: case.timed_input})

    return open_model


class Calibration(CalibrationDataReader):
    def __init__(self, case: Case) -> None:
        self._feeds = iter([{case.input_name: each} for each in case.calibration])

    def get_next(self) -> Any:
        """None ends the calibration: onnxruntime's convention."""
        return next(self._feeds, None)
