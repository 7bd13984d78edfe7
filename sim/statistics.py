"""What a run amounted to: where the cycles went, what was moved, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.durations import Work
from sim.fields import Column
from sim.isa import Engine, Memory
from sim.memories import LOCAL, memory_sizes
from sim.timing import Timing

# Of a core: a mask, or what stands one behind the other.
Chosen = NDArray[np.bool_] | slice
CAUSES = ("queue", "token", "bank")


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Cycles of one engine of one core. busy includes bus: what transfers lost to others on their port.
    queue, token, bank: idle, waiting for the dispatcher, for tokens, for banks; the rest: idle at the end."""

    busy: int
    bus: int
    queue: int
    token: int
    bank: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """cycles: of the whole program, or from the first start to the last end of a part of it.

    engines: by core and name. mac_utilisation: products over what all arrays could make at 8 x 8 bits in that
    time; narrow operands can pass 1. sram_bytes, dram_bytes: moved by whole bursts. touched: bytes (words of
    accumulators) of each memory inside a core that were read or written at all, of the core with most.
    energy_pj: by the configuration's table, by part of the NPU.
    """

    cycles: int
    milliseconds: float
    engines: tuple[dict[str, EngineStatistics], ...]
    instructions: int
    macs: int
    mac_utilisation: float
    sram_bytes: int
    dram_bytes: int
    touched: dict[str, int]
    energy_pj: dict[str, float]

    @property
    def limit(self) -> str:
        """The engine that was busy longest, or `sync` where none was busy for half of the time."""
        busy = {name: max(core[name].busy for core in self.engines) for name in self.engines[0]}
        name = max(busy, key=lambda n: busy[n])
        return name if 2 * busy[name] >= self.cycles else "sync"

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "limit": self.limit}


def statistics(timing: Timing, config: NpuConfig, chosen: Sequence[Chosen] | None = None) -> Statistics:
    """Of all instructions, or of those that are chosen of each core (the instructions of one layer)."""
    parts = [slice(None)] * len(timing.spans) if chosen is None else chosen
    cycles = timing.cycles if chosen is None else _extent(timing, parts)
    pairs = list(zip(timing.work, parts, strict=True))
    macs = sum(int(w.macs[p].sum()) for w, p in pairs)
    sizes = memory_sizes(config)
    moved = [sum(int(w.moved[p][w.port[p] == port].sum()) for w, p in pairs) for port in (0, 1)]
    return Statistics(
        cycles=cycles,
        milliseconds=cycles / config.clock_hz * 1000,
        engines=tuple(_engines(timing, core, part) for core, part in enumerate(parts)),
        instructions=sum(len(w.macs[p]) for w, p in pairs),
        macs=macs,
        mac_utilisation=macs / (cycles * config.macs_per_cycle) if cycles else 0.0,
        sram_bytes=moved[0],
        dram_bytes=moved[1],
        touched=_touched([_accesses(w, p) for w, p in pairs], sizes),
        energy_pj=_energy(config, pairs, cycles, moved),
    )


def _accesses(work: Work, part: Chosen) -> tuple[Column, Column, Column]:
    """Memory, begin and end of all accesses of the chosen instructions."""
    a = work.accesses
    if isinstance(part, slice):
        rows = np.arange(len(work.macs))[part]
        ends = (rows[0], rows[-1] + 1) if rows.size else (0, 0)
        mine = slice(*np.searchsorted(a.index, ends).tolist())
    else:
        mine = np.flatnonzero(part[a.index])
    return a.memory[mine], a.begin[mine], a.end[mine]


def _touched(
    per_core: Sequence[tuple[Column, Column, Column]], sizes: Mapping[Memory, int]
) -> dict[str, int]:
    most = dict.fromkeys((m.name for m in LOCAL), 0)
    for memory, begin, end in per_core:
        for m in LOCAL:
            mine = memory == m
            steps = np.bincount(begin[mine], minlength=sizes[m] + 1)[: sizes[m] + 1]
            steps = steps - np.bincount(end[mine], minlength=sizes[m] + 1)[: sizes[m] + 1]
            most[m.name] = max(most[m.name], int(np.count_nonzero(np.cumsum(steps))))
    return most


def _extent(timing: Timing, parts: Sequence[Chosen]) -> int:
    chosen = [(s.start[p], s.end[p], s.engine[p] >= 0) for s, p in zip(timing.spans, parts, strict=True)]
    some = [(a[m].min(), b[m].max()) for a, b, m in chosen if m.any()]
    return int(max(b for _, b in some) - min(a for a, _ in some)) if some else 0


def _engines(timing: Timing, core: int, part: Chosen) -> dict[str, EngineStatistics]:
    spans = timing.spans[core]
    engine = spans.engine[part]
    columns = {"busy": (spans.end - spans.turn)[part]}
    columns |= {cause: getattr(spans, cause)[part] for cause in ("bus", *CAUSES)}
    sums = {
        name: np.bincount(engine[engine >= 0], column[engine >= 0], len(Engine))
        for name, column in columns.items()
    }
    return {e.name: EngineStatistics(**{n: int(s[e]) for n, s in sums.items()}) for e in Engine}


def _energy(
    config: NpuConfig, pairs: Sequence[tuple[Work, Chosen]], cycles: int, moved: Sequence[int]
) -> dict[str, float]:
    """Picojoules. A product of a x w bits costs a * w / 64 of one of 8 x 8."""
    table = config.energy
    weighted = sum(float((w.macs[m] * w.mac_bits[m]).sum()) for w, m in pairs) / 64
    words = sum(int(w.accumulator_words[m].sum()) for w, m in pairs)
    local = sum(int(w.scratchpad_bytes[m].sum()) for w, m in pairs)
    elements = sum(int(w.elements[m].sum()) for w, m in pairs)
    return {
        "mac": weighted * table.mac_pj,
        "accumulator": words * table.accumulator_word_pj,
        "scratchpad": local * table.scratchpad_byte_pj,
        "vec": elements * table.vec_element_pj,
        "sram": moved[0] * table.sram_byte_pj,
        "dram": moved[1] * table.dram_byte_pj,
        "idle": cycles * config.cores * table.idle_cycle_pj,
    }
