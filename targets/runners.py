"""Where a library's runner program runs: on an emulated CPU, or on a board over ssh."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compiler.ir.diagnostics import BitloomError

_SPELLINGS = "local, qemu:CPU (such as qemu:cortex-a53), ssh:USER@HOST[:PORT] and opencl[:DEVICE]"
_SSH_FAILED = 255
_SIGNALLED = 128
_OTHER_SYSTEM = 90

# What `uname -m` says, as a pattern of sh: kernels of 64 bits may run programs of 32.
_MACHINES = {"arm": "armv[78]*"}

# Ends with 90 and the system's name where it is not the right machine.
SYSTEM_CHECK = """\
system=$(uname -sm)
case "$system" in "Linux "{machine}) ;; *) false ;; esac || {{ echo "$system"; exit 90; }}
"""

# One connection: is it the right machine, and where does the program on standard input lie from now on?
_INSTALL = (
    SYSTEM_CHECK
    + """\
folder=$(mktemp -d) && cat >"$folder/runner" && chmod 700 "$folder/runner" && echo "$folder" && exit
rm -rf "$folder"; exit 1
"""
)


class RunnerError(BitloomError):
    """A runner is not there, or does not run the program."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended. status: its exit status, or minus the number of the signal that ended it."""

    status: int
    response: bytes
    complaint: str


class Runner(Protocol):
    """A place for one program. All calls may raise RunnerError."""

    @property
    def name(self) -> str: ...

    @property
    def keeps_time(self) -> bool:
        """Whether seconds there are those of a real CPU."""
        ...

    def start(self, program: Path, architecture: str) -> None:
        """Brings a static Linux program there; it may be executed until `stop`."""
        ...

    def execute(self, request: bytes) -> Finished:
        """Runs the program with `request` on its standard input."""
        ...

    def stop(self) -> None:
        """Takes away what `start` brought. Allowed at any time, and more than once."""
        ...


def runner_named(name: str) -> Runner:
    """Any but `local`, which is this very process. Errors: RunnerError that lists the known spellings."""
    kind, _, place = name.partition(":")
    if kind == "qemu" and place:
        return Emulator(place)
    board = re.fullmatch(r"(?P<host>[^\s:-][^\s:]*)(:(?P<port>\d+))?", place)
    if kind == "ssh" and board:
        return Board(board["host"], int(board["port"]) if board["port"] else None)
    raise RunnerError(f'unknown runner "{name}"', f"runners are {_SPELLINGS}")


def emulator_command(cpu: str, architecture: str) -> list[str]:
    """qemu's user mode for a core; a program and its arguments follow.

    Errors: RunnerError where the architecture is not Arm's, qemu is not installed or has no such core.
    """
    if architecture not in ("aarch64", "arm"):
        raise RunnerError(f"qemu:{cpu} runs Arm libraries; this one is for {architecture}")
    program_name = f"qemu-{architecture}"
    qemu = shutil.which(program_name) or shutil.which(f"{program_name}-static")
    if qemu is None:
        raise RunnerError(f"there is no {program_name}", "Debian and Ubuntu: apt-get install qemu-user")
    listed = _text(_run([qemu, "-cpu", "help"]).stdout).splitlines()
    known = [line.split()[0] for line in listed if line.startswith(" ")]
    if cpu not in known:
        raise RunnerError(f'{program_name} emulates no "{cpu}"', f"it emulates {', '.join(known)}")
    return [qemu, "-cpu", cpu]


class Emulator:
    """An Arm core of qemu's user mode, of 64 or 32 bits as the program is."""

    keeps_time = False

    def __init__(self, cpu: str) -> None:
        self.name = f"qemu:{cpu}"
        self._cpu = cpu
        self._command: list[str] = []

    def start(self, program: Path, architecture: str) -> None:
        self._command = [*emulator_command(self._cpu, architecture), str(program)]

    def execute(self, request: bytes) -> Finished:
        done = _run(self._command, request)
        return Finished(done.returncode, done.stdout, _text(done.stderr))

    def stop(self) -> None:
        self._command = []


class Board:
    """A Linux machine that lets us in by ssh without a question. Nothing but a shell is needed there.

    What ~/.ssh/config says of the host counts. The program lies in a folder of its own until `stop`.
    """

    keeps_time = True

    def __init__(self, host: str, port: int | None = None) -> None:
        self.name = f"ssh:{host}" if port is None else f"ssh:{host}:{port}"
        self._host = host
        self._options = [
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=15",
        ]
        if port is not None:
            self._options += ["-p", str(port)]
        self._folder: str | None = None

    def start(self, program: Path, architecture: str) -> None:
        if shutil.which("ssh") is None:
            raise RunnerError("there is no ssh", "Debian and Ubuntu: apt-get install openssh-client")
        done = self._sh(_INSTALL.format(machine=self.machine_of(architecture)), program.read_bytes())
        answer = _text(done.stdout)
        if done.returncode == _OTHER_SYSTEM:
            raise RunnerError(f"{self.name} is {answer}; the library is for Linux {architecture}")
        if done.returncode != 0 or not re.fullmatch(r"/[\w./-]+", answer):
            raise RunnerError(f"{self.name} does not take the program: {_text(done.stderr) or answer}")
        self._folder = answer

    def execute(self, request: bytes) -> Finished:
        assert self._folder is not None
        # `exit` keeps the shell, which turns a signal into a status; ssh alone would lose it.
        done = self._sh(f"{self._folder}/runner; exit $?", request)
        status = done.returncode
        signalled = status > _SIGNALLED
        return Finished(_SIGNALLED - status if signalled else status, done.stdout, _text(done.stderr))

    def stop(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            self._sh(f"rm -rf {folder}")

    @staticmethod
    def machine_of(architecture: str) -> str:
        """A pattern of sh for what `uname -m` says where such programs run."""
        return _MACHINES.get(architecture, architecture)

    def command(self, script: str) -> list[str]:
        """The command of this computer that runs a script of sh there."""
        return ["ssh", *self._options, "--", self._host, f"sh -c {shlex.quote(script)}"]

    def ask(self, script: str) -> str:
        """What a script prints."""
        done = self._sh(script)
        if done.returncode != 0:
            raise RunnerError(f"{self.name} does not answer: {_text(done.stderr)}")
        return _text(done.stdout)

    def _sh(self, script: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs a script of sh there."""
        done = _run(self.command(script), given)
        if done.returncode == _SSH_FAILED:
            raise RunnerError(
                f"cannot reach {self.name}: {_text(done.stderr) or 'the connection was lost'}",
                "ssh must connect without a question: check the address, the host's key and your own key",
            )
        return done


def _run(command: Sequence[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=given, capture_output=True, check=False)
    except OSError as error:
        raise RunnerError(f"cannot start {command[0]}: {error.strerror}") from error


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip()
