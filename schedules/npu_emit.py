"""Instructions of a layer, as tiles make them: registers only where they change, memory in slots of banks.

Layers write instructions as if each ended before the next one began; `sim.tokens` makes them overlap. What
overlaps is decided by where data lie: two neighbouring tiles meet in no slot, so nothing but the engines'
own order holds them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import product

from schedules.npu_choices import Choices, Manner
from schedules.npu_mechanisms import ALL, Mechanisms
from schedules.npu_tiling import Shape, Tiling
from sim.config import NpuConfig
from sim.isa import Engine, Inflate, Instruction, Load, LocalStrides, Memory, Store, Strides
from sim.memories import bank_layout, memory_sizes

MAX_ROW_BYTES = 1 << 15  # a row of Load and Store has 16 bits
MAX_COUNT = 4095  # rows, planes, outputs have 12 bits


@dataclass(slots=True)
class Usage:
    """When each bank of a memory was used last, counted in pieces."""

    bank: int
    last: list[int]

    def of(self, begin: int, size: int) -> int:
        return max(self.last[begin // self.bank : (begin + size - 1) // self.bank + 1])

    def mark(self, begin: int, size: int) -> None:
        now = max(self.last) + 1
        for bank in range(begin // self.bank, (begin + size - 1) // self.bank + 1):
            self.last[bank] = now


@dataclass(slots=True)
class Slots:
    """Places of one size in a memory, each with banks of its own. A piece of data takes the one whose banks
    have been unused for longest, by this layer or those before it: so a layer's first pieces need not wait
    for the last ones of the layer before.

    A piece that still lies in a slot is found again: this is how weights stay over all tiles where they fit.
    """

    base: int
    size: int
    count: int
    usage: Usage
    _held: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    def take(self, piece: Hashable) -> tuple[int, bool]:
        """Address for a piece, and whether it must be filled."""
        at = self._held.get(piece)
        fresh = at is None
        if at is None:
            at = min(
                (self.base + i * self.size for i in range(self.count)),
                key=lambda begin: self.usage.of(begin, self.size),
            )
            self._held = {p: place for p, place in self._held.items() if place != at}
            self._held[piece] = at
        self.usage.mark(at, self.size)
        return at, fresh


@dataclass(slots=True)
class Emitter:
    """Collects (core, instruction) in the order that results must respect. layers: of each one, the number of
    the layer that it belongs to. expects: what tilings reckon with, where constants do not come as `config`
    says. mechanisms: those that tilings may use. chosen: what is given, by layer. products: what layers of
    products were, and the tilings that they had; manners: of other layers."""

    config: NpuConfig
    expects: NpuConfig
    mechanisms: Mechanisms = ALL
    chosen: Choices = field(default_factory=Choices)
    products: dict[int, tuple[Shape, Tiling]] = field(default_factory=dict[int, tuple[Shape, Tiling]])
    manners: dict[int, Manner] = field(default_factory=dict[int, Manner])
    instructions: list[tuple[int, Instruction]] = field(default_factory=list[tuple[int, Instruction]])
    layers: list[int] = field(default_factory=list[int])
    layer: int = 0
    _registers: dict[tuple[int, type[Instruction], Engine | None], Instruction] = field(
        default_factory=dict[tuple[int, type[Instruction], Engine | None], Instruction]
    )
    _usage: dict[tuple[int, Memory], Usage] = field(default_factory=dict[tuple[int, Memory], Usage])

    def slots(self, core: int, memory: Memory, base: int, size: int, count: int) -> Slots:
        """Bytes (words of accumulators) of a memory inside of a core as `count` places."""
        if (core, memory) not in self._usage:
            bank, _ = bank_layout(self.config)[memory]
            banks = -(-memory_sizes(self.config)[memory] // bank)
            self._usage[core, memory] = Usage(bank, [0] * banks)
        return Slots(base, size, count, self._usage[core, memory])

    def add(self, core: int, instruction: Instruction) -> None:
        self.instructions.append((core, instruction))
        self.layers.append(self.layer)

    @property
    def manner(self) -> Manner:
        """Of the layer that is written."""
        return self.manners.setdefault(self.layer, self.chosen.manners.get(self.layer, Manner()))

    def set(self, core: int, register: Instruction) -> None:
        """Sets a register, unless it holds this already."""
        key = (core, type(register), register.runs_on)
        if self._registers.get(key) != register:
            self._registers[key] = register
            self.add(core, register)

    def get(self, core: int, register: type[Instruction], engine: Engine) -> Instruction | None:
        """What a register holds, or None where nobody has set it."""
        return self._registers.get((core, register, engine))


@dataclass(frozen=True, slots=True)
class Address:
    """A byte outside of the cores."""

    dram: bool
    byte: int

    def __add__(self, offset: int) -> Address:
        return Address(self.dram, self.byte + offset)


@dataclass(frozen=True, slots=True)
class Run:
    """A dimension of a block: count steps of so many bytes outside and inside of the core."""

    count: int
    external: int
    local: int


def load(
    e: Emitter,
    core: int,
    source: Address,
    memory: Memory,
    local: int,
    runs: list[Run],
    row: int,
    engine: Engine | None = None,
) -> None:
    """Blocks of rows of `row` contiguous bytes, runs from the outermost dimension in.

    Where nothing else is said, images come by LOAD, constants by FETCH: weights of the tiles ahead do not
    wait for images.
    """
    if engine is None:
        engine = Engine.LOAD if memory is Memory.ACTIVATION else Engine.FETCH
    for runs_, row_, outside, inside in _blocks(runs, row):
        _strides(e, core, engine, runs_, row_)
        planes, rows = runs_
        e.add(
            core,
            Load(
                engine=engine,
                dram=source.dram,
                external=source.byte + outside,
                memory=memory,
                local=local + inside,
                row_bytes=row_,
                rows=rows.count,
                planes=planes.count,
            ),
        )


def store(e: Emitter, core: int, local: int, target: Address, runs: list[Run], row: int) -> None:
    """As `load`, from the activation memory."""
    for runs_, row_, outside, inside in _blocks(runs, row):
        _strides(e, core, Engine.STORE, runs_, row_)
        planes, rows = runs_
        e.add(
            core,
            Store(
                dram=target.dram,
                external=target.byte + outside,
                local=local + inside,
                row_bytes=row_,
                rows=rows.count,
                planes=planes.count,
            ),
        )


@dataclass(frozen=True, slots=True)
class Blob:
    """Constant bytes outside of the cores; packed: compressed to so many bytes, 0 where they are not."""

    address: Address
    raw: int
    packed: int = 0


def load_blob(
    e: Emitter, core: int, blob: Blob, memory: Memory, local: int, engine: Engine = Engine.FETCH
) -> None:
    if blob.packed:
        at = blob.address
        e.add(
            core,
            Inflate(
                engine=engine,
                dram=at.dram,
                external=at.byte,
                memory=memory,
                local=local,
                raw_bytes=blob.raw,
                packed_bytes=blob.packed,
            ),
        )
    else:
        load(e, core, blob.address, memory, local, [], blob.raw, engine)


def merged(runs: list[Run], row: int) -> tuple[list[Run], int]:
    """The same bytes in as few and as long rows as they make."""
    left: list[Run] = []
    for run in reversed([r for r in runs if r.count > 1]):
        if not left and run.external == row == run.local:
            row *= run.count
        elif left and (run.external, run.local) == (
            left[0].count * left[0].external,
            left[0].count * left[0].local,
        ):
            left[0] = Run(left[0].count * run.count, left[0].external, left[0].local)
        else:
            left.insert(0, run)
    return left, row


def _blocks(runs: list[Run], row: int) -> Iterator[tuple[tuple[Run, Run], int, int, int]]:
    """Pieces with two runs, each within the fields of an instruction: runs, row bytes, offsets outside and
    inside."""
    runs, row = merged(runs, row)
    if row > MAX_ROW_BYTES:
        whole, rest = divmod(row, MAX_ROW_BYTES)
        yield from _blocks([*runs, Run(whole, MAX_ROW_BYTES, MAX_ROW_BYTES)], MAX_ROW_BYTES)
        if rest:
            at = whole * MAX_ROW_BYTES
            for inner, size, outside, inside in _blocks(runs, rest):
                yield inner, size, outside + at, inside + at
        return
    for run in runs:
        if run.count > MAX_COUNT:
            at = runs.index(run)
            for first in range(0, run.count, MAX_COUNT):
                part = Run(min(MAX_COUNT, run.count - first), run.external, run.local)
                for inner, size, outside, inside in _blocks([*runs[:at], part, *runs[at + 1 :]], row):
                    yield inner, size, outside + first * run.external, inside + first * run.local
            return
    outer, inner = runs[:-2], [Run(1, 0, 0), Run(1, 0, 0), *runs][-2:]
    for indices in product(*(range(r.count) for r in outer)):
        outside = sum(i * r.external for i, r in zip(indices, outer, strict=True))
        inside = sum(i * r.local for i, r in zip(indices, outer, strict=True))
        yield (inner[0], inner[1]), row, outside, inside


def _strides(e: Emitter, core: int, engine: Engine, runs: tuple[Run, Run], row: int) -> None:
    planes, rows = runs
    alone = rows.count == planes.count == 1
    outside, inside = (e.get(core, register, engine) for register in (Strides, LocalStrides))
    plain = isinstance(inside, LocalStrides) and inside.element == inside.element_bytes == 1
    if alone and plain and outside is not None:
        return  # strides that nobody uses: whatever stands there will do
    if rows.count == 1:
        rows = Run(1, row, row)
    if planes.count == 1:
        planes = Run(1, 0, 0)
    e.set(core, Strides(engine=engine, row=rows.external, plane=planes.external))
    local = LocalStrides(engine=engine, row=rows.local, plane=planes.local, element=1, element_bytes=1)
    e.set(core, local)
