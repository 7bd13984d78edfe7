"""The widths that meet a budget: what layers cost and how they suffer, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.numerics.element import ElementType
from compiler.numerics.quantization import QuantizedType
from compiler.ops.convolution import Conv2D
from compiler.ops.dense import Dense
from compiler.passes.base import Notes, run_pass
from compiler.passes.pipeline import INTEGER_PASSES
from compiler.quantize.bit_widths import BitWidthChoice, Cost, choose_bit_widths, width_candidates
from compiler.quantize.budget import Budget, Metric
from compiler.quantize.calibrate import Sample
from compiler.quantize.layers import Layer, contraction_layers
from compiler.quantize.quantize_graph import WeightWidths, quantize_graph, weight_bytes
from compiler.quantize.sensitivity import measure_sensitivity, spread_samples

Progress = Callable[[str, int, int], None]


@runtime_checkable
class CountsCycles(Protocol):
    """A target that says without a device how long a network takes."""

    def cycles(self, graph: Graph) -> Mapping[str, float]:
        """Cycles of a verified quantized graph, by the first ONNX node of each layer; they sum to the whole.

        Errors: BitloomError where the device cannot hold it.
        """
        ...


@dataclass(frozen=True, slots=True)
class WidthChoice:
    """The choice under a budget for one float graph. types: of its values. asked: what the user fixed.
    clock: counts cycles, where the target can."""

    graph: Graph
    types: Mapping[Value, QuantizedType]
    asked: WeightWidths
    budget: Budget
    clock: CountsCycles | None

    def choose(self, samples: Sequence[Sample], progress: Progress) -> BitWidthChoice:
        candidates = width_candidates(contraction_layers(self.graph), self.asked)
        if self.budget.metric is Metric.CYCLES:
            cost, fixed = self._cycles(candidates, progress)
        else:
            cost, fixed = self._bytes(candidates)
        sensitivity = measure_sensitivity(
            self.graph,
            spread_samples(samples),
            candidates,
            lambda done, total: progress("measure sensitivity", done, total),
        )
        choice = choose_bit_widths(candidates, sensitivity, cost, self.budget, fixed)
        if self.budget.metric is Metric.CYCLES:
            return self._counted(choice, lambda b: choose_bit_widths(candidates, sensitivity, cost, b, fixed))
        return choice

    def _counted(self, first: BitWidthChoice, within: Callable[[Budget], BitWidthChoice]) -> BitWidthChoice:
        """Layers overlap, so that their cycles do not quite add up: the budget of the sums is tightened until
        the network itself keeps to the user's."""
        assert self.clock is not None
        choice = first
        while True:
            cycles = sum(self.clock.cycles(self._quantized(choice.widths(self.asked))).values())
            if cycles <= first.limit:
                return replace(choice, budget=self.budget, limit=first.limit, cost=cycles)
            tighter = min(choice.cost - 1, choice.cost * first.limit / cycles)
            choice = within(Budget(Metric.CYCLES, tighter, ""))

    def _bytes(self, layers: Iterable[Layer]) -> tuple[Cost, float]:
        """What each layer costs, and all else: from what pruning leaves of the network with int8 weights."""
        graph = self._quantized(self._uniform(ElementType.I8))
        weights = {layer.name: 0 for layer in layers}
        for node in graph.nodes:
            if (name := node.location.names[0]) in weights and isinstance(node.op, Conv2D | Dense):
                weights[name] += node.inputs[1].type.count

        def cost(layer: Layer, element: ElementType) -> float:
            return weights[layer.name] * element.bits + 7 >> 3

        return cost, weight_bytes(graph) - sum(weights.values())

    def _cycles(
        self, candidates: Mapping[Layer, Sequence[ElementType]], progress: Progress
    ) -> tuple[Cost, float]:
        """As `_bytes`: from the whole network with all weights of one width, once for each."""
        if self.clock is None:
            raise BitloomError(
                f'budget "{self.budget}": the target does not count cycles',
                "targets npu/... do, without a device",
            )
        widths = {ElementType.I8, *(e for elements in candidates.values() for e in elements)}
        found: dict[ElementType, Mapping[str, float]] = {}
        for element in sorted(widths, key=lambda e: -e.bits):
            progress("count cycles", len(found), len(widths))
            found[element] = self.clock.cycles(self._quantized(self._uniform(element)))

        def cost(layer: Layer, element: ElementType) -> float:
            return found[element].get(layer.name, 0.0)

        whole = sum(found[ElementType.I8].values())
        return cost, whole - sum(cost(layer, ElementType.I8) for layer in candidates)

    def _uniform(self, element: ElementType) -> WeightWidths:
        return WeightWidths(element, by_channel=self.asked.by_channel)

    def _quantized(self, widths: WeightWidths) -> Graph:
        found = quantize_graph(self.graph, self.types, widths, Notes())
        for p in INTEGER_PASSES:
            run_pass(p, found, Notes())
        return found
