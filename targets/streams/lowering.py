"""Quantized graph -> streams for the NPU, and steps for the host where the NPU cannot take a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.lowering.memory_plan import Lifetime, MemoryPlan, plan_memory
from compiler.lowering.program import KernelCall, kernel_calls
from compiler.lowering.storage import Place, StorageBuffer, place_values
from compiler.numerics.element import Array, ElementType
from schedules.npu_choices import Choices
from schedules.npu_demands import Written
from schedules.npu_dispatch import as_written, in_order_of_start
from schedules.npu_emit import Address, Emitter
from schedules.npu_mechanisms import ALL, Mechanism, Mechanisms
from schedules.npu_staging import Room, Staging, expected, reserved, stage
from schedules.npu_tiling import Shape, Tiling
from sim.checker import check
from sim.config import NpuConfig
from sim.fields import Column
from sim.stream import Program
from sim.timing import time_program
from sim.tokens import insert_tokens
from targets.streams.constants import Constants
from targets.streams.layers import Layer, layer_of
from targets.streams.model import DRAM, HOST, SRAM
from targets.streams.rules import reason

_LONG, _NEAR = 20000, 1.1  # instructions; cycles, by those if all constants were in SRAM from the start


Products = Mapping[int, tuple[Shape, Tiling]]


def no_layers(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A call and who takes it. refusal: why the host does (None: the NPU does)."""

    call: KernelCall
    layer: Layer | None
    refusal: str | None


@dataclass(frozen=True, slots=True)
class HostStep:
    """One call by the operator's reference."""

    planned: Planned


@dataclass(frozen=True, slots=True)
class StreamStep:
    """Consecutive calls as one program. numbers: for each core and instruction, the number of its call; of
    `Halt`, how many there are. first: which of all calls the first one is; products: of those layers, by
    number, what they are and their tilings; fits: what layers have of a core; changed: numbers of
    products with another tiling than in the first attempt."""

    planned: tuple[Planned, ...]
    program: Program
    numbers: tuple[Column, ...]
    first: int
    products: Products
    fits: NpuConfig
    changed: frozenset[int]


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
    return Lowering(graph, config).lower(progress, mechanisms, attempts)


class Lowering:
    """A graph on an NPU, to be lowered as often as wanted, with these tilings or those.

    planned: all calls, in order.
    """

    def __init__(self, graph: Graph, config: NpuConfig) -> None:
        self._graph, self._config = graph, config
        self._places = place_values(graph)
        self.planned = [_plan(call, config) for call in kernel_calls(graph, self._places)]
        self._memory = _place(self.planned, self._places, config)

    def addresses(self, p: Planned) -> tuple[tuple[str, int], ...]:
        """Memories and bytes of what a call reads and writes."""
        places = [*(self._places[v] for v in p.call.reads if v in self._places), *p.call.places]
        return tuple(self._memory.memories[place.buffer] for place in places)

    def lower(
        self,
        progress: Callable[[int, int], None] = no_layers,
        mechanisms: Mechanisms = ALL,
        attempts: Sequence[Choices | None] = (None,),
    ) -> NpuProgram:
        """Every stream has been checked: no hazard, no deadlock, no address out of bounds. mechanisms: all,
        but where one asks what they earn. attempts: None is for the compiler's own choices; of each program
        the one with the fewest cycles counts, of equal ones the first.

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
                writing = _Writing(group, first, config, memory, progress, mechanisms)
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


def _segments(planned: Iterable[Planned]) -> list[list[Planned]]:
    """Runs of calls that one side takes."""
    groups: list[list[Planned]] = []
    for p in planned:
        if groups and (groups[-1][0].layer is None) == (p.layer is None):
            groups[-1].append(p)
        else:
            groups.append([p])
    return groups


@dataclass(slots=True)
class _Memory:
    """Implements `layers.Memory`. taken: rows of (begin, end, first and last call) of tensors in SRAM."""

    places: Mapping[Value, Place]
    memories: Mapping[StorageBuffer, tuple[str, int]]
    plan: MemoryPlan
    host_bytes: int
    constants: Constants
    taken: list[tuple[int, int, int, int]]
    sram_bytes: int

    def place(self, value: Value) -> Place:
        return self.places[value]

    def address(self, place: Place, item_bytes: int) -> Address:
        memory, at = self.memories[place.buffer]
        return Address(memory == DRAM, at + place.offset * item_bytes)

    def constant(self, data: Array) -> Address:
        return self.constants.add(data)

    def room(self, first: int) -> Room:
        """What a program that begins with call `first` finds of SRAM, calls counted from there."""
        rows = ((begin, end, f - first, last - first) for begin, end, f, last in self.taken)
        return Room(self.sram_bytes, list(rows))


def _place(planned: list[Planned], places: Mapping[Value, Place], config: NpuConfig) -> _Memory:
    """Tensors that the NPU touches lie in SRAM, the largest ones in DRAM where not all fit; others at the
    host."""
    spans: dict[StorageBuffer, tuple[int, int, bool]] = {}
    for index, p in enumerate(planned):
        values = [*p.call.reads, *p.call.node.outputs]
        buffers = [*(places[v].buffer for v in values), *(place.buffer for place in p.call.places)]
        for buffer in buffers:
            first, _, device = spans.get(buffer, (index, index, False))
            spans[buffer] = (first, index, device or p.layer is not None)
    for buffer in {place.buffer for place in places.values()} - spans.keys():
        spans[buffer] = (0, len(planned), False)
    for buffer, (first, last, device) in spans.items():
        # The caller's tensors are there before the first step and after the last one.
        first = 0 if buffer.input_port is not None else first
        last = len(planned) if buffer.output_port is not None else last
        spans[buffer] = (first, last, device)
    # The host keeps an element of one bit in a byte, where libraries pack eight of them into it.
    bits = {place.buffer for value, place in places.items() if value.type.element is ElementType.B1}
    sizes = {b: max(1, b.size * (8 if b in bits else 1)) for b in spans}
    inside = [b for b, (_, _, device) in spans.items() if device]
    spilled: list[StorageBuffer] = []
    while (sram := _planned(inside, spans, sizes)).arena_bytes > config.sram.size_bytes:
        largest = max(inside, key=lambda b: b.size)
        inside.remove(largest)
        spilled.append(largest)
    host = [b for b, (_, _, device) in spans.items() if not device]
    dram, mine = _planned(spilled, spans, sizes), _planned(host, spans, sizes)
    memories: dict[StorageBuffer, tuple[str, int]] = {}
    for name, buffers, plan in ((SRAM, inside, sram), (DRAM, spilled, dram), (HOST, host, mine)):
        memories |= {b: (name, at) for b, at in zip(buffers, plan.offsets, strict=True)}
    taken = [(at, at + sizes[b], *spans[b][:2]) for b, at in zip(inside, sram.offsets, strict=True)]
    constants = Constants(dram.arena_bytes, dram.arena_bytes)
    return _Memory(places, memories, sram, mine.arena_bytes, constants, taken, config.sram.size_bytes)


def _planned(
    buffers: list[StorageBuffer],
    spans: Mapping[StorageBuffer, tuple[int, int, bool]],
    sizes: Mapping[StorageBuffer, int],
) -> MemoryPlan:
    return plan_memory([Lifetime(sizes[b], *spans[b][:2]) for b in buffers])


@dataclass(frozen=True, slots=True)
class _Writing:
    """Consecutive calls of the NPU, of which the first is number `first` of all."""

    group: list[Planned]
    first: int
    config: NpuConfig
    memory: _Memory
    progress: Callable[[int, int], None]
    mechanisms: Mechanisms

    def best(self, attempts: Sequence[Choices | None]) -> StreamStep:
        """See `Lowering.lower`."""
        before = self.memory.constants
        found = [self._attempt(choices, before) for choices in attempts]
        cycles = [time_program(s.program, self.config).cycles for s in found] if len(found) > 1 else [0]
        best = found[cycles.index(min(cycles))]
        self.memory.constants = best.constants
        check(best.program, self.config)
        numbers = tuple(np.where(n < 0, len(self.group), n) for n in best.numbers)
        group, first = tuple(self.group), self.first
        changed = frozenset(n for n, p in best.products.items() if p[1] != found[0].products[n][1])
        return StreamStep(group, best.program, numbers, first, best.products, best.fits, changed)

    def _attempt(self, choices: Choices | None, constants: Constants) -> _Scheduled:
        """Tilings that are not given expect constants at the pace of SRAM; where these still hold up a
        program that is not too long to be written twice, they may expect that of DRAM, if it takes fewer
        cycles."""
        given = choices or Choices()
        chosen = {n - self.first: t for n, t in given.tilings.items() if n >= self.first}
        own, stages = self._own()
        expectations = [(own, expected(own)), (own, own)] if stages else [(self.config, self.config)]
        best: _Scheduled | None = None
        tries = choices is None and Mechanism.TRIALS in self.mechanisms
        for fits, expects in expectations if tries else expectations[:1]:
            e = Emitter(fits, expects, self.mechanisms, chosen)
            self.memory.constants = constants.copy()
            for number, p in enumerate(self.group):
                self.progress(number, len(self.group))
                assert p.layer is not None
                e.layer = number
                p.layer.emit(e, p.call, self.memory)
            room = self.memory.room(self.first) if stages else None
            found = _scheduled(e, self.config, room, self.memory.constants, given.staging)
            best = found if best is None or found.cycles < best.cycles else best
            if len(e.instructions) > _LONG or found.cycles < _NEAR * found.ideal:
                break
        assert best is not None
        return best

    def _own(self) -> tuple[NpuConfig, bool]:
        """What layers have of the core, and whether the rest of it is for copies of constants."""
        if not {Mechanism.ORDER, Mechanism.STAGING} <= self.mechanisms:
            return self.config, False
        own = reserved(self.config)
        layers = ((p.layer, p.call) for p in self.group)
        fits = all(layer is not None and reason(layer.rules, call, own) is None for layer, call in layers)
        return (own, True) if own != self.config and fits else (self.config, False)


@dataclass(frozen=True, slots=True)
class _Scheduled:
    """A program with the number of each instruction's call (-1: of none), its cycles, those if all constants
    had been in SRAM, the constants, and of `StreamStep` the last two."""

    program: Program
    numbers: tuple[Column, ...]
    cycles: int
    ideal: int
    constants: Constants
    products: Products
    fits: NpuConfig


def _scheduled(
    e: Emitter, config: NpuConfig, room: Room | None, constants: Constants, staging: Staging
) -> _Scheduled:
    """room: of SRAM for copies of constants, if there are to be any."""
    written, ordered = Written(e.instructions, e.layers), Mechanism.ORDER in e.mechanisms
    tokens = insert_tokens(written.instructions, config)
    found = in_order_of_start(tokens, config) if ordered else as_written(tokens, config)
    staged = None if room is None else stage(written, tokens, config, room, constants.begin, staging)
    if staged is not None:
        other = in_order_of_start(insert_tokens(staged.written.instructions, config), config)
        if other.cycles < found.cycles:
            found, written = other, staged.written
    ideal = found.cycles if staged is None else staged.ideal
    layers = [np.array([*written.layers, -1])[list(o)] for o in found.origin]
    return _Scheduled(found.program, tuple(layers), found.cycles, ideal, constants, e.products, e.config)
