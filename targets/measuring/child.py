"""Processes of our own that work for a device: they may crash, hang or eat memory, and are then replaced."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from compiler.lowering.objects import PACKAGE_ROOT
from schedules.tuning.measure import Outcome

_POLL_SECONDS = 0.02
_SHOWN = 600
_LENGTH = struct.Struct("<Q")


@dataclass(slots=True)
class ChildError(Exception):
    """The process is gone or was ended. outcome: CRASHED, HUNG or OUT_OF_MEMORY; said: in words."""

    outcome: Outcome
    said: str


def send(stream: IO[bytes], message: Any) -> None:
    """One message, whole."""
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next message. Errors: EOFError where there will be none."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return pickle.loads(stream.read(_LENGTH.unpack(head)[0]))


def own_answers() -> IO[bytes]:
    """In a child: where answers go. What else is printed belongs to the errors; a crash leaves no file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


class Child:
    """A Python module that runs in a process of its own and answers messages."""

    def __init__(self, module: str, *arguments: str, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        inherited = os.environ.get("PYTHONPATH")
        path = str(PACKAGE_ROOT) if not inherited else f"{PACKAGE_ROOT}{os.pathsep}{inherited}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is the tuner's affair
        )
        self._buffer = b""

    def ask(self, message: Any, seconds: float) -> Any:
        """The answer. Errors: ChildError, after which the process is gone."""
        self.tell(message)
        return self.answer(seconds)

    def tell(self, message: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `answer` finds out why
            send(self._process.stdin, message)

    def answer(self, seconds: float) -> Any:
        """The next answer. Errors: as `ask`."""
        assert self._process.stdout is not None
        handle, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while (message := self._whole()) is None:
            if select.select([handle], [], [], _POLL_SECONDS)[0]:
                data = os.read(handle, 1 << 20)
                if not data:
                    raise self._gone()
                self._buffer += data
            elif resident_bytes(self._process.pid) > self.memory_bytes:
                raise self._ended(Outcome.OUT_OF_MEMORY, f"took more than {self.memory_bytes >> 20} MiB")
            elif time.monotonic() > deadline:
                raise self._ended(Outcome.HUNG, f"no answer within {seconds:.0f} s")
        return message[0]

    def _whole(self) -> tuple[Any] | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack(self._buffer[: _LENGTH.size])[0]
        if len(self._buffer) < end:
            return None
        data, self._buffer = self._buffer[_LENGTH.size : end], self._buffer[end:]
        return (pickle.loads(data),)

    def _gone(self) -> ChildError:
        """Why the process has ended by itself."""
        _, status = os.waitpid(self._process.pid, 0)
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        words = self._words()
        said = f"{how}: {words}" if words else how
        self.close()
        # The system ends the largest process where memory runs out. Its resource usage says nothing: the
        # peak that it counts begins with that of the process that started this one.
        too_large = code == -signal.SIGKILL or "MemoryError" in words
        return ChildError(Outcome.OUT_OF_MEMORY if too_large else Outcome.CRASHED, said)

    def _ended(self, outcome: Outcome, said: str) -> ChildError:
        self.close()
        return ChildError(outcome, said)

    def _words(self) -> str:
        """The end of what it printed."""
        self._log.seek(0)
        lines = self._log.read()[-4 * _SHOWN :].decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-8:])[-_SHOWN:]

    @property
    def alive(self) -> bool:
        """Whether it can be asked; one that has ended while it had nothing to do is let go."""
        if not self._log.closed and self._process.poll() is not None:
            self.close()
        return not self._log.closed

    def close(self) -> None:
        """Ends the process and what it started."""
        if self._log.closed:
            return
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def resident_bytes(process: int) -> int:
    """Memory that a process holds; 0 where the system does not tell."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def close_all(children: Sequence[Child | None]) -> None:
    for child in children:
        if child is not None:
            child.close()
