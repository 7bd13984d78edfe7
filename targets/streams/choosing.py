"""What there is to choose in a network on an NPU: how its layers are cut, and what a choice costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.lowering.kernel import structural_digest
from schedules.tuning.manners import MannerSpace
from schedules.tuning.networks import LayerSpace, NetworkSpace, version
from schedules.tuning.tilings import TilingSpace
from sim.config import NpuConfig
from sim.timing import time_program
from targets.streams.lowering import HostStep, Lowering, NpuProgram
from targets.streams.writing import StreamStep


def network_subject(lowering: Lowering, config: NpuConfig) -> str:
    """Names networks of the same layers on the same machine, whatever their weights."""
    layers = [(p.call.lowered.form, p.layer is None, lowering.addresses(p)) for p in lowering.planned]
    return structural_digest(config, *layers)


def network_space(lowering: Lowering, program: NpuProgram) -> NetworkSpace:
    """program: as the compiler writes it when nothing is given."""
    config = program.config
    layers, known = dict[int, LayerSpace](), dict[TilingSpace, TilingSpace]()
    staged: list[int] = []
    for step in program.steps:
        if isinstance(step, StreamStep):
            staged += [] if step.plan.staging is None else [step.first]
            for number, (shape, tiling) in sorted(step.products.items()):
                space = TilingSpace(shape, step.plan.fits, tiling)
                layers[step.first + number] = known.setdefault(space, space)
            layers |= {step.first + n: MannerSpace(step.first + n) for n in step.manners}
    subject = network_subject(lowering, config)
    return NetworkSpace(subject, machine_of(config), dict(sorted(layers.items())), tuple(staged), version())


def machine_of(config: NpuConfig) -> str:
    """Of records: the same for the same configuration, however it is called."""
    return f"npu {structural_digest(config)}"


@dataclass(frozen=True, slots=True)
class Cycles:
    """Of a network. parts: of each call, from the end of those before it to its own; the host's take none."""

    total: int
    parts: tuple[float, ...]


def cycles_of(program: NpuProgram) -> Cycles:
    total, parts = 0, list[float]()
    for step in program.steps:
        if isinstance(step, HostStep):
            parts.append(0.0)
            continue
        timing = time_program(step.program, program.config)
        ends = np.zeros(len(step.planned) + 1)
        for spans, numbers in zip(timing.spans, step.numbers, strict=True):
            np.maximum.at(ends, numbers, spans.end)
        reached = np.maximum.accumulate(ends[:-1])
        reached[-1] = timing.cycles
        parts += np.diff(reached, prepend=0.0).tolist()
        total += timing.cycles
    return Cycles(total, tuple(parts))
