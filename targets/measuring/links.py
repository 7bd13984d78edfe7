"""How a measuring program gets to where it runs, and its lines back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

# Beside what the candidates may take: copying the program, starting it.
_ANSWER_MARGIN_S = 30.0
# A process that has ended may have left its errors open to another, which is not waited for.
_LAST_WORDS_S = 1.0


class LinkLostError(Exception):
    """The way to the board broke, or the board went away; the text says what is known of it."""


class ProgramError(Exception):
    """The program ended before its last candidate, by its own or the system's fault; text: its words."""


class RefusedError(Exception):
    """The board cannot run these programs, now or later: another architecture, another version."""


class Link(Protocol):
    """One place that runs one program at a time. For one thread, but for `close`."""

    @property
    def name(self) -> str: ...

    def run(self, program: bytes, silence_s: float) -> Iterator[str]:
        """The program's lines, as they come.

        silence_s: the longest that a working program may take for a line.
        Errors: LinkLostError, ProgramError, RefusedError.
        """
        ...

    def close(self) -> None:
        """Allowed from any thread, and more than once."""
        ...


class Speaking:
    """A process that is given bytes and answers in lines, with limits on its silence."""

    def __init__(
        self, command: Sequence[str], *, with_errors: bool, environment: Mapping[str, str] | None = None
    ) -> None:
        """with_errors: its errors are lines, too; else they are kept for `complaint`. environment: of the
        process, besides this one's."""
        self._errors = bytearray()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if with_errors else subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for the tuner
            )
        except OSError as error:
            raise LinkLostError(f"cannot start {command[0]}: {error.strerror}") from error
        if not with_errors:
            self._reader = threading.Thread(target=self._keep_errors, daemon=True)
            self._reader.start()

    def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        while part := os.read(self._process.stderr.fileno(), 4096):
            self._errors += part
            del self._errors[:-4096]

    @property
    def complaint(self) -> str:
        """What it said on its way out, once it has ended."""
        self._reader.join(_LAST_WORDS_S)  # it may still be reading what the ended process wrote
        return self._errors.decode(errors="replace").strip()

    def give(self, contents: bytes, *, close: bool) -> None:
        """Feeds it beside the reading of its answers."""
        threading.Thread(target=self._feed, args=(contents, close), daemon=True).start()

    def _feed(self, contents: bytes, close: bool) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError, ValueError):  # it ended, which its status says
            stdin.write(contents)
            stdin.flush()
            if close:
                stdin.close()

    def lines(self, silence_s: float) -> Iterator[str]:
        """Until it closes its output. Errors: LinkLostError for too long a silence."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        kept, until = b"", time.monotonic() + silence_s + _ANSWER_MARGIN_S
        while True:
            left = until - time.monotonic()
            ready = left > 0 and select.select([descriptor], [], [], left)[0]
            if not ready:
                raise LinkLostError(f"no answer for {silence_s + _ANSWER_MARGIN_S:g} s")
            part = os.read(descriptor, 65536)
            if not part:
                return
            *whole, kept = (kept + part).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")
            if whole:
                until = time.monotonic() + silence_s + _ANSWER_MARGIN_S

    def status(self) -> int:
        """How it ended; ends it if it still runs after its output is closed."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(5)
        self.end()
        return self._process.returncode

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kills it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
