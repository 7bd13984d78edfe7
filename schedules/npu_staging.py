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
from math import ceil

import numpy as np

from compiler.lowering.memory_plan import aligned
from schedules.npu_dispatch import unbounded
from sim.config import NpuConfig
from sim.durations import transfer_cycles, work
from sim.fields import Column
from sim.isa import Engine, Inflate, Instruction, Load, LocalStrides, Memory, Store, Strides, Sync, fields_of
from sim.stream import Program, Stream
from sim.timing import Times
from sim.tokens import Synchronised

LEAST_BANKS = 6  # of the activation memory: two are kept for staging
BANKS = 2
_STORE_MARGIN = 0.5  # of a transfer: how much later than planned data may arrive without delaying STORE


@dataclass(frozen=True, slots=True)
class Written:
    """Instructions of a program with their cores, in the order that results must respect, and the number of
    each one's layer."""

    instructions: list[tuple[int, Instruction]]
    layers: list[int]

    def add(self, core: int, instruction: Instruction, layer: int) -> None:
        self.instructions.append((core, instruction))
        self.layers.append(layer)


@dataclass(slots=True)
class Room:
    """Free space of SRAM. taken: rows of (begin, end, first and last layer) that other data take."""

    size: int
    taken: list[tuple[int, int, int, int]]

    def find(self, size: int, first: int, last: int) -> int | None:
        """Where so many bytes are free from layer `first` to `last`."""
        at = 0
        for begin, end in sorted((b, e) for b, e, f, t in self.taken if f <= last and first <= t):
            if at + size <= begin:
                break
            at = max(at, end)
        return at if at + size <= self.size else None


@dataclass(frozen=True, slots=True)
class _Demand:
    """A fetch of constants.

    number: in the program; external, size: bytes of DRAM; start, quick: when it would start and how long it
    would take with all constants in SRAM; slow: how long from DRAM; use: when the first instruction that may
    use it starts.
    """

    number: int
    core: int
    layer: int
    external: int
    size: int
    start: float
    quick: float
    slow: float
    use: float

    @property
    def key(self) -> tuple[int, int]:
        return self.external, self.size


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


def reserved(config: NpuConfig) -> NpuConfig:
    """What is left for layers: the last banks of the activation memory are kept for copies."""
    pads = config.scratchpad
    if pads.activation_banks < LEAST_BANKS:
        return config
    banks, bank = pads.activation_banks - BANKS, pads.activation_bytes // pads.activation_banks
    return replace(config, scratchpad=replace(pads, activation_banks=banks, activation_bytes=banks * bank))


def stage(
    written: Written, found: Synchronised, config: NpuConfig, room: Room, constants: int
) -> Written | None:
    """The program with copies of constants to SRAM, or None where there is nothing to copy.

    found: the program with tokens, whose layers leave the `reserved` banks alone. constants: the byte of DRAM
    at which they begin.
    """
    if reserved(config) == config:
        return None
    numbers = [n for n, (_, i) in enumerate(written.instructions) if _is_demand(i, constants)]
    spread = any(
        isinstance(i, LocalStrides) and i.engine is Engine.FETCH and i.element != i.element_bytes
        for _, i in written.instructions
    )
    if not numbers or spread:
        return None
    times = _times(found, config, numbers, len(written.instructions))
    plan = _Plan(written, config, room, times.start)
    demands = [_demand(n, written, times) for n in numbers]
    for d in demands:
        plan.last[d.key] = max(plan.last.get(d.key, 0), d.layer)
    for d in sorted(demands, key=lambda d: d.start):
        plan.serve(d)
    return plan.written() if plan.copies else None


def _is_demand(instruction: Instruction, constants: int) -> bool:
    match instruction:
        case Load(engine=Engine.FETCH, dram=True, rows=1, planes=1) | Inflate(engine=Engine.FETCH, dram=True):
            return instruction.external >= constants
        case _:
            return False


def _demand(number: int, written: Written, times: _Times) -> _Demand:
    core, instruction = written.instructions[number]
    assert isinstance(instruction, (Load, Inflate))
    size = instruction.row_bytes if isinstance(instruction, Load) else instruction.packed_bytes
    start, quick, slow = (float(c[number]) for c in (times.start, times.quick, times.slow))
    engine = Engine.MAC if instruction.memory is Memory.WEIGHT else Engine.VEC
    users = (
        n
        for n in range(number, len(written.instructions))
        if written.instructions[n][0] == core and written.instructions[n][1].runs_on is engine
    )
    use = float(next((times.start[n] for n in users if times.quick[n] > 1), start + quick))
    return _Demand(number, core, written.layers[number], instruction.external, size, start, quick, slow, use)


@dataclass(frozen=True, slots=True)
class _Times:
    """By number of an instruction: when it starts and how long it takes with all constants in SRAM, and how
    long it would take alone."""

    start: Times
    quick: Times
    slow: Times


def _times(found: Synchronised, config: NpuConfig, demanded: list[int], count: int) -> _Times:
    chosen = np.zeros(count + 1, bool)
    chosen[demanded] = True
    origins = [np.array(o, np.int64) for o in found.origin]
    streams: list[Stream] = []
    for stream, origin in zip(found.program.streams, origins, strict=True):
        words = stream.words.copy()
        for cls in (Load, Inflate):
            flag = next(f for f in fields_of(cls) if f.name == "dram")
            words[chosen[origin] & (stream.opcodes == cls.opcode), 0] &= ~np.uint64(1 << flag.low_bit)
        streams.append(Stream(words))
    timing = unbounded(Synchronised(Program(tuple(streams)), found.origin), config)
    result = _Times(*(np.zeros(count) for _ in range(3)))
    for core, (stream, origin, spans) in enumerate(
        zip(found.program.streams, origins, timing.spans, strict=True)
    ):
        mine = np.flatnonzero((origin >= 0) & (stream.opcodes != Sync.opcode))
        alone = work(stream, config, core)
        result.start[origin[mine]] = spans.start[mine]
        result.quick[origin[mine]] = (spans.end - spans.start)[mine]
        result.slow[origin[mine]] = (alone.issue + alone.latency + np.ceil(alone.cycles))[mine]
    return result


class _Plan:
    """Demands are served in the order of their starts.

    Position p is before the p-th instruction in the order of starts. delays: (start, delay) of what follows
    where DRAM was late. free: when FETCH of a core has done what was planned.
    """

    def __init__(self, written: Written, config: NpuConfig, room: Room, start: Times) -> None:
        self.before, self.config, self.room = written, config, room
        self.order = np.argsort(start, kind="stable")
        self.position = np.empty_like(self.order)
        self.position[self.order] = np.arange(len(start))
        self.starts = start[self.order]
        layers = np.array(written.layers)[self.order]
        self.incomplete = np.minimum.accumulate(layers[::-1])[::-1]  # lowest layer from a position on
        self.storing = [self._storing(core, layers) for core in range(config.cores)]
        self.last: dict[tuple[int, int], int] = {}
        self.copies: dict[tuple[int, int], _Copy] = {}
        self.sources: dict[int, int] = {}
        self.inserted: dict[int, list[tuple[int, int, Instruction]]] = {}
        self.delays: list[tuple[float, float]] = [(0.0, 0.0)]
        self.cores = [_Core() for _ in range(config.cores)]

    def _storing(self, core: int, layers: Column) -> Column:
        """For each position, the layer that STORE has come to."""
        engines = ((c == core and i.runs_on is Engine.STORE) for c, i in self.before.instructions)
        mine = np.fromiter(engines, bool, len(layers))[self.order]
        return np.concatenate([[0], np.maximum.accumulate(np.where(mine, layers, 0))])

    def serve(self, d: _Demand) -> None:
        due = self._real(d.start)
        copy = self.copies.get(d.key)
        if copy is None or not (copy.core == d.core or copy.layer < d.layer):
            copy = self._copy(d, due) if copy is None else None
        core = self.cores[d.core]
        if copy is not None:
            self.sources[d.number] = copy.address
            core.free += d.quick
            self._delay(d, max(due, copy.ready) + d.quick)
        else:
            begin = max(core.free, due)
            core.free = begin + d.slow
            self._delay(d, core.free)

    def _delay(self, d: _Demand, end: float) -> None:
        """What uses a demand, and all that follows, is late where the demand ends late."""
        if end > self._real(d.use):
            self.delays.append((max(d.use, self.delays[-1][0]), end - d.use))

    def _copy(self, d: _Demand, due: float) -> _Copy | None:
        """A copy for a demand, if that is faster and there is room."""
        core, limit = self.cores[d.core], int(self.position[d.number])
        begin, place = core.free, self._position(core.free)
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
            fetch = max(place, slots[slot], self._position(at))
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
        core.free = begin + sum(self._cycles(n) for n in self._sizes(d))
        self.room.taken.append((address, address + aligned(d.size), first, self.last[d.key]))
        self.copies[d.key] = _Copy(address, d.core, layer, pieces[-1][2])
        return self.copies[d.key]

    def _room(self, d: _Demand, first: int) -> tuple[int, int] | None:
        """The first layer from `first` on at which there is room for a copy, and its address."""
        last, size = self.last[d.key], aligned(d.size)
        layers = range(first, d.layer + 1)
        at = bisect_left(layers, True, key=lambda n: self.room.find(size, n, last) is not None)
        if at == len(layers):
            return None
        address = self.room.find(size, layers[at], last)
        return None if address is None else (layers[at], address)

    def _sizes(self, d: _Demand) -> list[int]:
        pads = self.config.scratchpad
        bank = pads.activation_bytes // pads.activation_banks
        return [min(bank, d.size - at) for at in range(0, d.size, bank)]

    def _copied(self, d: _Demand, begin: float) -> list[tuple[float, float, float]]:
        """Of each piece, when its transfer begins, when STORE turns to it, and when it is copied."""
        found: list[tuple[float, float, float]] = []
        port, issue = self.config.sram, self.config.issue_cycles
        for size in self._sizes(d):
            cycles = self._cycles(size)
            stored = begin + (1 + _STORE_MARGIN) * cycles
            latency, outstanding = port.write_latency_cycles, port.write_outstanding
            tail = _transfer(size, port.burst_bytes, port.burst_cycles, latency, outstanding)
            found.append((begin, stored, stored + issue + tail))
            begin += cycles
        return found

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

    def _insert(self, d: _Demand, address: int, spots: list[tuple[int, int, int]]) -> None:
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
        spread: dict[int, LocalStrides] = {}  # of STORE, where elements do not lie one behind the other
        for core in range(self.config.cores):
            for register in (r for engine in (Engine.FETCH, Engine.STORE) for r in _registers(engine)):
                result.add(core, register, 0)
        for position, number in enumerate(self.order.tolist()):
            for core, layer, instruction in self.inserted.get(position, ()):
                own = spread.get(core) if isinstance(instruction, Store) else None
                around = [[_registers(Engine.STORE)[1]], [own]] if own is not None else [[], []]
                for i in (*around[0], instruction, *around[1]):
                    result.add(core, i, layer)
            core, instruction = self.before.instructions[number]
            if isinstance(instruction, LocalStrides) and instruction.engine is Engine.STORE:
                spread.pop(core, None)
                if instruction.element != instruction.element_bytes:
                    spread[core] = instruction
            if number in self.sources:
                instruction = replace(instruction, dram=False, external=self.sources[number])
            result.add(core, instruction, self.before.layers[number])
        return result


def _transfer(size: int, burst_bytes: int, burst_cycles: float, latency: int, outstanding: int) -> float:
    bursts = np.array([ceil(size / burst_bytes)])
    return float(transfer_cycles(bursts, burst_cycles, latency, outstanding)[0])


def _registers(engine: Engine) -> tuple[Strides, LocalStrides]:
    """What a single row needs."""
    local = LocalStrides(engine=engine, row=0, plane=0, element=1, element_bytes=1)
    return Strides(engine=engine, row=0, plane=0), local
