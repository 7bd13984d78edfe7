"""One configuration: streams for it, their time, and what that cost. Runs in any process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitloom import __version__
from bitloom.exploration.area import area
from bitloom.exploration.space import Point
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.lowering.cache import source_digest
from compiler.ops import OPS
from sim.config import NpuConfig
from targets.streams.lowering import lower_to_streams
from targets.streams.model import HostCall, StreamCall, model_of
from targets.streams.running import time_model

# Configurations that nobody has tried yet also find what is wrong with a compiler: such a one costs its own
# row, not the hundreds behind it.
_FOUND_WRONG = (AssertionError, ArithmeticError, LookupError, ValueError)


@dataclass(frozen=True, slots=True)
class Task:
    """A point and what it stands for. config: None where no NPU can be like that, with the reason in
    `refusal`. graph: digest of the quantized graph. key: of all that the result depends on."""

    point: Point
    graph: str
    config: NpuConfig | None
    refusal: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a point. reason: why there are no figures, or empty. area: see `area`. host_layers:
    which the NPU leaves to the host, where they cost nothing here."""

    point: Point
    reason: str = ""
    cycles: int = 0
    milliseconds: float = 0.0
    energy_pj: float = 0.0
    area: float = 0.0
    mac_utilisation: float = 0.0
    sram_bytes: int = 0
    dram_bytes: int = 0
    instructions: int = 0
    host_layers: int = 0

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def version() -> str:
    """Of bitloom and its sources."""
    return f"{__version__}+{source_digest()}"


def task(point: Point, graph: str, config: NpuConfig | None, refusal: str = "") -> Task:
    """With its key: digests of graph, configuration (but its name) and bitloom."""
    machine = f"{sorted(point.items())} {refusal}" if config is None else repr(_nameless(config))
    key = hashlib.sha256(f"{version()}\0{graph}\0{machine}".encode()).hexdigest()
    return Task(point, graph, config, refusal, key)


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def evaluate(task: Task, graphs: Mapping[str, str]) -> Result:
    """graphs: texts of quantized graphs by digest. The same result wherever it runs."""
    config = task.config
    if config is None:
        return Result(point=task.point, reason=task.refusal)
    try:
        return _measured(task.point, _parsed(graphs[task.graph]), config)
    except BitloomError as error:
        return Result(point=task.point, reason=error.message, area=area(config))
    except _FOUND_WRONG as error:
        said = f"internal error: {type(error).__name__}: {error}"
        return Result(point=task.point, reason=said, area=area(config))


def _measured(point: Point, graph: Graph, config: NpuConfig) -> Result:
    model = model_of(lower_to_streams(graph, config), "explored")
    if not any(isinstance(step, StreamCall) for step in model.steps):
        return Result(point=point, reason="all layers are left to the host", area=area(config))
    timing = time_model(model)
    macs = sum(s.macs for s in timing.totals)
    return Result(
        point=point,
        cycles=timing.cycles,
        milliseconds=timing.milliseconds,
        energy_pj=sum(sum(s.energy_pj.values()) for s in timing.totals),
        area=area(config),
        mac_utilisation=macs / (timing.cycles * config.macs_per_cycle),
        sram_bytes=sum(s.sram_bytes for s in timing.totals),
        dram_bytes=sum(s.dram_bytes for s in timing.totals),
        instructions=sum(s.instructions for s in timing.totals),
        host_layers=sum(isinstance(step, HostCall) for step in model.steps),
    )


def _nameless(config: NpuConfig) -> NpuConfig:
    return dataclasses.replace(config, name="")


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> Graph:
    return parse_graph(text, OPS)
