"""What a run amounted to: where the cycles went, what was moved, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from sim.config import NpuConfig
from sim.durations import Work
from sim.isa import Engine, Memory
from sim.memories import LOCAL, memory_sizes
from sim.timing import Timing

Mask = NDArray[np.bool_]
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


def statistics(timing: Timing, config: NpuConfig, chosen: Sequence[Mask] | None = None) -> Statistics:
    """Of all instructions, or of those that a mask for each core chooses (the instructions of one layer)."""
    masks = [np.ones(len(s.start), bool) for s in timing.spans] if chosen is None else chosen
    cycles = timing.cycles if chosen is None else _extent(timing, masks)
    pairs = list(zip(timing.work, masks, strict=True))
    macs = sum(int(w.macs[m].sum()) for w, m in pairs)
    sizes = memory_sizes(config)
    moved = [sum(int(w.moved[m & (w.port == port)].sum()) for w, m in pairs) for port in (0, 1)]
    return Statistics(
        cycles=cycles,
        milliseconds=cycles / config.clock_hz * 1000,
        engines=tuple(_engines(timing, core, mask) for core, mask in enumerate(masks)),
        instructions=sum(int(m.sum()) for m in masks),
        macs=macs,
        mac_utilisation=macs / (cycles * config.macs_per_cycle) if cycles else 0.0,
        sram_bytes=moved[0],
        dram_bytes=moved[1],
        touched={m.name: _touched(pairs, m, sizes[m]) for m in LOCAL},
        energy_pj=_energy(config, pairs, cycles, moved),
    )


def _touched(pairs: Sequence[tuple[Work, Mask]], memory: Memory, size: int) -> int:
    most = 0
    for work, mask in pairs:
        a = work.accesses
        mine = (a.memory == memory) & mask[a.index]
        steps = np.bincount(a.begin[mine], minlength=size + 1)[: size + 1]
        steps = steps - np.bincount(a.end[mine], minlength=size + 1)[: size + 1]
        most = max(most, int(np.count_nonzero(np.cumsum(steps))))
    return most


def _extent(timing: Timing, masks: Sequence[Mask]) -> int:
    starts = [s.start[m & (s.engine >= 0)] for s, m in zip(timing.spans, masks, strict=True)]
    ends = [s.end[m & (s.engine >= 0)] for s, m in zip(timing.spans, masks, strict=True)]
    some = [(a.min(), b.max()) for a, b in zip(starts, ends, strict=True) if a.size]
    return int(max(b for _, b in some) - min(a for a, _ in some)) if some else 0


def _engines(timing: Timing, core: int, mask: Mask) -> dict[str, EngineStatistics]:
    spans = timing.spans[core]
    found: dict[str, EngineStatistics] = {}
    for engine in Engine:
        mine = mask & (spans.engine == engine)
        waits = {cause: int(getattr(spans, cause)[mine].sum()) for cause in ("bus", *CAUSES)}
        found[engine.name] = EngineStatistics(int((spans.end - spans.start)[mine].sum()), **waits)
    return found


def _energy(
    config: NpuConfig, pairs: Sequence[tuple[Work, Mask]], cycles: int, moved: Sequence[int]
) -> dict[str, float]:
    """Picojoules. A product of a x w bits costs a * w / 64 of one of 8 x 8."""
    table = config.energy
    weighted = sum(float((w.macs * w.mac_bits)[m].sum()) for w, m in pairs) / 64
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
