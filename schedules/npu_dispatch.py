"""The order in which a core's dispatcher hands out instructions.

Layers write all of one tile before the next one. The dispatcher keeps that order, and stops where the queue
of an engine is full: FETCH could begin with the next layer's weights, but stands behind hundreds of products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.config import NpuConfig
from sim.stream import Program, Stream
from sim.timing import Timing, time_program
from sim.tokens import Synchronised


def unbounded(found: Synchronised, config: NpuConfig) -> Timing:
    """The schedule if queues held everything: an instruction waits for tokens, banks and its engine only."""
    depth = max(map(len, found.program.streams))
    return time_program(found.program, replace(config, queue_depth=depth))


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A program in the order in which it is dispatched. origin: as of `Synchronised`; cycles: in the order of
    starts, with queues that hold everything."""

    program: Program
    origin: tuple[tuple[int, ...], ...]
    cycles: int


def as_written(found: Synchronised, config: NpuConfig) -> Dispatched:
    """Layer by layer, with cycles of queues as they are."""
    return Dispatched(found.program, found.origin, time_program(found.program, config).cycles)


def in_order_of_start(found: Synchronised, config: NpuConfig) -> Dispatched:
    """The same instructions in the order in which they start where queues are never full.

    Each engine's own order stays, and tokens order nothing else: what the program means stays too.
    """
    timing = unbounded(found, config)
    streams: list[Stream] = []
    origin: list[tuple[int, ...]] = []
    for stream, spans, of in zip(found.program.streams, timing.spans, found.origin, strict=True):
        order = np.argsort(spans.start, kind="stable")
        streams.append(Stream(stream.words[order]))
        origin.append(tuple(of[i] for i in order.tolist()))
    return Dispatched(Program(tuple(streams)), tuple(origin), timing.cycles)
