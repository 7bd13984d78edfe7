"""bitloom.simulate: a network for the NPU on the simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.numerics.element import Array
from sim.statistics import Statistics
from sim.trace import trace
from targets.streams.model import HostCall, NpuModel, StreamCall, read_model
from targets.streams.running import ModelTiming, check_streams, run_model, time_model

_DMA = ("LOAD", "FETCH", "STORE")


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer. cycles: from the end of the layers before it to its own; they sum to the total, however
    layers overlap. mac_utilisation: of those cycles. limit: the engine that was busy longest, or `sync` where
    none was busy for half of the layer's time; `host` with the reason where the NPU did nothing."""

    layer: str
    operator: str
    cycles: int
    mac_utilisation: float
    limit: str
    sram_bytes: int
    dram_bytes: int
    energy_pj: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Simulation:
    """outputs: by name; None where only times were asked for. cycles: of the NPU; the host's layers take
    none."""

    name: str
    npu: str
    cycles: int
    milliseconds: float
    macs: int
    mac_utilisation: float
    sram_bytes: int
    dram_bytes: int
    energy_pj: float
    instructions: int
    layers: tuple[LayerReport, ...]
    outputs: Mapping[str, Array] | None


def simulate(
    path: str | Path, inputs: Mapping[str, Array] | None = None, *, trace_file: str | Path | None = None
) -> Simulation:
    """Times the network in folder `path`; with inputs (one array each), checks its streams and runs them.

    trace_file: takes a trace for https://ui.perfetto.dev. Errors: BitloomError for a folder without a network
    for the NPU; StreamError for streams that are wrong.
    """
    return simulate_model(read_model(Path(path)), inputs, trace_file=trace_file)


def simulate_model(
    model: NpuModel, inputs: Mapping[str, Array] | None, *, trace_file: str | Path | None = None
) -> Simulation:
    """As `simulate`, of a network that has been read."""
    outputs = None
    if inputs is not None:
        check_streams(model)
        outputs = run_model(model, inputs)
    timing = time_model(model)
    if trace_file is not None:
        Path(trace_file).write_text(_trace(model, timing))
    return _report(model, timing, outputs)


def _report(model: NpuModel, timing: ModelTiming, outputs: Mapping[str, Array] | None) -> Simulation:
    macs = sum(s.macs for s in timing.totals)
    return Simulation(
        name=model.name,
        npu=model.config.name,
        cycles=timing.cycles,
        milliseconds=timing.milliseconds,
        macs=macs,
        mac_utilisation=macs / (timing.cycles * model.config.macs_per_cycle) if timing.cycles else 0.0,
        sram_bytes=sum(s.sram_bytes for s in timing.totals),
        dram_bytes=sum(s.dram_bytes for s in timing.totals),
        energy_pj=sum(sum(s.energy_pj.values()) for s in timing.totals),
        instructions=sum(s.instructions for s in timing.totals),
        layers=_layers(model, timing),
        outputs=outputs,
    )


def _layers(model: NpuModel, timing: ModelTiming) -> tuple[LayerReport, ...]:
    found: list[LayerReport] = []
    timed = iter(timing.layers)
    for step in model.steps:
        if isinstance(step, HostCall):
            found.append(LayerReport(step.layer, step.operator, 0, 0.0, "host", 0, 0, 0.0, step.reason))
            continue
        for layer in step.layers:
            one = next(timed)
            s = one.statistics
            used = s.macs / (one.cycles * model.config.macs_per_cycle) if one.cycles else 0.0
            energy = sum(s.energy_pj.values())
            moved = (s.sram_bytes, s.dram_bytes)
            names = (layer.layer, layer.operator)
            found.append(LayerReport(*names, one.cycles, used, _limit(s), *moved, energy))
    return tuple(found)


def _limit(statistics: Statistics) -> str:
    """`MAC`, `VEC`, `DMA load`, `DMA fetch`, `DMA store` or `sync`; `next layer` where that computes it."""
    if not statistics.instructions:
        return "next layer"
    limit = statistics.limit
    return f"DMA {limit.lower()}" if limit in _DMA else limit


def _trace(model: NpuModel, timing: ModelTiming) -> str:
    """Programs one behind the other."""
    events: list[dict[str, Any]] = []
    programs = [s for s in model.steps if isinstance(s, StreamCall)]
    begin = 0
    for step, timed in zip(programs, timing.timings, strict=True):
        text = trace(step.program, timed, model.config, _instruction_names(step))
        for event in json.loads(text)["traceEvents"]:
            events.append(event if "ts" not in event else {**event, "ts": event["ts"] + begin})
        begin += timed.cycles
    other = {"npu": model.config.name, "network": model.name, "cycles": timing.cycles}
    return json.dumps({"traceEvents": events, "otherData": other})


def _instruction_names(step: StreamCall) -> list[list[str]]:
    """Of each core's instructions, the layer."""
    labels = [*(layer.layer for layer in step.layers), "halt"]
    return [[labels[n] for n in numbers.tolist()] for numbers in step.numbers]
