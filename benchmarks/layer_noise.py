"""Where the noise comes from: signal-to-noise ratio of every tensor of a quantized model.

python -m benchmarks.layer_noise mbv1_025_224

Each tensor of the quantized graph (interpreter) is compared with the same tensor of the float graph, on a few
evaluation inputs. `own` rounds the float tensor to its type and nothing else: where it is far above `all`,
the noise was inherited; where it is near, the tensor's own range is to blame.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import bitloom
from benchmarks.accuracy import Labelled, load_labelled
from benchmarks.cases import CaseError
from bitloom.verification import read_graph
from compiler.driver import import_float
from compiler.interpreter import run
from compiler.ir.graph import Graph, Value
from compiler.numerics.element import Array
from compiler.numerics.quantization import QuantizedType, dequantize_array, quantize_array
from compiler.quantize.observers import OBSERVERS


@dataclass(slots=True)
class Energy:
    """Sums of squares of a tensor, and of its differences."""

    signal: float = 0.0
    noise: float = 0.0
    own_noise: float = 0.0

    def add(self, exact: Array, found: Array, rounded: Array) -> None:
        self.signal += float(np.sum(np.square(exact, dtype=np.float64)))
        self.noise += float(np.sum((found - exact) ** 2))
        self.own_noise += float(np.sum((rounded - exact) ** 2))

    def decibels(self) -> tuple[float, float]:
        """With all noise, and with its own alone."""
        with np.errstate(divide="ignore"):
            ratios = np.float64(self.signal) / np.array([self.noise, self.own_noise])
            return float(10 * np.log10(ratios[0])), float(10 * np.log10(ratios[1]))


@dataclass(slots=True)
class Comparison:
    """By tensor name, in the order of the quantized graph."""

    energies: dict[str, Energy] = field(default_factory=dict[str, Energy])
    values: dict[str, Value] = field(default_factory=dict[str, Value])


def compare_layers(exact: Graph, quantized: Graph, samples: Sequence[dict[str, Array]]) -> Comparison:
    """Tensors that both graphs have, by name, as codes in the second."""
    result = Comparison()
    for sample in samples:
        reals: dict[str, Array] = {}
        run(exact, sample, lambda value, array, into=reals: into.update({value.name: array}))

        def observe(value: Value, array: Array, reals: dict[str, Array] = reals) -> None:
            name = value.name.removesuffix(".codes")
            if not value.type.is_quantized or name not in reals or reals[name].shape != array.shape:
                return
            energy = result.energies.setdefault(name, Energy())
            result.values[name] = value
            real, of = reals[name], value.type.codes
            energy.add(real, dequantize_array(array, of), rounded(real, of))

        run(quantized, sample, observe)
    return result


def rounded(real: Array, of: QuantizedType) -> Array:
    """`real` to codes and back."""
    return dequantize_array(quantize_array(real, of), of)


def lines(case: Labelled, count: int, observer: str) -> list[str]:
    """The table: a row per tensor."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = bitloom.compile(
            case.model, calibration=list(case.calibration), output=Path(folder) / "out", observer=observer
        )
        quantized = read_graph(artifact.path)
    samples = [{case.input_name: x} for x in case.evaluation[:count]]
    found = compare_layers(import_float(case.model).graph, quantized, samples)
    table = [f"{'all dB':>7} {'own dB':>7}  {'type':30} {'operator':16} layer"]
    for name, energy in found.energies.items():
        everything, own = energy.decibels()
        value = found.values[name]
        assert value.producer is not None
        q = value.type.codes
        type_ = f"{q.element.value} s={q.scale:.4g} z={q.zero_point}"
        where = " + ".join(value.producer.location.names)
        table.append(f"{everything:7.1f} {own:7.1f}  {type_:30} {value.producer.op.mnemonic:16} {where}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="letters, or a model of the zoo")
    parser.add_argument("--observer", choices=list(OBSERVERS), default="minmax")
    parser.add_argument("--count", type=int, default=4, help="evaluation inputs (default: 4)")
    arguments = parser.parse_args()
    try:
        print("\n".join(lines(load_labelled(arguments.model), arguments.count, arguments.observer)))
    except (CaseError, bitloom.BitloomError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
