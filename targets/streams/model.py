"""A compiled network as a value, and its files: commands, constants, manifest, graph.

Imports little: times alone need neither the graph nor the compiler.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.numerics.element import Array
from sim.config import NpuConfig, config_from
from sim.fields import Column
from sim.stream import INSTRUCTION_BYTES, Program, Stream

if TYPE_CHECKING:
    from compiler.ir.graph import Graph, Node, Value
    from compiler.lowering.storage import Place
    from targets.streams.lowering import NpuProgram
    from targets.streams.placing import Planned
    from targets.streams.writing import StreamStep

HOST, SRAM, DRAM = "host", "sram", "dram"  # where values lie
FORMAT, VERSION = "bitloom-npu", 2
COMMANDS, CONSTANTS, GRAPH = ".commands.bin", ".constants.bin", ".ir.gz"


@dataclass(frozen=True, slots=True)
class Location:
    """memory: "host", "sram" or "dram"; byte: of the first element; strides: in elements, None for C
    order."""

    memory: str
    byte: int
    strides: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class HostCall:
    """A node by its operator's reference, or the copy of a value to a place. value: whose layer it is;
    layer, operator: what reports call it; reason: why the NPU does not do it."""

    value: str
    layer: str
    operator: str
    reason: str
    source: str | None = None
    target: Location | None = None


@dataclass(frozen=True, slots=True)
class StreamLayer:
    """value: the node's result; layer, operator: what reports call it; whole: it is complete behind this
    layer."""

    value: str
    layer: str
    operator: str
    whole: bool


@dataclass(frozen=True, slots=True)
class StreamCall:
    """One program, and the layers in it. numbers: for each core and instruction, the number of its layer;
    of `Halt`, how many there are. Layers overlap in a stream; in the order of these numbers they do not."""

    program: Program
    layers: tuple[StreamLayer, ...]
    numbers: tuple[Column, ...]


@dataclass(frozen=True)  # no slots: a cached property
class NpuModel:
    """read_graph: gives the graph, which times alone do not need. locations: by name, of all values that are
    not constants and leave the cores. constants: DRAM from byte 0."""

    name: str
    read_graph: Callable[[], Graph]
    config: NpuConfig
    locations: Mapping[str, Location]
    steps: tuple[HostCall | StreamCall, ...]
    constants: Array
    host_bytes: int

    @cached_property
    def graph(self) -> Graph:
        """Errors: BitloomError where it is damaged."""
        return self.read_graph()


def model_of(program: NpuProgram, name: str) -> NpuModel:
    from targets.streams.lowering import HostStep

    def located(value: Value, place: Place) -> Location:
        memory, at = program.memories[place.buffer]
        return Location(memory, at + place.offset * value.type.element.dtype.itemsize, place.strides)

    def names(p: Planned) -> tuple[str, str, str]:
        node = p.call.node
        value = node.outputs[0].name
        return value, " + ".join(node.location.names) or value, node.op.mnemonic

    def host(p: Planned) -> HostCall:
        assert p.refusal is not None
        if p.call.copies and p.call.reads:  # of a constant, the node as a whole gives it too
            x = p.call.reads[0]
            return HostCall(*names(p), p.refusal, x.name, located(x, p.call.places[0]))
        return HostCall(*names(p), p.refusal)

    def stream(step: StreamStep) -> StreamCall:
        layers = [StreamLayer(*names(p), p.call.completes and not p.kept) for p in step.planned]
        return StreamCall(step.program, tuple(layers), step.numbers)

    places = program.places.items()
    locations = {v.name: located(v, p) for v, p in places if p.buffer in program.memories}
    steps = tuple(host(s.planned) if isinstance(s, HostStep) else stream(s) for s in program.steps)
    graph = program.graph
    return NpuModel(name, lambda: graph, program.config, locations, steps, program.dram, program.host_bytes)


def model_files(model: NpuModel, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """Contents by file name, but for the graph. facts: more entries of the manifest."""
    commands = b""
    steps: list[dict[str, Any]] = []
    for step in model.steps:
        if isinstance(step, HostCall):
            steps.append({"host": dataclasses.asdict(step)})
            continue
        streams: list[dict[str, Any]] = []
        for stream, numbers in zip(step.program.streams, step.numbers, strict=True):
            runs = _runs(numbers)
            streams.append({"offset": len(commands), "instructions": len(stream), "layers": runs})
            commands += stream.to_bytes()
        steps.append({"streams": streams, "layers": [dataclasses.asdict(x) for x in step.layers]})
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "name": model.name,
        **facts,
        "variants": [{"name": model.config.name}],
        "npu": dataclasses.asdict(model.config),
        "files": {
            "commands": f"{model.name}{COMMANDS}",
            "constants": f"{model.name}{CONSTANTS}",
            "driver": f"{model.name}_driver.c",
            "header": f"{model.name}_driver.h",
        },
        "host_bytes": model.host_bytes,
        "values": {name: dataclasses.asdict(at) for name, at in model.locations.items()},
        "steps": steps,
    }
    return {
        f"{model.name}{COMMANDS}": commands,
        f"{model.name}{CONSTANTS}": model.constants.tobytes(),
        f"{model.name}.json": json.dumps(manifest, indent=1).encode(),
    }


def manifest_of(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The manifest of a network for the NPU in a folder, or None where it holds none."""
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            record: Any = json.loads(path.read_bytes())
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("format") == FORMAT:
            return path, record
    return None


def read_model(folder: Path) -> NpuModel:
    """Errors: BitloomError where the folder holds no network for the NPU, or one that is damaged."""
    found = manifest_of(folder)
    if found is None:
        raise BitloomError(
            f"{folder} holds no network for the NPU", "bitloom compile --target npu/npu-256 writes one"
        )
    path, record = found
    if record["version"] != VERSION:
        raise BitloomError(
            f"{path} has version {record['version']}, this bitloom reads {VERSION}: compile again"
        )
    with _refusing_damage(folder):
        return _read(folder, record)


@contextmanager
def _refusing_damage(folder: Path) -> Generator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, ValueError, KeyError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else error
        raise BitloomError(f"{folder} is damaged: {said}", "compile the model again") from error


def _read(folder: Path, record: Mapping[str, Any]) -> NpuModel:
    commands = (folder / record["files"]["commands"]).read_bytes()
    constants = np.frombuffer((folder / record["files"]["constants"]).read_bytes(), np.uint8)
    path = folder / f"{record['name']}{GRAPH}"

    def graph() -> Graph:
        from compiler.ir.parser import parse_graph
        from compiler.ops import OPS

        with _refusing_damage(folder):
            return parse_graph(gzip.decompress(path.read_bytes()).decode(), OPS)

    return NpuModel(
        record["name"],
        graph,
        config_from(record["npu"]),
        {name: _location(at) for name, at in record["values"].items()},
        tuple(_step(step, commands) for step in record["steps"]),
        constants,
        record["host_bytes"],
    )


def _step(record: Mapping[str, Any], commands: bytes) -> HostCall | StreamCall:
    if "host" in record:
        call = record["host"]
        target = None if call["target"] is None else _location(call["target"])
        names = (call["value"], call["layer"], call["operator"])
        return HostCall(*names, call["reason"], call["source"], target)
    streams: list[Stream] = []
    numbers: list[Column] = []
    for part in record["streams"]:
        end = part["offset"] + part["instructions"] * INSTRUCTION_BYTES
        if end > len(commands):
            raise ValueError(f"the commands end at byte {len(commands)}, before {end}")
        streams.append(Stream.from_bytes(commands[part["offset"] : end]))
        numbers.append(np.repeat(part["layers"][::2], part["layers"][1::2]))
        if len(numbers[-1]) != part["instructions"]:
            raise ValueError(f"{part['instructions']} instructions, layers of {len(numbers[-1])}")
    layers = tuple(StreamLayer(x["value"], x["layer"], x["operator"], x["whole"]) for x in record["layers"])
    return StreamCall(Program(tuple(streams)), layers, tuple(numbers))


def _runs(numbers: Column) -> list[int]:
    """Each number that stands beside itself, and how often."""
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    lengths = np.diff(begins, append=len(numbers))
    return np.stack([numbers[begins], lengths], axis=1).reshape(-1).tolist()


def _location(record: Mapping[str, Any]) -> Location:
    strides = record["strides"]
    return Location(record["memory"], record["byte"], None if strides is None else tuple(strides))


def node_of(graph: Graph, value: str) -> Node:
    """The node that makes a value."""
    return next(n for n in graph.nodes if any(v.name == value for v in n.outputs))
