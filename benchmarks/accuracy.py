"""Accuracy of the integer library against the float model: top-1, and the noise in the outputs.

python -m benchmarks.accuracy letters ic_resnet8 --observer minmax percentile

Float is onnxruntime on the evaluation inputs; ours is the compiled library, or with --interpreter the oracle
that it equals bit for bit. Models of the zoo need BITLOOM_ZOO. Pictures are few (the standard error of 200
is some 3 points), so that drops matter, and the share of inputs on which both agree, not top-1 itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import bitloom
from benchmarks.cases import CaseError, load_from_zoo
from bitloom.verification import read_graph
from compiler.interpreter import run
from compiler.quantize.observers import OBSERVERS

Array = NDArray[np.float32]
Infer = Callable[[Array], list[Array]]
LETTERS = Path(__file__).parent.parent / "examples" / "letters"
MODELS = (
    "letters",
    "squeezenet1_1",
    "mbv2_100_224_deq",
    "mbv1_025_224",
    "ic_resnet8",
    "kws_dscnn",
    "mnist_cntk",
)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A model with inputs of one run each. labels: the right class of each evaluation input, or None."""

    name: str
    model: Path
    input_name: str
    calibration: Sequence[Array]
    evaluation: Sequence[Array]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Result:
    """correct_*: number of right answers. agree: equal answers. sqnr_db: of all outputs together."""

    inputs: int
    correct_float: int | None
    correct_ours: int | None
    agree: int
    sqnr_db: float

    @property
    def drop(self) -> float | None:
        """Points of top-1 lost."""
        if self.correct_float is None or self.correct_ours is None:
            return None
        return 100 * (self.correct_float - self.correct_ours) / self.inputs


def load_labelled(name: str) -> Labelled:
    """`letters`, or a model of the zoo. Errors: CaseError."""
    if name != "letters":
        found = load_from_zoo(name)
        return Labelled(
            name, found.model, found.input_name, found.calibration, found.evaluation, found.labels
        )
    with np.load(LETTERS / "calibration.npz") as calibration, np.load(LETTERS / "test.npz") as test:
        images = (test["images"] / 255).astype(np.float32)[:, None, None]
        return Labelled(
            name,
            LETTERS / "letters.onnx",
            "image",
            list(calibration["image"][:, None]),
            list(images),
            test["labels"].astype(np.int64),
        )


def float_outputs(case: Labelled, inputs: Sequence[Array]) -> list[list[Array]]:
    """What onnxruntime computes in float32."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    return [[np.asarray(y) for y in session.run(None, {case.input_name: x})] for x in inputs]


def sqnr_db(reference: Sequence[Array], found: Sequence[Array]) -> float:
    """10 log10 of the energy of `reference` over that of the difference; infinity where they are equal."""
    pairs = [(np.asarray(r, np.float64), np.asarray(f)) for r, f in zip(reference, found, strict=True)]
    signal = sum(float(np.sum(r**2)) for r, _ in pairs)
    noise = sum(float(np.sum((r - f) ** 2)) for r, f in pairs)
    return float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))


def compare(case: Labelled, expected: Sequence[list[Array]], infer: Infer) -> Result:
    """Runs `infer` on the inputs for which `expected` has the outputs."""
    found = [infer(x) for x in case.evaluation[: len(expected)]]
    best_float = np.array([int(np.argmax(e[0])) for e in expected])
    best_ours = np.array([int(np.argmax(f[0])) for f in found])
    labels = None if case.labels is None else case.labels[: len(expected)]
    return Result(
        len(expected),
        None if labels is None else int(np.sum(best_float == labels)),
        None if labels is None else int(np.sum(best_ours == labels)),
        int(np.sum(best_float == best_ours)),
        sqnr_db([y for e in expected for y in e], [y for f in found for y in f]),
    )


def compiled(case: Labelled, folder: Path, arguments: argparse.Namespace, observer: str) -> Infer:
    """One inference of the case compiled for the host, by library or interpreter."""
    artifact = bitloom.compile(
        case.model,
        calibration=list(case.calibration),
        output=folder / f"{case.name}-{observer}",
        weights=arguments.weights,
        activations=arguments.activations,
        observer=observer,
        budget=arguments.budget,
        progress=lambda stage, *_counts: _progress(f"{case.name} {observer}: {stage}"),
    )
    if not arguments.interpreter:
        model = bitloom.load(artifact.path, threads=1)
        return lambda x: [np.asarray(y) for y in model.run(None, {case.input_name: x})]
    graph = read_graph(artifact.path)
    return lambda x: list(run(graph, {case.input_name: x}).values())


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """The table, a line at a time, as results come."""
    titles = f"{'float %':>8} {'ours %':>8} {'drop':>6} {'agree %':>8} {'SQNR dB':>8}"
    yield f"{'model':18} {'observer':15} {'inputs':>6} {titles}"
    for name in arguments.models:
        case = load_labelled(name)
        expected = float_outputs(case, case.evaluation[: arguments.count])
        for observer in arguments.observer:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                result = compare(case, expected, compiled(case, Path(folder), arguments, observer))
                _progress(f"{name} {observer}: {time.perf_counter() - start:.1f} s")
            yield _row(name, observer, result)


def _row(name: str, observer: str, r: Result) -> str:
    def percent(count: int | None) -> str:
        return "-" if count is None else f"{100 * count / r.inputs:.2f}"

    drop = "-" if r.drop is None else f"{r.drop:.2f}"
    return (
        f"{name:18} {observer:15} {r.inputs:6d} {percent(r.correct_float):>8} {percent(r.correct_ours):>8} "
        f"{drop:>6} {percent(r.agree):>8} {r.sqnr_db:8.1f}"
    )


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--observer", nargs="+", choices=list(OBSERVERS), default=["minmax"])
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--activations", default="int8")
    parser.add_argument("--budget", help="narrows weights by sensitivity: size<=60%%")
    parser.add_argument("--count", type=int, help="evaluation inputs; all if left out")
    parser.add_argument("--interpreter", action="store_true", help="run the oracle instead of the library")
    try:
        for line in rows(parser.parse_args()):
            print(line, flush=True)
    except (CaseError, bitloom.BitloomError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
