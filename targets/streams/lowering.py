"""Quantized graph -> streams for the NPU, and steps for the host where the NPU cannot take a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.lowering.memory_plan import MemoryPlan
from compiler.lowering.program import KernelCall, kernel_calls
from compiler.lowering.storage import Place, StorageBuffer, place_values
from compiler.numerics.element import Array
from schedules.npu_choices import Choices
from schedules.npu_mechanisms import ALL, Mechanism, Mechanisms
from schedules.npu_staging import reserved
from sim.config import NpuConfig
from targets.streams.cascades import CascadeLayer, KeptLayer, cascades
from targets.streams.constants import Constants
from targets.streams.layers import layer_of
from targets.streams.placing import Memories, Planned, place_tensors
from targets.streams.rules import reason
from targets.streams.writing import StreamStep, Writing


def no_layers(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class HostStep:
    """One call by the operator's reference."""

    planned: Planned


@dataclass(slots=True)
class NpuProgram:
    """memories: which memory each buffer lies in, and at which byte. dram: contents, from byte 0."""

    graph: Graph
    config: NpuConfig
    places: Mapping[Value, Place]
    memories: Mapping[StorageBuffer, tuple[str, int]]
    steps: list[HostStep | StreamStep]
    dram: Array
    sram_plan: MemoryPlan
    host_bytes: int

    @property
    def refusals(self) -> list[Planned]:
        return [s.planned for s in self.steps if isinstance(s, HostStep)]


def lower_to_streams(
    graph: Graph,
    config: NpuConfig,
    progress: Callable[[int, int], None] = no_layers,
    mechanisms: Mechanisms = ALL,
    attempts: Sequence[Choices | None] = (None,),
) -> NpuProgram:
    """As `Lowering.lower`, once."""
    return Lowering(graph, config, mechanisms).lower(progress, attempts)


class Lowering:
    """A graph on an NPU, to be lowered as often as wanted, with these tilings or those.

    planned: all calls, in order. mechanisms: all, but where one asks what they earn.
    """

    def __init__(self, graph: Graph, config: NpuConfig, mechanisms: Mechanisms = ALL) -> None:
        self._graph, self._config, self._mechanisms = graph, config, mechanisms
        self._places = place_values(graph)
        planned = [_plan(call, config) for call in kernel_calls(graph, self._places)]
        memory = place_tensors(planned, self._places, config)
        if {Mechanism.CASCADE, Mechanism.TRIALS} <= mechanisms:  # by which it is decided
            planned = _cascaded(graph, planned, memory, config)
            memory = place_tensors(planned, self._places, config)
        self.planned, self._memory = planned, memory

    def addresses(self, p: Planned) -> tuple[tuple[str, int], ...]:
        """Memories and bytes of what a call reads and writes; of what stays in the cores neither."""
        places = [*(self._places[v] for v in p.call.reads if v in self._places), *p.call.places]
        return tuple(self._memory.memories.get(place.buffer, ("", 0)) for place in places)

    def lower(
        self,
        progress: Callable[[int, int], None] = no_layers,
        attempts: Sequence[Choices | None] = (None,),
    ) -> NpuProgram:
        """Every stream has been checked: no hazard, no deadlock, no address out of bounds. attempts: None is
        for the compiler's own choices; of each program the one with the fewest cycles counts, of equal ones
        the first.

        Errors: BitloomError where tensors and constants do not fit the external memories.
        """
        memory, config = self._memory, self._config
        memory.constants = Constants(memory.constants.begin, memory.constants.begin)
        steps: list[HostStep | StreamStep] = []
        first = 0
        for group in _segments(self.planned):
            if group[0].layer is None:
                steps += [HostStep(p) for p in group]
            else:
                writing = Writing(group, first, config, memory, progress, self._mechanisms)
                steps.append(writing.best(attempts))
            first += len(group)
        if memory.constants.end > config.dram.size_bytes:
            raise BitloomError(
                f"constants and tensors take {memory.constants.end} bytes of the DRAM of {config.name}, "
                f"which has {config.dram.size_bytes}",
                "narrower weights take less: --weights int4",
            )
        contents = memory.constants.contents()
        return NpuProgram(
            self._graph,
            config,
            self._places,
            memory.memories,
            steps,
            contents,
            memory.plan,
            memory.host_bytes,
        )


def _plan(call: KernelCall, config: NpuConfig) -> Planned:
    layer = layer_of(call)
    if layer is None:
        return Planned(call, None, f"the NPU has no {call.node.op.mnemonic} yet")
    refusal = reason(layer.rules, call, config)
    return Planned(call, None if refusal else layer, refusal)


def _cascaded(graph: Graph, planned: list[Planned], memory: Memories, config: NpuConfig) -> list[Planned]:
    """With layers whose results the next one uses, where these need not leave the cores."""
    calls = [(p.call, p.layer) for p in planned]
    found = cascades(graph, calls, memory, list(dict.fromkeys((config, reserved(config)))))
    result = list(planned)
    for number in found:
        call, after = planned[number].call, planned[number + 1].call
        result[number] = Planned(call, KeptLayer(), None, kept=True)
        result[number + 1] = Planned(after, CascadeLayer(call), None)
    return result


def _segments(planned: Iterable[Planned]) -> list[list[Planned]]:
    """Runs of calls that one side takes."""
    groups: list[list[Planned]] = []
    for p in planned:
        if groups and (groups[-1][0].layer is None) == (p.layer is None):
            groups[-1].append(p)
        else:
            groups.append([p])
    return groups
