"""Constants that are copied from DRAM to SRAM ahead of time, while FETCH would be idle.

DRAM is slow, and a weight memory holds little beyond the layer that runs: FETCH waits for places, then the
array for FETCH. SRAM has room, so the next constants are brought there, through spare banks of the activation
memory, and are loaded from there when their place is free.

The plan rests on two times of each fetch: when it would start if all constants were in SRAM (the program as
it is, timed), and when DRAM can have delivered it, one transfer behind the other in the order of use. What
DRAM delivers before its place is free is staged; what is late anyway goes straight to its place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from math import ceil, inf

import numpy as np

from compiler.lowering.memory_plan import aligned
from schedules.npu_demands import Demand, InstructionTimes, Written, demand_of, demanded, instruction_times
from schedules.npu_room import BANKS, PLAIN, Room, Staging, reserved
from sim.config import NpuConfig
from sim.durations import transfer_cycles
from sim.fields import Column
from sim.isa import Engine, Instruction, Load, LocalStrides, Memory, Store, Strides
from sim.timing import Times
from sim.tokens import Synchronised

_NOTABLE = 16  # cycles: what is shorter is no reason to wait


@dataclass(slots=True)
class _Copy:
    """Constants in SRAM. ready: when; layer: of the instructions that copy them."""

    address: int
    core: int
    layer: int
    ready: float


@dataclass(slots=True)
class _Core:
    """What copies have taken of a core. free: when FETCH has done all that was planned; slots: behind which
    position each staging bank is free; next: the bank that comes next; layer: of the last copy."""

    free: float = 0.0
    slots: list[int] = field(default_factory=lambda: [0] * BANKS)
    next: int = 0
    layer: int = 0


@dataclass(frozen=True, slots=True)
class Staged:
    """A program with copies of constants, and its cycles if all of them had been in SRAM from the start."""

    written: Written
    ideal: int


def stage(
    written: Written,
    found: Synchronised,
    config: NpuConfig,
    room: Room,
    constants: int,
    staging: Staging = PLAIN,
) -> Staged | None:
    """The program with copies of constants to SRAM, or None where there is nothing to copy.

    found: the program with tokens, whose layers leave the `reserved` banks alone. constants: the byte of DRAM
    at which they begin.
    """
    if reserved(config) == config:
        return None
    numbers = demanded(written, constants)
    spread = any(
        isinstance(i, LocalStrides) and i.engine is Engine.FETCH and i.element != i.element_bytes
        for _, i in written.instructions
    )
    if not numbers or spread:
        return None
    times = instruction_times(found, config, numbers, len(written.instructions))
    plan = _Plan(written, config, room, times, staging, frozenset(numbers))
    plan.serve(sorted((demand_of(n, written, times) for n in numbers), key=lambda d: d.start))
    return Staged(plan.written(), times.cycles) if plan.copies else None


class _Plan:
    """Demands are served in the order of their starts.

    Position p is before the p-th instruction in the order of starts. delays: (start, delay) of what follows
    where DRAM was late. free: when FETCH of a core has done what was planned.
    """

    def __init__(
        self,
        written: Written,
        config: NpuConfig,
        room: Room,
        times: InstructionTimes,
        staging: Staging,
        planned: frozenset[int],
    ) -> None:
        start, self.staging = times.start, staging
        self.before, self.config, self.room = written, config, room
        self.order = np.argsort(start, kind="stable")
        self.position = np.empty_like(self.order)
        self.position[self.order] = np.arange(len(start))
        self.starts = start[self.order]
        layers = np.array(written.layers)[self.order]
        self.incomplete = np.minimum.accumulate(layers[::-1])[::-1]  # lowest layer from a position on
        cores = range(config.cores)
        self.storing = [self._reached(core, Engine.STORE, layers) for core in cores]
        self.loading = [self._reached(core, Engine.LOAD, layers) for core in cores]
        self.spread = [_spread(written, core) for core in cores]
        self.last: dict[tuple[int, int], int] = {}
        self.copies: dict[tuple[int, int], _Copy] = {}
        self.sources: dict[int, tuple[int, Engine]] = {}
        self.inserted: dict[int, list[tuple[int, int, Instruction]]] = {}
        self.delays: list[tuple[float, float]] = [(0.0, 0.0)]
        self.idle = [staging.idle for _ in cores]
        self.loads = [self._loads(core, times, planned if staging.shares else frozenset()) for core in cores]
        self.opens = [self._opens(core, times, planned) for core in cores]
        self.shared: list[list[tuple[float, float]]] = [[] for _ in cores]
        self.cores = [_Core() for _ in cores]

    def _reached(self, core: int, engine: Engine, layers: Column) -> Column:
        """For each position, the layer that an engine has come to."""
        engines = ((c == core and i.runs_on is engine) for c, i in self.before.instructions)
        mine = np.fromiter(engines, bool, len(layers))[self.order]
        return np.concatenate([[0], np.maximum.accumulate(np.where(mine, layers, 0))])

    def _loads(self, core: int, times: InstructionTimes, planned: frozenset[int]) -> tuple[Times, Times]:
        """Starts of what LOAD does beside what is `planned`, and cycles of all before each."""
        mine = [
            n
            for n in self.order.tolist()
            if self.before.instructions[n][0] == core
            and self.before.instructions[n][1].runs_on is Engine.LOAD
            and n not in planned
        ]
        return times.start[mine], np.concatenate([[0.0], np.cumsum(times.quick[mine])])

    def _opens(self, core: int, times: InstructionTimes, planned: frozenset[int]) -> Column:
        """For each position, the next one at which FETCH may begin with a copy."""
        found = np.arange(len(self.starts) + 1)
        if not self.staging.pauses:
            return found
        ends: dict[int, tuple[int, int]] = {}
        for position, number in enumerate(self.order.tolist()):
            of, instruction = self.before.instructions[number]
            mine = of == core and instruction.runs_on is Engine.FETCH and number not in planned
            if mine and times.quick[number] >= _NOTABLE:
                layer = self.before.layers[number]
                ends[layer] = (ends.get(layer, (position, 0))[0], position)
        for first, last in sorted(ends.values(), reverse=True):
            found[first : last + 1] = found[last + 1]
        return found

    def serve(self, demands: list[Demand]) -> None:
        busy, end = [0.0] * self.config.cores, float(self.starts[-1]) + 1
        for d in demands:
            busy[d.core] += d.quick + (0 if d.key in self.last else d.slow)
            self.last[d.key] = max(d.layer, self.last.get(d.key, 0))
        idle = self.staging.idle
        self.idle = [min(max(idle * part / end, idle / 2), idle) for part in busy]
        for d in demands:
            self._serve(d)

    def _serve(self, d: Demand) -> None:
        due = self._real(d.start)
        copy = self.copies.get(d.key)
        if copy is None or not (copy.core == d.core or copy.layer < d.layer):
            copy = self._copy(d, due) if copy is None else None
        core = self.cores[d.core]
        if copy is not None:
            engine = Engine.LOAD if self._loads_idle(d) else Engine.FETCH
            self.sources[d.number] = (copy.address, engine)
            if engine is Engine.FETCH:
                core.free += d.quick
            elif self.staging.shares:
                self.shared[d.core].append((d.start, d.quick))
            self._delay(d, max(due, copy.ready) + d.quick)
        else:
            begin = max(core.free, due)
            core.free = begin + d.slow
            self._delay(d, core.free)

    def _loads_idle(self, d: Demand) -> bool:
        """Whether LOAD has time around a demand, and a row's elements stay together when its turn comes: in
        the order of the program and in that of layers."""
        reached = int(self.loading[d.core][self.position[d.number]])
        around = range(min(d.layer, reached), max(d.layer, reached) + 1)
        own = self.staging.shares and reached == d.layer
        if not own and any(n in self.spread[d.core] for n in around):
            return False
        starts, busy = self.loads[d.core]
        window = self.staging.window
        begin, end = np.searchsorted(starts, [d.start - window, d.start + window])
        taken = float(busy[end] - busy[begin])
        for start, quick in reversed(self.shared[d.core]):
            if start < d.start - window:
                break
            taken += quick
        return taken < self.idle[d.core] * 2 * window

    def _delay(self, d: Demand, end: float) -> None:
        """What uses a demand, and all that follows, is late where the demand ends late."""
        if end > self._real(d.use):
            self.delays.append((max(d.use, self.delays[-1][0]), end - d.use))

    def _copy(self, d: Demand, due: float) -> _Copy | None:
        """A copy for a demand, if that is faster and there is room."""
        core, limit = self.cores[d.core], int(self.position[d.number])
        begin = self._opened(d.core, core.free)
        place = self._position(begin)
        if place > limit or self._copied(d, begin)[-1][2] >= max(begin, due) + d.slow - d.quick:
            return None
        found = self._room(d, int(self.incomplete[place]))
        if found is None:
            return None
        first, address = found
        opened = int(np.searchsorted(self.incomplete, first))
        if opened > place:
            place, begin = opened, max(begin, self._real(float(self.starts[opened])))
        pieces = self._copied(d, begin)
        if pieces[-1][2] >= max(core.free, due) + d.slow - d.quick:
            return None
        spots: list[tuple[int, int, int]] = []
        slots, layer = list(core.slots), core.layer
        for number, (at, stored, _) in enumerate(pieces):
            slot = (core.next + number) % BANKS
            fetch = int(self.opens[d.core][max(place, slots[slot], self._position(at))])
            store = max(fetch, self._position(stored))
            store = max(fetch, min(store, limit))
            slots[slot] = store
            layer = max(layer, first, int(self.storing[d.core][store]))
            spots.append((fetch, store, layer))
        if spots[-1][1] > limit or layer > d.layer:
            return None
        core.slots, core.layer = slots, layer
        self._insert(d, address, spots)
        core.next = (core.next + len(pieces)) % BANKS
        core.free = pieces[-1][0] + self._cycles(self._sizes(d)[-1])
        self.room.taken.append((address, address + aligned(d.size), first, self.last[d.key]))
        self.copies[d.key] = _Copy(address, d.core, layer, pieces[-1][2])
        return self.copies[d.key]

    def _room(self, d: Demand, first: int) -> tuple[int, int] | None:
        """The first layer from `first` on at which there is room for a copy, and its address."""
        last, size = self.last[d.key], aligned(d.size)
        layers = range(first, d.layer + 1)
        at = bisect_left(layers, True, key=lambda n: self.room.find(size, n, last) is not None)
        if at == len(layers):
            return None
        address = self.room.find(size, layers[at], last)
        return None if address is None else (layers[at], address)

    def _sizes(self, d: Demand) -> list[int]:
        pads = self.config.scratchpad
        bank = pads.activation_bytes // pads.activation_banks
        piece = bank
        if self.staging.even:
            burst = self.config.dram.burst_bytes
            piece = min(bank, ceil(d.size / ceil(d.size / bank) / burst) * burst)
        return [min(piece, d.size - at) for at in range(0, d.size, piece)]

    def _copied(self, d: Demand, begin: float) -> list[tuple[float, float, float]]:
        """Of each piece, when its transfer begins, when STORE turns to it, and when it is copied."""
        found: list[tuple[float, float, float]] = []
        port, issue = self.config.sram, self.config.issue_cycles
        for size in self._sizes(d):
            begin, cycles = self._opened(d.core, begin), self._cycles(size)
            stored = begin + (1 + self.staging.margin) * cycles
            latency, outstanding = port.write_latency_cycles, port.write_outstanding
            tail = _transfer(size, port.burst_bytes, port.burst_cycles, latency, outstanding)
            found.append((begin, stored, stored + issue + tail))
            begin += cycles
        return found

    def _opened(self, core: int, time: float) -> float:
        """When FETCH may begin with a copy, from a time on."""
        place = min(self._position(time), len(self.starts))
        after = int(self.opens[core][place])
        if after == place:
            return time
        return max(time, self._real(float(self.starts[after]))) if after < len(self.starts) else inf

    def _cycles(self, size: int) -> float:
        """Of a transfer from DRAM."""
        port = self.config.dram
        latency, outstanding = port.read_latency_cycles, port.read_outstanding
        return self.config.issue_cycles + _transfer(
            size, port.burst_bytes, port.burst_cycles, latency, outstanding
        )

    def _position(self, time: float) -> int:
        """Of what starts at `time` or later, delays taken into account."""
        at = bisect_right(self.delays, time, key=lambda entry: entry[0] + entry[1]) - 1
        start = time - self.delays[at][1]
        if at + 1 < len(self.delays):
            start = min(start, self.delays[at + 1][0])
        return int(np.searchsorted(self.starts, start))

    def _real(self, start: float) -> float:
        """When what starts at `start` does start, with delays."""
        at = bisect_right(self.delays, start, key=lambda entry: entry[0]) - 1
        return start + self.delays[at][1]

    def _insert(self, d: Demand, address: int, spots: list[tuple[int, int, int]]) -> None:
        pads = self.config.scratchpad
        bank = pads.activation_bytes // pads.activation_banks
        at = 0
        for number, (size, (fetch, store, layer)) in enumerate(zip(self._sizes(d), spots, strict=True)):
            slot = pads.activation_banks - 1 - (self.cores[d.core].next + number) % BANKS
            source = Load(
                engine=Engine.FETCH,
                dram=True,
                external=d.external + at,
                memory=Memory.ACTIVATION,
                local=slot * bank,
                row_bytes=size,
                rows=1,
                planes=1,
            )
            target = Store(
                dram=False, external=address + at, local=slot * bank, row_bytes=size, rows=1, planes=1
            )
            for position, instruction in ((fetch, source), (store, target)):
                self.inserted.setdefault(position, []).append((d.core, layer, instruction))
            at += size

    def written(self) -> Written:
        """The program in the order of starts, with the copies."""
        result = Written([], [])
        # Of LOAD and STORE, where elements do not lie one behind the other.
        spread: dict[tuple[int, Engine], LocalStrides] = {}

        def add(core: int, instruction: Instruction, layer: int) -> None:
            """What moves a single row whose elements stay together."""
            engine = instruction.runs_on
            own = None if engine is None else spread.get((core, engine))
            around = ([_registers(own.engine)[1]], [own]) if own is not None else ([], [])
            for i in (*around[0], instruction, *around[1]):
                result.add(core, i, layer)

        for core in range(self.config.cores):
            for register in (
                r for engine in (Engine.LOAD, Engine.FETCH, Engine.STORE) for r in _registers(engine)
            ):
                result.add(core, register, 0)
        for position, number in enumerate(self.order.tolist()):
            for core, layer, instruction in self.inserted.get(position, ()):
                add(core, instruction, layer)
            core, instruction = self.before.instructions[number]
            if isinstance(instruction, LocalStrides) and instruction.engine in (Engine.LOAD, Engine.STORE):
                spread.pop((core, instruction.engine), None)
                if instruction.element != instruction.element_bytes:
                    spread[core, instruction.engine] = instruction
            if number in self.sources:
                address, engine = self.sources[number]
                moved = replace(instruction, engine=engine, dram=False, external=address)
                add(core, moved, self.before.layers[number])
            else:
                result.add(core, instruction, self.before.layers[number])
        return result


def _spread(written: Written, core: int) -> set[int]:
    """Layers in which LOAD, at their begin or later, spreads the elements of rows."""
    found: set[int] = set()
    spread = layer = 0
    for (c, i), n in zip(written.instructions, written.layers, strict=True):
        if spread:
            found.update(range(layer, n + 1))
        layer = n
        if c == core and isinstance(i, LocalStrides) and i.engine is Engine.LOAD:
            spread = i.element != i.element_bytes
            found.update([n] if spread else [])
    return found | (set(range(layer, max(written.layers) + 1)) if spread else set())


def _transfer(size: int, burst_bytes: int, burst_cycles: float, latency: int, outstanding: int) -> float:
    bursts = np.array([ceil(size / burst_bytes)])
    return float(transfer_cycles(bursts, burst_cycles, latency, outstanding)[0])


def _registers(engine: Engine) -> tuple[Strides, LocalStrides]:
    """What a single row needs."""
    local = LocalStrides(engine=engine, row=0, plane=0, element=1, element_bytes=1)
    return Strides(engine=engine, row=0, plane=0), local
