"""The hardware description in sim/rtl, built for a configuration by Verilator and run on programs."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.numerics.element import Array
from sim import compression
from sim.config import NpuConfig
from sim.isa import INSTRUCTIONS, Memory, fields_of
from sim.isa.base import OPCODE_BITS, TOKEN_BITS, TOKENS_AT
from sim.memories import bank_layout
from sim.programs.random import RandomProgram

SOURCES = Path(__file__).parent / "rtl"
# Of SRAM and DRAM that the description holds; programs for it must stay below.
EXTERNAL_BYTES = 1 << 18
PROGRAM_LENGTH = 1 << 14


class RtlError(RuntimeError):
    """Verilator is absent or failed, or a program did not halt; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class RtlRun:
    """cycles until the halt; busy: cycles of the engines, in their order; contents of memories at the end."""

    cycles: int
    busy: tuple[int, ...]
    sram: Array
    dram: Array
    activation: Array
    accumulators: Array


def parameters(config: NpuConfig) -> dict[str, int]:
    """Parameters of the description by name."""
    mac, pads, vec = config.mac, config.scratchpad, config.vec
    found = {
        "ROWS": mac.rows,
        "COLUMNS": mac.columns,
        "WEIGHT_PORT_BYTES": mac.weight_port_bytes,
        "ACCUMULATOR_PORT_BITS": mac.accumulator_port_bits,
        "DEPTHWISE_CHANNELS": mac.depthwise_channels,
        "DEPTHWISE_TAPS": mac.depthwise_taps,
        "MAX_MACS": mac.max_macs_per_multiplier,
        "MAC_PIPELINE": mac.pipeline_cycles,
        "VEC_LANES": vec.lanes,
        "REQUANTIZE_CYCLES": vec.requantize_cycles,
        "LOOKUP_CYCLES": vec.lookup_cycles,
        "ELEMENTWISE_CYCLES": vec.elementwise_cycles,
        "POOL_CYCLES": vec.pool_cycles,
        "SOFTMAX_CYCLES": vec.softmax_cycles,
        "VEC_PIPELINE": vec.pipeline_cycles,
        "FILL_BYTES": config.dma.fill_bytes,
        "INFLATE_BYTES": config.dma.inflate_bytes,
        "INFLATE_BLOCK": compression.BLOCK,
        "INFLATE_STORED": compression.STORED,
        "SCATTER_ELEMENTS": config.dma.scatter_elements,
        "OUTSTANDING_INSTRUCTIONS": config.dma.outstanding_instructions,
        "QUEUE_DEPTH": config.queue_depth,
        "ISSUE_CYCLES": config.issue_cycles,
        "ACTIVATION_BYTES": pads.activation_bytes,
        "WEIGHT_BYTES": pads.weight_bytes,
        "PARAMETER_BYTES": pads.parameter_bytes,
        "TABLE_BYTES": pads.table_bytes,
        "ACCUMULATOR_WORDS": pads.accumulator_words,
        "EXTERNAL_BYTES": EXTERNAL_BYTES,
        "PROGRAM_LENGTH": PROGRAM_LENGTH,
    }
    return {**found, **_memory_parameters(config)}


def _memory_parameters(config: NpuConfig) -> dict[str, int]:
    """Of ports and banks."""
    found: dict[str, int] = {}
    for name, port in (("SRAM", config.sram), ("DRAM", config.dram)):
        found |= {
            f"{name}_BURST": port.burst_bytes,
            f"{name}_BURST_SIXTEENTHS": round(16 * port.burst_cycles),
            f"{name}_READ_LATENCY": port.read_latency_cycles,
            f"{name}_WRITE_LATENCY": port.write_latency_cycles,
            f"{name}_READ_OUTSTANDING": port.read_outstanding,
            f"{name}_WRITE_OUTSTANDING": port.write_outstanding,
        }
    for memory, (size, bit) in bank_layout(config).items():
        found |= {f"{Memory(memory).name}_BANK": size, f"{Memory(memory).name}_BANK_BIT": bit}
    return found


def header(config: NpuConfig) -> str:
    """Text of npu_parameters.svh: parameters, opcodes, and where each field of an instruction lies."""
    lines = [f"localparam int {name} = {value};" for name, value in parameters(config).items()]
    lines += [f"localparam int OP_{c.mnemonic.upper()} = {c.opcode};" for c in INSTRUCTIONS]
    fields = [("OPCODE", 0, OPCODE_BITS)]
    names = ("WAIT0", "WAIT1", "POST0", "POST1")
    fields += [(n, TOKENS_AT + TOKEN_BITS * i, TOKEN_BITS) for i, n in enumerate(names)]
    fields += [
        (f"{c.mnemonic}_{f.name}".upper(), f.low_bit, f.width) for c in INSTRUCTIONS for f in fields_of(c)
    ]
    lines += [f"`define {n}(i) i[{low + width - 1}:{low}]" for n, low, width in fields]
    return "".join(f"{line}\n" for line in lines)


def build(config: NpuConfig, folder: Path) -> Path:
    """The simulator's executable for a configuration, made in `folder` unless it is there.

    Errors: RtlError where Verilator or a C++ compiler is absent or fails.
    """
    if shutil.which("verilator") is None:
        raise RtlError("verilator is not installed: apt-get install verilator g++")
    text = header(config)
    sources = sorted(p for p in SOURCES.iterdir() if p.suffix in (".sv", ".svh", ".cpp"))
    digest = hashlib.sha256("".join([text, *(p.read_text() for p in sources)]).encode()).hexdigest()[:16]
    out = folder / f"npu-{digest}"
    executable = out / "Vnpu"
    if executable.exists():
        return executable
    out.mkdir(parents=True, exist_ok=True)
    (out / "npu_parameters.svh").write_text(text)
    defines = [f"-D{n}={v}" for n, v in parameters(config).items() if re.search("_BYTES$|_WORDS$", n)]
    command = [
        "verilator", "--cc", "--exe", "--build", "-O3", "--x-assign", "0", "--x-initial", "0", "-Wno-fatal",
        "-Wno-lint", "-Wno-style", "-CFLAGS", " ".join(["-O2", *defines]), f"-I{out}", f"-I{SOURCES}",
        "--top-module", "npu", "-Mdir", str(out), str(SOURCES / "npu.sv"), str(SOURCES / "main.cpp"),
    ]  # fmt: skip
    _run(command)
    return executable


def run_programs(executable: Path, cases: Sequence[RandomProgram], folder: Path) -> list[RtlRun]:
    """Errors: RtlError where a program does not halt or needs what the description does not have."""
    folders = [folder / case.name for case in cases]
    for case, place in zip(cases, folders, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        (stream,) = case.program.streams
        (place / "program.bin").write_bytes(stream.to_bytes())
        (place / "sram.bin").write_bytes(case.sram.tobytes())
        (place / "dram.bin").write_bytes(case.dram.tobytes())
    _run([str(executable), *map(str, folders)])
    return [_result(place) for place in folders]


def _result(folder: Path) -> RtlRun:
    cycles, *busy = map(int, (folder / "counters.txt").read_text().split())
    sram, dram, activation = (
        np.fromfile(folder / f"{name}.out", np.uint8) for name in ("sram", "dram", "activation")
    )
    accumulators = np.fromfile(folder / "accumulator.out", "<i4")
    return RtlRun(cycles, tuple(busy), sram, dram, activation, accumulators)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RtlError(f"{Path(command[0]).name} failed:\n{(done.stderr or done.stdout)[-2000:]}")
