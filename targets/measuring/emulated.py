"""Emulated Arm cores: kernels run under qemu, and cost the instructions that they execute."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from schedules.tuning.measure import Unit
from targets.library.toolchain import Toolchain
from targets.measuring.boards import Boards
from targets.measuring.links import LinkLostError, ProgramError, Speaking
from targets.measuring.operands import FormConstants
from targets.measuring.program import Limits, Timing
from targets.runners import emulator_command

# What qemu itself writes to, its translations above all.
_OWN_BYTES = 64 << 20
PLUGIN_SOURCE = Path(__file__).parent / "count_instructions.c"


def build_plugin(folder: Path) -> Path:
    """The plugin of qemu that counts instructions, for this computer."""
    plugin = folder / "count_instructions.so"
    Toolchain.host().link_plugin(PLUGIN_SOURCE, plugin)
    return plugin


class EmulatorLink:
    """One emulated core. plugin: see `build_plugin`. memory_bytes: of its program."""

    def __init__(self, cpu: str, architecture: str, plugin: Path, memory_bytes: int) -> None:
        self.name = f"qemu:{cpu}"
        # qemu does not limit a program's memory as the program asks, and reserves address space of its own.
        limit_kb = (memory_bytes + _OWN_BYTES) // 1024
        limited = ["sh", "-c", f'ulimit -d {limit_kb}; exec "$0" "$@"']
        counting = ["-plugin", f"{plugin},marks=on", "-d", "plugin"]
        self._command = [*limited, *emulator_command(cpu, architecture), *counting]
        self._running: Speaking | None = None

    def run(self, program: bytes, silence_s: float) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="bitloom-run-") as folder:
            path = Path(folder) / "program"
            path.write_bytes(program)
            path.chmod(0o700)
            self._running = running = Speaking([*self._command, str(path), str(path)], with_errors=True)
            try:
                yield from running.lines(silence_s)
                status = running.status()
            finally:
                running.end()
        if status < 0:
            raise LinkLostError(f"the emulator was ended by signal {-status}")
        if status != 0:
            raise ProgramError(f"the program ended with {status}")

    def close(self) -> None:
        if self._running is not None:
            self._running.end()


class EmulatedBoards(Boards):
    """Emulated cores of this computer; costs are instructions.

    cpu: as qemu names it; architecture: aarch64 or arm; cores: how many at once, None for this computer's.
    Errors: RunnerError where qemu is not installed or has no such core.
    """

    def __init__(
        self,
        cpu: str,
        architecture: str = "aarch64",
        *,
        cores: int | None = None,
        limits: Limits | None = None,
        constants: FormConstants | None = None,
        batch: int = 8,
    ) -> None:
        limits = limits or Limits(seconds=60.0)
        count = cores or os.cpu_count() or 1
        self._own = tempfile.TemporaryDirectory(prefix="bitloom-emulated-")
        plugin = build_plugin(Path(self._own.name))
        super().__init__(
            [EmulatorLink(cpu, architecture, plugin, limits.memory_bytes) for _ in range(count)],
            f"qemu:{cpu}",
            unit=Unit.INSTRUCTIONS,
            timing=Timing(counted=True),
            limits=limits,
            constants=constants,
            batch=batch,
            workers=count,
        )

    def close(self) -> None:
        super().close()
        self._own.cleanup()
