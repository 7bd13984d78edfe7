"""The NPU as a driver sees it: registers and memories in a file that both sides map.

    python -m sim.device FILE --npu npu-256

makes the file and serves it until it is ended: it waits for the doorbell, runs the command streams on the
memories in the file, and says how that ended. The register map stands in `targets/runtime/bitloom_npu.h`; all
registers are 32-bit words, little end first.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from compiler.numerics.element import Array
from sim.config import NpuConfig, load_config
from sim.functional.core import External
from sim.functional.memory import Bytes
from sim.simulate import simulate
from sim.stream import INSTRUCTION_BYTES, Program, Stream, StreamError

MAGIC, VERSION = 0x4E504C42, 1
COMMAND_BYTES = 1 << 24
_PAGE = 4096
_WORD = np.dtype("<u4")
_SHORTEST, _LONGEST = 1e-4, 1e-2  # seconds between two looks at the doorbell


class Register(IntEnum):
    """Byte offsets. DOORBELL is the host's, as are the streams behind STREAMS: for each core the byte of its
    stream in the command memory, its number of instructions (0: idle, as all cores behind it), and two words
    that are reserved."""

    MAGIC = 0x00
    VERSION = 0x04
    CORES = 0x08
    CONFIG = 0x0C  # two words: `config_digest`
    SRAM_BYTES = 0x14  # two words
    DRAM_BYTES = 0x1C  # two words
    COMMAND_BYTES = 0x24
    DOORBELL = 0x28
    COMPLETED = 0x2C
    STATUS = 0x30
    ERROR = 0x34
    ERROR_CORE = 0x38
    ERROR_INDEX = 0x3C
    CYCLES = 0x40  # two words
    STREAMS = 0x80


STREAM_WORDS = 4


class Status(IntEnum):
    IDLE = 0
    BUSY = 1
    DONE = 2
    FAILED = 3


class DeviceError(IntEnum):
    """OUTSIDE: a stream leaves the command memory, is not aligned or does not end with its only halt.
    REFUSED: an instruction cannot be executed; ERROR_CORE and ERROR_INDEX say which."""

    NONE = 0
    OUTSIDE = 1
    REFUSED = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes of the file at which registers (0), commands, SRAM and DRAM begin, in whole pages."""

    commands: int
    sram: int
    dram: int
    end: int

    @classmethod
    def of(cls, config: NpuConfig, command_bytes: int = COMMAND_BYTES) -> Layout:
        commands = _pages(Register.STREAMS + STREAM_WORDS * 4 * config.cores)
        sram = commands + _pages(command_bytes)
        dram = sram + _pages(config.sram.size_bytes)
        return cls(commands, sram, dram, dram + _pages(config.dram.size_bytes))


def config_digest(config: NpuConfig) -> int:
    """64 bits of everything but the name: streams are for one configuration."""
    text = repr(replace(config, name=""))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Device:
    """One NPU behind a mapped file."""

    def __init__(self, path: Path, config: NpuConfig, command_bytes: int = COMMAND_BYTES) -> None:
        """Makes the file, with zeros in all memories. Errors: OSError."""
        self.config, self.command_bytes = config, command_bytes
        layout = Layout.of(config, command_bytes)
        with path.open("w+b") as stream:
            stream.truncate(layout.end)
            self._map = mmap.mmap(stream.fileno(), layout.end)
        data = np.frombuffer(self._map, np.uint8)
        self._registers: Array = data[: layout.commands].view(_WORD)
        self._commands: Array = data[layout.commands : layout.commands + command_bytes]
        self._sram: Array = data[layout.sram : layout.sram + config.sram.size_bytes]
        self._dram: Array = data[layout.dram : layout.dram + config.dram.size_bytes]
        self._identify()

    def serve(self, until: Callable[[], bool]) -> None:
        """Runs whatever the doorbell asks for. until: whether to stop, asked between two looks."""
        pause = _SHORTEST
        while not until():
            if self.poll():
                pause = _SHORTEST
            else:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST)

    def poll(self) -> bool:
        """Runs once if the doorbell's number is not the last one completed; whether it was so."""
        number = self._get(Register.DOORBELL)
        if number == self._get(Register.COMPLETED):
            return False
        self._set(Register.STATUS, Status.BUSY)
        error, core, index = self._run()
        self._set(Register.ERROR, error)
        self._set(Register.ERROR_CORE, core)
        self._set(Register.ERROR_INDEX, index)
        self._set(Register.STATUS, Status.FAILED if error else Status.DONE)
        self._set(Register.COMPLETED, number)  # last: the host looks at the others when it sees this
        return True

    def _run(self) -> tuple[DeviceError, int, int]:
        try:
            program = Program(tuple(self._stream(core) for core in range(self._busy_cores())))
        except StreamError as error:
            return DeviceError.REFUSED, error.core, error.index
        except ValueError:
            return DeviceError.OUTSIDE, 0, 0
        # Views: what the program writes is in the file. Made anew, as the host may have written anything.
        external = External(Bytes("SRAM", self._sram), Bytes("DRAM", self._dram))
        try:
            cycles = simulate(program, self.config, external).timing.cycles
        except StreamError as error:
            return DeviceError.REFUSED, error.core, error.index
        self._set(Register.CYCLES, cycles)
        return DeviceError.NONE, 0, 0

    def _busy_cores(self) -> int:
        """Those with a stream. Errors: ValueError where one stands behind an idle core."""
        busy = [bool(self._registers[_stream_at(core) // 4 + 1]) for core in range(self.config.cores)]
        if not all(busy[: sum(busy)]):
            raise ValueError("a stream stands behind a core without one")
        return sum(busy)

    def _stream(self, core: int) -> Stream:
        """Errors: ValueError."""
        at = _stream_at(core) // 4
        base, count = int(self._registers[at]), int(self._registers[at + 1])
        end = base + count * INSTRUCTION_BYTES
        if base % INSTRUCTION_BYTES or end > self.command_bytes:
            raise ValueError(f"core {core}: bytes {base} to {end} are no stream")
        return Stream.from_bytes(self._commands[base:end].tobytes())

    def _identify(self) -> None:
        config = self.config
        self._set(Register.CORES, config.cores)
        self._set(Register.CONFIG, config_digest(config))
        self._set(Register.SRAM_BYTES, config.sram.size_bytes)
        self._set(Register.DRAM_BYTES, config.dram.size_bytes)
        self._set(Register.COMMAND_BYTES, self.command_bytes)
        self._set(Register.VERSION, VERSION)
        self._set(Register.MAGIC, MAGIC)  # last: from now on it is a device

    def _get(self, register: Register) -> int:
        return int(self._registers[register // 4])

    def _set(self, register: Register, value: int) -> None:
        wide = register in (Register.CONFIG, Register.SRAM_BYTES, Register.DRAM_BYTES, Register.CYCLES)
        for word in range(2 if wide else 1):
            self._registers[register // 4 + word] = (value >> 32 * word) & 0xFFFFFFFF


def _stream_at(core: int) -> int:
    return Register.STREAMS + 4 * STREAM_WORDS * core


def _pages(count: int) -> int:
    return -(-count // _PAGE) * _PAGE


def main() -> None:
    parser = argparse.ArgumentParser(description="An NPU behind a file that a driver maps.")
    parser.add_argument("file", type=Path, help="is made anew")
    parser.add_argument("--npu", required=True, help="a preset, or a TOML file")
    parser.add_argument("--command-bytes", type=int, default=COMMAND_BYTES, help="of the command memory")
    arguments = parser.parse_args()
    device = Device(arguments.file, load_config(arguments.npu), arguments.command_bytes)
    print("ready", flush=True)
    device.serve(lambda: False)


if __name__ == "__main__":
    main()
