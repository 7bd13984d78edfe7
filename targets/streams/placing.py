"""Where the tensors of a network on the NPU lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.ir.graph import Value
from compiler.lowering.memory_plan import Lifetime, MemoryPlan, plan_memory
from compiler.lowering.program import KernelCall
from compiler.lowering.storage import Place, StorageBuffer
from compiler.numerics.element import Array
from schedules.npu_emit import Address
from schedules.npu_room import Room
from sim.config import NpuConfig
from targets.streams.constants import Constants
from targets.streams.layers import Layer
from targets.streams.model import DRAM, HOST, SRAM


@dataclass(frozen=True, slots=True)
class Planned:
    """A call and who takes it. refusal: why the host does (None: the NPU does). kept: its result lies in the
    cores alone, and the next call computes it."""

    call: KernelCall
    layer: Layer | None
    refusal: str | None
    kept: bool = False


@dataclass(slots=True)
class Memories:
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


def place_tensors(planned: list[Planned], places: Mapping[Value, Place], config: NpuConfig) -> Memories:
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
    return Memories(places, memories, sram, mine.arena_bytes, constants, taken, config.sram.size_bytes)


def _planned(
    buffers: list[StorageBuffer],
    spans: Mapping[StorageBuffer, tuple[int, int, bool]],
    sizes: Mapping[StorageBuffer, int],
) -> MemoryPlan:
    return plan_memory([Lifetime(sizes[b], *spans[b][:2]) for b in buffers])
