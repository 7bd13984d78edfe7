"""bitloom.verify: does what was compiled compute what the interpreter says, bit for bit?"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitloom.library_files import IR_SUFFIX
from bitloom.loading import Model, load
from compiler.interpreter import run
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.numerics.element import Array, ElementType
from compiler.ops import OPS
from compiler.ops.edge import Quantize
from sim.stream import StreamError
from targets.streams.model import NpuModel, manifest_of, read_model
from targets.streams.running import check_streams, run_model

_Pairs = Callable[[Mapping[str, Array]], Iterator[tuple[str, Array, Array]]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of one sample: which layer, how many elements, and the first of them."""

    sample: int
    value: str
    layer: str
    operator: str
    differing: int
    elements: int
    index: tuple[int, ...]
    expected: float
    found: float

    def __str__(self) -> str:
        return (
            f'sample {self.sample}: "{self.value}" ({self.operator}, layer {self.layer}) differs in '
            f"{self.differing} of {self.elements} elements; first at {list(self.index)}: "
            f"interpreter {self.expected:g}, library {self.found:g}"
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on one variant. layers: compared for each sample (outputs alone where not asked layer by
    layer)."""

    variant: str
    samples: int
    layers: int
    difference: Difference | None

    @property
    def is_exact(self) -> bool:
        return self.difference is None

    def __bool__(self) -> bool:
        return self.is_exact


def read_graph(folder: Path) -> Graph:
    """The quantized graph that a library was made from.

    Errors: BitloomError where the folder holds none, or several.
    """
    found = sorted(folder.glob(f"*{IR_SUFFIX}")) if folder.is_dir() else []
    if len(found) != 1:
        raise BitloomError(
            f"{folder} holds {len(found)} quantized graphs (*{IR_SUFFIX})",
            "give the folder that `bitloom compile -o` wrote",
        )
    try:
        text = gzip.decompress(found[0].read_bytes()).decode()
    except (OSError, EOFError) as error:
        raise BitloomError(f"{found[0]} is damaged: {error}", "compile the model again") from error
    return parse_graph(text, OPS)


def verify(
    path: str | Path,
    inputs: Iterable[Mapping[str, Array]] | None = None,
    *,
    samples: int = 3,
    layers: bool = True,
    threads: int = 0,
    seed: int = 0,
    runner: str = "local",
    variant: str | None = None,
) -> Verification:
    """Runs the library in folder `path` and the interpreter on the same inputs, and stops at the first
    difference.

    inputs: {name: float32 array} per sample; drawn at random over each input's whole range if left out.
    layers: compare every layer's codes (True) or the outputs alone.
    runner, variant: where the library runs and which of its variants, as for `load`.
    """
    graph = read_graph(Path(path))
    chosen = list(inputs) if inputs is not None else list(random_inputs(graph, samples, seed))
    compared = 0
    with _pairs_of(Path(path), graph, layers, threads, runner, variant) as (ran, pairs_of):
        for index, sample in enumerate(chosen):
            pairs = pairs_of(sample)
            compared = 0
            for name, expected, found in pairs:
                compared += 1
                difference = _difference(graph, index, name, expected, found)
                if difference is not None:
                    return Verification(ran, index + 1, compared, difference)
        return Verification(ran, len(chosen), compared, None)


@contextmanager
def _pairs_of(
    path: Path, graph: Graph, layers: bool, threads: int, runner: str, variant: str | None
) -> Generator[tuple[str, _Pairs]]:
    """Which variant runs, and what is compared for one sample: (value, expected, found)."""
    if manifest_of(path) is not None:
        network = read_model(path)
        try:
            check_streams(network)
            yield network.config.name, lambda sample: _simulated(graph, network, sample, layers)
        except StreamError as error:  # also of what runs inside of `with`
            raise BitloomError(f"{path}: {error}", "compile the model again") from error
        return
    with load(path, threads, runner, variant) as model:
        yield model.variant, lambda sample: (_layers if layers else _outputs)(graph, model, sample)


def _simulated(
    graph: Graph, network: NpuModel, sample: Mapping[str, Array], layers: bool
) -> Iterator[tuple[str, Array, Array]]:
    """Each value as soon as it is whole, host and NPU alike, then the outputs."""
    expected: dict[str, Array] = {}
    found: dict[str, Array] = {}
    results = run(graph, sample, lambda value, array: expected.update({value.name: array}))
    outputs = run_model(network, sample, lambda name, array: found.update({name: array}))
    if layers:
        for name, array in found.items():
            yield name, expected[name], array
    for name, array in outputs.items():
        yield name, results[name], array


def random_inputs(graph: Graph, samples: int, seed: int) -> Iterator[dict[str, Array]]:
    """Uniform over the range of each input's codes, and a little beyond, so that clamping is exercised."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield {v.name: _random_array(graph, v.name, rng) for v in graph.inputs}


def _random_array(graph: Graph, name: str, rng: np.random.Generator) -> Array:
    value = next(v for v in graph.inputs if v.name == name)
    element = value.type.element
    if element is not ElementType.F32:
        return rng.integers(element.low, element.high + 1, value.type.shape).astype(element.dtype)
    low, high = -1.0, 1.0
    for node, _ in value.uses:
        if isinstance(node.op, Quantize):
            to = node.op.to
            low = (to.element.low - to.zero_point) * to.scale
            high = (to.element.high - to.zero_point) * to.scale
    margin = 0.02 * (high - low)
    return rng.uniform(low - margin, high + margin, value.type.shape).astype(np.float32)


def _outputs(graph: Graph, model: Model, sample: Mapping[str, Array]) -> Iterator[tuple[str, Array, Array]]:
    expected = run(graph, sample)
    found = model.run(None, sample)
    for port, array in zip(model.outputs, found, strict=True):
        yield port.name, expected[port.name], array


def _layers(graph: Graph, model: Model, sample: Mapping[str, Array]) -> Iterator[tuple[str, Array, Array]]:
    """Each layer in the order of execution, then the outputs of an undivided run."""
    expected: dict[str, Array] = {}
    run(graph, sample, lambda value, array: expected.update({value.name: array}))
    for step, array in model.layers(sample):
        name = step.label.split(":", 1)[1]
        yield name, expected[name], array
    yield from _outputs(graph, model, sample)


def _difference(graph: Graph, sample: int, name: str, expected: Array, found: Array) -> Difference | None:
    # Bits, not values: -0.0 and NaN count as what they are.
    unequal = expected.reshape(-1).view(_bits(expected)) != found.reshape(-1).view(_bits(found))
    if not unequal.any():
        return None
    flat = int(unequal.argmax())
    index = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    value = next(v for v in graph.values() if v.name == name)
    assert value.producer is not None
    return Difference(
        sample,
        name,
        str(value.producer.location),
        value.producer.op.mnemonic,
        int(unequal.sum()),
        expected.size,
        index,
        float(expected.reshape(-1)[flat]),
        float(found.reshape(-1)[flat]),
    )


def _bits(array: Array) -> str:
    return f"u{array.dtype.itemsize}"


def verdict_lines(result: Verification, names: Sequence[str], variants: Sequence[str]) -> list[str]:
    """The verdict for people. variants: all that the library holds."""
    if result.difference is not None:
        lines = [f"DIFFERENT: {result.difference}"]
    else:
        what = f"{result.layers} layers" if result.layers > len(names) else "the outputs"
        lines = [f"exact: {what} of {result.samples} samples are equal to the interpreter, bit for bit"]
    others = [name for name in variants if name != result.variant]
    if others:
        lines.append(f"variant {result.variant}; not run: {', '.join(others)} (--variant NAME)")
    return lines
