"""The simulator's front door: check a program, run it, time it."""

from __future__ import annotations

from dataclasses import dataclass

from sim.checker import check
from sim.config import NpuConfig
from sim.functional.core import Core, External
from sim.functional.execute import execute
from sim.stream import Program
from sim.timing import Timing, time_program


@dataclass(frozen=True, slots=True)
class Run:
    """What the program left in its cores, and when what happened. SRAM and DRAM are in the `External` that it
    was run on."""

    cores: tuple[Core, ...]
    timing: Timing


def simulate(program: Program, config: NpuConfig, external: External) -> Run:
    """Checks the program, computes all results into `external`, bit for bit, and times it.

    `sim.timing.time_program` gives the same times without results, for programs that are known to be right.
    Errors: StreamError that names the instruction, for hazards, deadlocks, addresses out of bounds, reads of
    what nobody wrote, and operands that an engine does not take.
    """
    order = check(program, config)
    cores = tuple(Core.of(config) for _ in program.streams)
    execute(cores, external, [s.decode(core) for core, s in enumerate(program.streams)], order.pairs())
    return Run(cores, time_program(program, config))
