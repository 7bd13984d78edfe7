"""ncnn on the CPU or by Vulkan, on an int8 model that is made here as its own tools do it.

pnnx converts ONNX to ncnn's float format. Weights get a scale for each output channel, activations one each:
127 / the largest magnitude in the calibration inputs. Layers that follow each other pass codes on.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case
from benchmarks.engines import RefusedError, Run

# By name: the package lives in an environment of its own, where type checkers do not see it.
ncnn: Any = importlib.import_module("ncnn")

_FLOATS, _CODES = 0, 0x000D4B38  # marks in front of weights
_WITHOUT_WEIGHTS = {
    *("Input", "Split", "Concat", "Reshape", "Pooling", "BinaryOp"),
    *("Clip", "HardSigmoid", "HardSwish", "ReLU", "Sigmoid", "Softmax"),
}
# Layers with weights: the number of their parameter that holds the count of weights, and that says "int8".
_WEIGHTED = {"Convolution": (6, 2), "ConvolutionDepthWise": (6, 1), "InnerProduct": (2, 2)}
_OUTPUTS, _GROUPS, _INT8, _PASSES_CODES = 0, 7, 8, 100
_INPUT, _OUTPUT = "in0", "out0"


@dataclass(slots=True)
class Layer:
    """A line of a .param file, and what the .bin file has of it."""

    kind: str
    name: str
    reads: list[str]
    writes: list[str]
    parameters: dict[int, str]
    weights: Any = None
    bias: bytes = b""
    scales: list[Any] = field(default_factory=list[Any])

    def line(self) -> str:
        counts = f"{len(self.reads)} {len(self.writes)}"
        values = " ".join(f"{k}={v}" for k, v in self.parameters.items())
        return (
            " ".join([f"{self.kind:<24} {self.name:<24}", counts, *self.reads, *self.writes, values]) + "\n"
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """device: vulkan or cpu."""

    device: str

    def prepare(self, case: Case, folder: Path) -> Path:
        work = folder / f"{case.name}-ncnn"
        work.mkdir(exist_ok=True)
        shutil.copy(case.model, work / "model.onnx")
        shape = ",".join(map(str, case.timed_input.shape))
        spec = find_spec("pnnx")
        if spec is None or spec.origin is None:
            raise RefusedError("pnnx is not installed beside ncnn")
        command = [str(Path(spec.origin).parent / "pnnx"), "model.onnx", f"inputshape=[{shape}]", "fp16=0"]
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
        layers = _read(work / "model.ncnn.param", work / "model.ncnn.bin")
        _quantize(layers, _largest(work, layers, case))
        _write(layers, work / "int8.param", work / "int8.bin")
        return work / "int8.param"

    def open(self, prepared: Path, case: Case, threads: int) -> Run:
        net = _net(prepared, threads, self.device == "vulkan")
        if bool(net.opt.use_vulkan_compute) != (self.device == "vulkan"):
            raise RefusedError("ncnn does not run this model by Vulkan")
        image = np.ascontiguousarray(case.timed_input[0])

        def run() -> object:
            return np.array(_extracted(net, image, _OUTPUT))

        return run


def _net(param: Path, threads: int, vulkan: bool) -> Any:
    net = ncnn.Net()
    net.opt.use_vulkan_compute = vulkan
    net.opt.num_threads = threads
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise RefusedError(f"ncnn does not load {param.name}")
    return net


def _extracted(net: Any, image: Any, blob: str) -> Any:
    extractor = net.create_extractor()
    extractor.input(_INPUT, ncnn.Mat(image))
    failed, result = extractor.extract(blob)
    if failed:
        raise RefusedError(f"ncnn does not compute {blob}")
    return result


def _read(param: Path, binary: Path) -> list[Layer]:
    """Errors: RefusedError for a layer of another kind."""
    content, at = binary.read_bytes(), 0
    layers: list[Layer] = []
    for line in param.read_text().splitlines()[2:]:
        kind, name, read, written, *rest = line.split()
        reads, writes = rest[: int(read)], rest[int(read) : int(read) + int(written)]
        values = dict(word.split("=") for word in rest[int(read) + int(written) :])
        layer = Layer(kind, name, reads, writes, {int(k): v for k, v in values.items()})
        layers.append(layer)
        if kind in _WITHOUT_WEIGHTS:
            continue
        if kind not in _WEIGHTED or layer.parameters.get(_GROUPS, values["0"]) != values["0"]:
            raise RefusedError(f"{kind} layers ({line}) are not made int8 here")
        outputs, count = (int(layer.parameters[k]) for k in (_OUTPUTS, _WEIGHTED[kind][0]))
        assert content[at : at + 4] == bytes(4), "float weights"
        layer.weights = np.frombuffer(content, np.float32, count, at + 4).reshape(outputs, -1)
        at += 4 + 4 * count
        if layer.parameters.get(1 if kind == "InnerProduct" else 5, "0") == "1":
            layer.bias = content[at : at + 4 * outputs]
            at += 4 * outputs
    assert at == len(content)
    return layers


def _largest(work: Path, layers: list[Layer], case: Case) -> dict[str, float]:
    """Of each value that a layer with weights reads."""
    net = _net(work / "model.ncnn.param", 1, False)
    net.opt.lightmode = False
    found: dict[str, float] = {}
    for x in case.calibration[:4]:
        image = np.ascontiguousarray(x[0])
        for blob in {layer.reads[0] for layer in layers if layer.weights is not None}:
            values = np.array(_extracted(net, image, blob))
            found[blob] = max(found.get(blob, 1e-6), float(np.abs(values).max()))
    return found


def _quantize(layers: list[Layer], largest: dict[str, float]) -> None:
    for layer in layers:
        if layer.weights is None:
            continue
        scale = 127 / np.maximum(np.abs(layer.weights).max(axis=1), 1e-6)
        layer.weights = np.clip(np.round(layer.weights * scale[:, None]), -127, 127).astype(np.int8)
        layer.scales = [scale, 127 / largest[layer.reads[0]]]
        term = _WEIGHTED[layer.kind][1]
        readers = list(_readers(layers, layer.writes[0]))
        if layer.kind != "InnerProduct" and readers and all(r.weights is not None for r in readers):
            term += _PASSES_CODES
            layer.scales.append(127 / largest[readers[0].reads[0]])
        layer.parameters[_INT8] = str(term)


def _readers(layers: list[Layer], blob: str) -> Iterator[Layer]:
    """Those of copies too."""
    for layer in layers:
        if blob in layer.reads:
            if layer.kind == "Split":
                for copy in layer.writes:
                    yield from _readers(layers, copy)
            else:
                yield layer


def _write(layers: list[Layer], param: Path, binary: Path) -> None:
    blobs = sum(len(layer.writes) for layer in layers)
    param.write_text(f"7767517\n{len(layers)} {blobs}\n" + "".join(layer.line() for layer in layers))
    with binary.open("wb") as file:
        for layer in layers:
            if layer.weights is None:
                continue
            codes = layer.weights.tobytes()
            file.write(np.uint32(_CODES).tobytes() + codes + bytes(-len(codes) % 4) + layer.bias)
            for scale in layer.scales:
                file.write(np.asarray(scale, np.float32).tobytes())
