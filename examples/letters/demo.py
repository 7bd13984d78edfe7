"""The main job, from end to end: `make demo`.

Compiles letters.onnx for this computer, runs its test set through the library, compares every layer with
the interpreter, and prints one table. Exit code 1 if a layer differs in one bit, or if accuracy drops by
more than one point.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import bitloom
from benchmarks.case import Case
from benchmarks.engines.onnxruntime import Engine
from bitloom.commands.progress import shown_progress
from bitloom.commands.text import size, table
from examples.letters.render import model_input

HERE = Path(__file__).parent
OUTPUT = Path("out/letters")
LARGEST_DROP = 1.0  # points
VERIFIED, ROUNDS, CALLS = 10, 31, 200

Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one inference: median, 10th and 90th percentile of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        low, high = np.percentile(milliseconds, [10, 90])
        return cls(statistics.median(milliseconds), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.3f} ms ({self.low:.3f} to {self.high:.3f})"


def main() -> int:
    """Returns the exit code."""
    start = time.perf_counter()
    with np.load(HERE / "test.npz") as test, np.load(HERE / "calibration.npz") as stored:
        images, labels = model_input(test["images"]), test["labels"]
        calibration: Images = stored["image"]
    print("bitloom demo: letters.onnx, 26 capital letters from 32x32 pictures", file=sys.stderr)
    with shown_progress() as progress:
        artifact = bitloom.compile(
            HERE / "letters.onnx", calibration=calibration, output=OUTPUT, progress=progress
        )
        progress(f"verify every layer on {VERIFIED} pictures")
        samples = [{"image": image[None]} for image in images[:VERIFIED]]
        verdict = bitloom.verify(artifact.path, samples)
        with bitloom.load(artifact.path, threads=1) as model:
            session = onnxruntime.InferenceSession(HERE / "letters.onnx", providers=["CPUExecutionProvider"])
            progress(f"run {len(images)} test pictures")
            float_accuracy = _accuracy(lambda x: session.run(None, {"image": x}), images, labels)
            integer_accuracy = _accuracy(lambda x: model.run(None, {"image": x}), images, labels)
            progress("time three contenders by turns, one thread")
            latencies = _latencies(model, calibration)
    print(_report(float_accuracy, integer_accuracy, latencies, verdict, artifact))
    print(
        f"\ntook {time.perf_counter() - start:.0f} s; the library is in {OUTPUT}/ "
        f"(C header, static and shared library, manifest)\n"
        f"next: .venv/bin/bitloom inspect {OUTPUT}"
    )
    if not verdict.is_exact:
        print(f"FAILED: {verdict.difference}", file=sys.stderr)
    drop = 100 * (float_accuracy - integer_accuracy)
    if drop > LARGEST_DROP:
        print(f"FAILED: accuracy dropped by {drop:.2f} points", file=sys.stderr)
    return 0 if verdict.is_exact and drop <= LARGEST_DROP else 1


def _accuracy(run: Callable[[Images], Sequence[Any]], images: Images, labels: NDArray[np.uint8]) -> float:
    predicted = np.array([np.argmax(run(image[None])[0]) for image in images])
    return float(np.mean(predicted == labels))


def _latencies(model: bitloom.Model, calibration: Images) -> list[Latency]:
    """onnxruntime float32, onnxruntime int8, ours inside the library, ours with Python's call around it."""
    case = Case("letters", HERE / "letters.onnx", "image", tuple(x[None] for x in calibration))
    picture = case.timed_input
    with tempfile.TemporaryDirectory(prefix="bitloom-demo-") as name:
        engines = [Engine(precision) for precision in ("fp32", "int8")]
        runs = [each.open(each.prepare(case, Path(name)), case, threads=1) for each in engines]
        contenders: list[Callable[[], float]] = [
            *(lambda run=run: _time(run) for run in runs),
            lambda: float(np.median(model.time(picture, repeat=CALLS))) * 1e3,
            lambda: _time(lambda: model(picture)),
        ]
        rounds: list[list[float]] = [[] for _ in contenders]
        for number in range(ROUNDS):
            turn = list(zip(contenders, rounds, strict=True))
            for contender, found in turn if number % 2 == 0 else reversed(turn):
                found.append(contender())
    return [Latency.of(found) for found in rounds]


def _time(run: Callable[[], object]) -> float:
    """Median milliseconds of CALLS calls, after three to warm up."""
    for _ in range(3):
        run()
    times: list[float] = []
    for _ in range(CALLS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _report(
    float_accuracy: float,
    integer_accuracy: float,
    latencies: Sequence[Latency],
    verdict: bitloom.Verification,
    artifact: bitloom.Artifact,
) -> str:
    weights = artifact.manifest["summary"]["weight_bytes"]
    (shared,) = (p for p in artifact.path.iterdir() if p.suffix in (".so", ".dylib"))
    original = (HERE / "letters.onnx").stat().st_size
    float_time, int8_time, library_time, call_time = latencies
    exact = f"yes: {verdict.layers} values of {verdict.samples} pictures" if verdict.is_exact else "NO"
    rows = [
        ["accuracy, 1040 pictures", f"{100 * float_accuracy:.2f} %", f"{100 * integer_accuracy:.2f} %"],
        ["bytes, weights", f"{size(original)} (.onnx)", size(weights)],
        ["bytes, library", "", f"{size(shared.stat().st_size)} ({shared.name})"],
        ["latency onnxruntime fp32", str(float_time), ""],
        ["latency onnxruntime int8", "", str(int8_time)],
        ["latency ours, in C", "", str(library_time)],
        ["latency ours, from Python", "", str(call_time)],
        ["equal to the interpreter", "", exact],
    ]
    return table(["", "float", "integer"], rows)


if __name__ == "__main__":
    sys.exit(main())
