"""Quantized graph -> streams for the NPU, and steps for the host where the NPU cannot take a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.loops.form import Convolution
from compiler.lowering.memory_plan import Lifetime, MemoryPlan, plan_memory
from compiler.lowering.program import KernelCall, kernel_calls
from compiler.lowering.storage import Place, StorageBuffer, place_values
from compiler.numerics.element import Array
from schedules.npu_demands import Written
from schedules.npu_dispatch import as_written, in_order_of_start
from schedules.npu_emit import Address, Emitter
from schedules.npu_mechanisms import ALL, Mechanism, Mechanisms
from schedules.npu_staging import Room, expected, reserved, stage
from sim.checker import check
from sim.config import NpuConfig
from sim.fields import Column
from sim.stream import Program
from sim.tokens import insert_tokens
from targets.streams.cascades import CascadeLayer, KeptLayer, cascades
from targets.streams.constants import Constants
from targets.streams.layers import Layer, layer_of
from targets.streams.model import DRAM, HOST, SRAM
from targets.streams.rules import reason

_LONG, _NEAR = 20000, 1.1  # instructions; cycles, by those if all constants were in SRAM from the start


@dataclass(frozen=True, slots=True)
class Planned:
    """A call and who takes it. refusal: why the host does (None: the NPU does). kept: its result lies in the
    cores alone, and the next call computes it."""

    call: KernelCall
    layer: Layer | None
    refusal: str | None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class HostStep:
    """One call by the operator's reference."""

    planned: Planned


@dataclass(frozen=True, slots=True)
class StreamStep:
    """Consecutive calls as one program. numbers: for each core and instruction, the number of its call; of
    `Halt`, how many there are."""

    planned: tuple[Planned, ...]
    program: Program
    numbers: tuple[Column, ...]


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
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    mechanisms: Mechanisms = ALL,
) -> NpuProgram:
    """Every stream has been checked: no hazard, no deadlock, no address out of bounds. mechanisms: all, but
    where one asks what they earn.

    Errors: BitloomError where tensors and constants do not fit the external memories.
    """
    places = place_values(graph)
    planned = [_plan(call, config) for call in kernel_calls(graph, places)]
    memory = _place(planned, places, config)
    if Mechanism.CASCADE in mechanisms:
        planned = _cascaded(graph, planned, memory, config)
        memory = _place(planned, places, config)
    steps: list[HostStep | StreamStep] = []
    first = 0
    for group in _segments(planned):
        if group[0].layer is None:
            steps += [HostStep(p) for p in group]
        else:
            steps.append(_stream(group, first, config, memory, progress, mechanisms))
        first += len(group)
    if memory.constants.end > config.dram.size_bytes:
        raise BitloomError(
            f"constants and tensors take {memory.constants.end} bytes of the DRAM of {config.name}, "
            f"which has {config.dram.size_bytes}",
            "narrower weights take less: --weights int4",
        )
    contents, arena = memory.constants.contents(), memory.plan
    return NpuProgram(graph, config, places, memory.memories, steps, contents, arena, memory.host_bytes)


def _plan(call: KernelCall, config: NpuConfig) -> Planned:
    layer = layer_of(call)
    if layer is None:
        return Planned(call, None, f"the NPU has no {call.node.op.mnemonic} yet")
    refusal = reason(layer.rules, call, config)
    return Planned(call, None if refusal else layer, refusal)


def _cascaded(graph: Graph, planned: list[Planned], memory: _Memory, config: NpuConfig) -> list[Planned]:
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
    kept = {place.buffer for p in planned if p.kept for place in p.call.places}
    for index, p in enumerate(planned):
        values = [*p.call.reads, *p.call.node.outputs]
        buffers = [*(places[v].buffer for v in values), *(place.buffer for place in p.call.places)]
        for buffer in (b for b in buffers if b not in kept):
            first, _, device = spans.get(buffer, (index, index, False))
            last = index + p.kept  # with what is kept, the next call reads it
            spans[buffer] = (first, last, device or p.layer is not None)
    for buffer in {place.buffer for place in places.values()} - spans.keys() - kept:
        spans[buffer] = (0, len(planned), False)
    for buffer, (first, last, device) in spans.items():
        # The caller's tensors are there before the first step and after the last one.
        first = 0 if buffer.input_port is not None else first
        last = len(planned) if buffer.output_port is not None else last
        spans[buffer] = (first, last, device)
    sizes = {b: max(1, b.size) for b in spans}
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


def _stream(
    group: list[Planned],
    first: int,
    config: NpuConfig,
    memory: _Memory,
    progress: Callable[[int, int], None],
    mechanisms: Mechanisms,
) -> StreamStep:
    """The best of `_plans`; a program that is too long to be written several times, by the first of them."""
    layers = [p.layer for p in group if p.layer is not None]
    ordered = Mechanism.ORDER in mechanisms
    best: _Scheduled | None = None
    constants = memory.constants
    for plan in _plans(group, layers, config, mechanisms):
        e = Emitter(plan.fits, plan.expects, mechanisms)
        memory.constants = constants.copy()
        for number, (p, layer) in enumerate(zip(group, layers, strict=True)):
            progress(number, len(group))
            e.layer = number
            layer.emit(e, p.call, memory)
        room = memory.room(first) if plan.stages else None
        written = Written(e.instructions, e.layers)
        found = _scheduled(written, config, room, memory.constants, ordered)
        best = found if best is None or found.cycles < best.cycles else best
        if len(e.instructions) > _LONG or found.cycles < _NEAR * found.ideal:
            break
    assert best is not None
    memory.constants = best.constants
    check(best.program, config)
    numbers = tuple(np.where(n < 0, len(group), n) for n in best.numbers)
    return StreamStep(tuple(group), best.program, numbers)


@dataclass(frozen=True, slots=True)
class _Plan:
    """fits: what tilings may use; expects: how they expect constants to come; stages: copies of constants."""

    fits: NpuConfig
    expects: NpuConfig
    stages: bool


def _plans(
    group: list[Planned], layers: list[Layer], config: NpuConfig, mechanisms: Mechanisms
) -> list[_Plan]:
    """The most promising first: with copies of constants, which tilings expect at the pace of SRAM or at that
    of DRAM, and without copies. These promise little where arrays take longer than DRAM in any case."""
    whole = _Plan(config, config, False)
    own = reserved(config)
    if not {Mechanism.ORDER, Mechanism.STAGING} <= mechanisms or own == config:
        return [whole]
    if any(reason(layer.rules, p.call, own) is not None for p, layer in zip(group, layers, strict=True)):
        return [whole]
    staged = [_Plan(own, expected(own), True), _Plan(own, own, True)]
    return [*staged, whole] if _dram_limits(group, config) else [whole, *staged]


def _dram_limits(group: list[Planned], config: NpuConfig) -> bool:
    """Whether weights take longer on their way from DRAM than all products would at the arrays' rate."""
    moving = computing = 0.0
    for p in group:
        form = p.call.lowered.form
        if isinstance(form, Convolution):
            weights = p.call.lowered.constants["weight"].size * form.weight.bits / 8
            moving += weights / config.dram.bytes_per_cycle
            computing += form.macs / config.macs_per_cycle
    return moving > computing


@dataclass(frozen=True, slots=True)
class _Scheduled:
    """A program with the number of each instruction's call (-1: of none), its cycles, those if all constants
    had been in SRAM, and the constants."""

    program: Program
    numbers: tuple[Column, ...]
    cycles: int
    ideal: int
    constants: Constants


def _scheduled(
    written: Written, config: NpuConfig, room: Room | None, constants: Constants, ordered: bool
) -> _Scheduled:
    """room: of SRAM for copies of constants, if there are to be any. ordered: by starts."""
    tokens = insert_tokens(written.instructions, config)
    found = in_order_of_start(tokens, config) if ordered else as_written(tokens, config)
    staged = None if room is None else stage(written, tokens, config, room, constants.begin)
    if staged is not None:
        other = in_order_of_start(insert_tokens(staged.written.instructions, config), config)
        if other.cycles < found.cycles:
            found, written = other, staged.written
    ideal = 0 if staged is None else staged.ideal
    layers = [np.array([*written.layers, -1])[list(o)] for o in found.origin]
    return _Scheduled(found.program, tuple(layers), found.cycles, ideal, constants)
