"""What a network for the NPU consists of, read from its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.ir.graph import Value
from compiler.report import short_type
from sim.fields import Column
from sim.isa import Inflate, Load, Memory
from sim.stream import INSTRUCTION_BYTES, Stream
from targets.streams.model import (
    HostCall,
    Location,
    NpuModel,
    StreamCall,
    StreamLayer,
    manifest_of,
    node_of,
    read_model,
)

_PROVENANCE = ("name", "target", "digest", "calibration_samples", "versions")


@dataclass(frozen=True, slots=True)
class PortAccount:
    """An input or output of the graph. memory: "host", "sram" or "dram"; byte: where it begins there."""

    kind: str
    name: str
    type: str
    memory: str
    byte: int


@dataclass(frozen=True, slots=True)
class LayerAccount:
    """program: its number, None at the host, with the reason. weights_raw, weights_fetched: bytes of weights
    that the layer's instructions bring into weight memories, as the array takes them and as they are moved; a
    piece that is fetched twice counts twice."""

    layer: str
    operator: str
    program: int | None
    instructions: int
    weights_raw: int
    weights_fetched: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class StreamAccount:
    """The commands of one core in one program."""

    program: int
    core: int
    instructions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MemoryAccount:
    """tensors: bytes up to the end of the last tensor; constants: behind them. size: of the memory, None for
    the host's."""

    memory: str
    values: int
    tensors: int
    constants: int
    size: int | None


@dataclass(frozen=True, slots=True)
class PlacedAccount:
    """A tensor and the bytes that it takes, up to the last element of its strides."""

    value: str
    memory: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class NpuAccount:
    """files: bytes by name. placed: all values that are not constants, by memory and byte. sram_plan: bytes
    of all tensors in SRAM in whole lines; sram_bound: no plan takes less."""

    provenance: dict[str, Any]
    npu: str
    ports: tuple[PortAccount, ...]
    layers: tuple[LayerAccount, ...]
    streams: tuple[StreamAccount, ...]
    memories: tuple[MemoryAccount, ...]
    placed: tuple[PlacedAccount, ...]
    sram_plan: int
    sram_bound: int
    weight_bytes: int
    files: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        return {**record.pop("provenance"), **record}


def npu_account(folder: Path) -> NpuAccount:
    """Errors: BitloomError for a folder without a network for the NPU, or a damaged one."""
    model = read_model(folder)
    found = manifest_of(folder)
    assert found is not None  # read_model would have refused
    _, manifest = found
    placed = tuple(sorted(_placed(model), key=lambda p: (p.memory, p.begin, p.end, p.value)))
    own = [p for p in sorted(folder.iterdir()) if p.name.startswith((f"{model.name}.", f"{model.name}_"))]
    return NpuAccount(
        provenance={key: manifest.get(key) for key in _PROVENANCE},
        npu=model.config.name,
        ports=tuple(_ports(model)),
        layers=tuple(_layers(model)),
        streams=tuple(_streams(model)),
        memories=_memories(model, placed),
        placed=placed,
        sram_plan=manifest["summary"]["arena_bytes"],
        sram_bound=manifest["summary"]["arena_lower_bound"],
        weight_bytes=manifest["summary"]["weight_bytes"],
        files={p.name: p.stat().st_size for p in own if p.is_file()},
    )


def _ports(model: NpuModel) -> Iterator[PortAccount]:
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            at = model.locations.get(value.name, Location("constant", 0, None))
            yield PortAccount(kind, value.name, short_type(value.type), at.memory, at.byte)


def _layers(model: NpuModel) -> Iterator[LayerAccount]:
    program = 0
    for step in model.steps:
        if isinstance(step, HostCall):
            yield LayerAccount(*_names(model, step.value), None, 0, 0, 0, step.reason)
            continue
        for number, layer in enumerate(step.layers):
            yield _layer(model, step, program, number, layer)
        program += 1


def _layer(model: NpuModel, step: StreamCall, program: int, number: int, layer: StreamLayer) -> LayerAccount:
    instructions = raw = fetched = 0
    for stream, numbers in zip(step.program.streams, step.numbers, strict=True):
        instructions += int(np.count_nonzero(numbers == number))
        one = _weights(stream, numbers, number)
        raw, fetched = raw + one[0], fetched + one[1]
    return LayerAccount(*_names(model, layer.value), program, instructions, raw, fetched)


def _weights(stream: Stream, numbers: Column, number: int) -> tuple[int, int]:
    """Bytes that a layer's instructions of one core write into its weight memory, and bytes moved for it."""
    raw = fetched = 0
    for cls in (Inflate, Load):
        chosen = stream.select(cls)
        columns = stream.columns(cls, chosen[numbers[chosen] == number])
        mine = columns["memory"] == Memory.WEIGHT
        if cls is Inflate:
            raw += int(columns["raw_bytes"][mine].sum())
            fetched += int(columns["packed_bytes"][mine].sum())
        else:
            plain = int((columns["row_bytes"] * columns["rows"] * columns["planes"])[mine].sum())
            raw, fetched = raw + plain, fetched + plain
    return raw, fetched


def _streams(model: NpuModel) -> Iterator[StreamAccount]:
    programs = [s.program for s in model.steps if isinstance(s, StreamCall)]
    for number, program in enumerate(programs):
        for core, stream in enumerate(program.streams):
            yield StreamAccount(number, core, len(stream), len(stream) * INSTRUCTION_BYTES)


def _placed(model: NpuModel) -> Iterator[PlacedAccount]:
    for value in model.graph.values():
        at = model.locations.get(value.name)
        if at is not None:
            yield PlacedAccount(value.name, at.memory, at.byte, at.byte + _extent(value, at))


def _extent(value: Value, at: Location) -> int:
    """Bytes from the first element to the end of the last one."""
    shape, item = value.type.shape, value.type.element.dtype.itemsize
    if at.strides is None:
        return value.type.element.stored_bytes(shape)
    return (sum((n - 1) * s for n, s in zip(shape, at.strides, strict=True)) + 1) * item


def _memories(model: NpuModel, placed: tuple[PlacedAccount, ...]) -> tuple[MemoryAccount, ...]:
    sizes = {"sram": model.config.sram.size_bytes, "dram": model.config.dram.size_bytes, "host": None}
    found: list[MemoryAccount] = []
    for memory, size in sizes.items():
        mine = [p for p in placed if p.memory == memory]
        end = max((p.end for p in mine), default=0)
        constants = max(0, model.constants.size - end) if memory == "dram" else 0
        found.append(MemoryAccount(memory, len(mine), end, constants, size))
    return tuple(found)


def _names(model: NpuModel, value: str) -> tuple[str, str]:
    """Layer and operator."""
    node = node_of(model.graph, value)
    return " + ".join(node.location.names) or value, node.op.mnemonic
