"""Quantized graph -> streams for the NPU, and steps for the host where the NPU cannot take a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.lowering.memory_plan import Lifetime, MemoryPlan, aligned, plan_memory
from compiler.lowering.program import KernelCall, kernel_calls
from compiler.lowering.storage import Place, StorageBuffer, place_values
from compiler.numerics.element import Array, ElementType
from schedules.npu_demands import Written
from schedules.npu_dispatch import in_order_of_start
from schedules.npu_emit import Address, Emitter
from schedules.npu_staging import Room, reserved, stage
from sim.checker import check
from sim.config import NpuConfig
from sim.fields import Column
from sim.stream import Program
from sim.tokens import insert_tokens
from targets.streams.layers import Layer, layer_of
from targets.streams.model import DRAM, HOST, SRAM
from targets.streams.rules import reason


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
    graph: Graph, config: NpuConfig, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> NpuProgram:
    """Every stream has been checked: no hazard, no deadlock, no address out of bounds.

    Errors: BitloomError where tensors and constants do not fit the external memories.
    """
    places = place_values(graph)
    planned = [_plan(call, config) for call in kernel_calls(graph, places)]
    memory = _place(planned, places, config)
    steps: list[HostStep | StreamStep] = []
    first = 0
    for group in _segments(planned):
        if group[0].layer is None:
            steps += [HostStep(p) for p in group]
        else:
            steps.append(_stream(group, first, config, memory, progress))
        first += len(group)
    if memory.end > config.dram.size_bytes:
        raise BitloomError(
            f"constants and tensors take {memory.end} bytes of the DRAM of {config.name}, "
            f"which has {config.dram.size_bytes}",
            "narrower weights take less: --weights int4",
        )
    return NpuProgram(
        graph, config, places, memory.memories, steps, memory.contents(), memory.plan, memory.host_bytes
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
    """Implements `layers.Memory`. constants: the byte of DRAM at which they begin; taken: rows of (begin,
    end, first and last call) of tensors in SRAM."""

    places: Mapping[Value, Place]
    memories: Mapping[StorageBuffer, tuple[str, int]]
    plan: MemoryPlan
    host_bytes: int
    end: int
    constants: int
    taken: list[tuple[int, int, int, int]]
    sram_bytes: int
    _parts: list[Array] = field(default_factory=list[Array])
    _known: dict[bytes, int] = field(default_factory=dict[bytes, int])

    def place(self, value: Value) -> Place:
        return self.places[value]

    def address(self, place: Place, item_bytes: int) -> Address:
        memory, at = self.memories[place.buffer]
        return Address(memory == DRAM, at + place.offset * item_bytes)

    def constant(self, data: Array) -> Address:
        raw = data.tobytes()
        if raw not in self._known:
            self._known[raw] = self.end
            padded = np.zeros(aligned(len(raw)), np.uint8)
            padded[: len(raw)] = data
            self._parts.append(padded)
            self.end += padded.size
        return Address(True, self._known[raw])

    def room(self, first: int) -> Room:
        """What a program that begins with call `first` finds of SRAM, calls counted from there."""
        rows = ((begin, end, f - first, last - first) for begin, end, f, last in self.taken)
        return Room(self.sram_bytes, list(rows))

    def contents(self) -> Array:
        """Tensors that lie in DRAM come first, as zeros."""
        return np.concatenate([np.zeros(self.constants, np.uint8), *self._parts])


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
    begin = dram.arena_bytes
    return _Memory(places, memories, sram, mine.arena_bytes, begin, begin, taken, config.sram.size_bytes)


def _planned(
    buffers: list[StorageBuffer],
    spans: Mapping[StorageBuffer, tuple[int, int, bool]],
    sizes: Mapping[StorageBuffer, int],
) -> MemoryPlan:
    return plan_memory([Lifetime(sizes[b], *spans[b][:2]) for b in buffers])


def _stream(
    group: list[Planned], first: int, config: NpuConfig, memory: _Memory, progress: Callable[[int, int], None]
) -> StreamStep:
    kept_back = reserved(config)
    stages = all(reason(p.layer.rules, p.call, kept_back) is None for p in group if p.layer is not None)
    e = Emitter(kept_back if stages else config)
    for number, p in enumerate(group):
        progress(number, len(group))
        assert p.layer is not None
        e.layer = number
        p.layer.emit(e, p.call, memory)
    written = Written(e.instructions, e.layers)
    tokens = insert_tokens(written.instructions, config)
    found = in_order_of_start(tokens, config)
    staged = stage(written, tokens, config, memory.room(first), memory.constants) if stages else None
    if staged is not None:
        other = in_order_of_start(insert_tokens(staged.instructions, config), config)
        if other.cycles < found.cycles:
            found, written = other, staged
    check(found.program, config)
    layers = np.array([*written.layers, len(group)], np.int64)  # origin -1, of `Halt`, takes the last
    return StreamStep(tuple(group), found.program, tuple(layers[list(o)] for o in found.origin))
