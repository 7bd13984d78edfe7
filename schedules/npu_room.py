"""What copies of constants are given, of SRAM and of a core, and how they are planned."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field, replace
from math import ceil

from sim.config import NpuConfig

LEAST_BANKS = 6  # of the activation memory: two are kept for staging
BANKS = 2


@dataclass(frozen=True, slots=True)
class Staging:
    """How copies are planned.

    idle: LOAD fetches copies where it is busy for less than that part of the time FETCH would be. window:
    cycles to either side of a demand in which that is looked at. margin: of a transfer, how much later than
    planned data may arrive without delaying STORE. even: what takes several pieces is cut into equal ones.
    shares: LOAD fetches copies also between rows whose elements it spreads, and what it fetches counts as
    time in which it is busy. pauses: no copies are made while FETCH brings what else a layer reads.
    """

    idle: float = 0.8
    window: float = 3000.0
    margin: float = 0.1
    even: bool = False
    shares: bool = False
    pauses: bool = False


PLAIN = Staging()


@dataclass(slots=True)
class Room:
    """Free space of SRAM. taken: rows of (begin, end, first and last layer) that other data take."""

    size: int
    taken: list[tuple[int, int, int, int]]
    _sorted: list[tuple[int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int]])

    def find(self, size: int, first: int, last: int) -> int | None:
        """Where so many bytes are free from layer `first` to `last`."""
        at = 0
        for begin, end, since, until in self._by_begin():
            if since <= last and first <= until:
                if at + size <= begin:
                    break
                at = max(at, end)
        return at if at + size <= self.size else None

    def _by_begin(self) -> list[tuple[int, int, int, int]]:
        """What is taken; rows are only ever added."""
        for row in self.taken[len(self._sorted) :]:
            insort(self._sorted, row)
        return self._sorted


def reserved(config: NpuConfig) -> NpuConfig:
    """What is left for layers: the last banks of the activation memory are kept for copies."""
    pads = config.scratchpad
    if pads.activation_banks < LEAST_BANKS:
        return config
    banks, bank = pads.activation_banks - BANKS, pads.activation_bytes // pads.activation_banks
    return replace(config, scratchpad=replace(pads, activation_banks=banks, activation_bytes=banks * bank))


def expected(config: NpuConfig) -> NpuConfig:
    """What the tiling of a layer without tensors in DRAM should reckon with: constants come at the rate of
    SRAM, behind the latency of DRAM for those that were not copied."""
    sram, latency = config.sram, config.dram.read_latency_cycles
    rounds = sram.read_outstanding * sram.burst_bytes / (sram.read_latency_cycles + sram.burst_cycles)
    rate = min(rounds, sram.bytes_per_cycle)
    outstanding = ceil(latency * rate / sram.burst_bytes) + 1
    return replace(
        config,
        dram=replace(
            config.dram, bytes_per_cycle=rate, burst_bytes=sram.burst_bytes, read_outstanding=outstanding
        ),
    )
