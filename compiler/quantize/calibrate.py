"""Ranges of all values of a float graph over the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from compiler.interpreter import run
from compiler.ir.graph import Graph, Value
from compiler.numerics.element import Array, ElementType
from compiler.quantize.observers.base import Observer, Range

Sample = Mapping[str, Array]
# For each sample the named tensors of the original model: see `onnxruntime_tensors.tensor_stream`.
TensorStream = Callable[[Iterable[str], Iterable[Sample]], Iterable[Mapping[str, Array]]]


def calibrate(
    graph: Graph,
    samples: Iterable[Sample],
    stream: TensorStream,
    observer: Callable[[], Observer],
    element: ElementType,
) -> dict[Value, Range]:
    """The range of every input and every computed value.

    Values that the original model has too (`Value.source`) are observed as onnxruntime computes them; the
    few that a pass has added are computed by the interpreter. One pass over the samples, one in memory.
    """
    computed = [v for v in graph.values() if v.constant is None]
    observers: dict[str, Observer] = {v.source: observer() for v in computed if v.source is not None}
    added: dict[Value, Observer] = {v: observer() for v in computed if v.source is None}
    samples = list(samples)
    for sample, tensors in zip(samples, stream(list(observers), samples), strict=True):
        for name, watching in observers.items():
            watching.observe(np.asarray(tensors[name]))
        if added:
            run(graph, sample, lambda value, array: _observe(added, value, array))
    return {v: (added[v] if v.source is None else observers[v.source]).range(element) for v in computed}


def _observe(observers: Mapping[Value, Observer], value: Value, array: Array) -> None:
    if value in observers:
        observers[value].observe(array)
