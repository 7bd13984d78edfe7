"""Boards behind a TVM RPC tracker, all of one key, measured in parallel."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from compiler.lowering.kernel import KernelPlan
from compiler.lowering.objects import PACKAGE_ROOT
from schedules.tuning.measure import Measurement
from targets.measuring.board_agent import Address
from targets.measuring.boards import Boards
from targets.measuring.facts import fingerprint_of
from targets.measuring.links import LinkLostError, ProgramError, RefusedError, Speaking
from targets.measuring.operands import FormConstants
from targets.measuring.program import Limits, Timing
from targets.measuring.tracker import TrackerError, boards_of

_FREE_WAIT_S = 20.0
_HELLOS = 3  # a board may go away just when it is greeted


class RpcLink:
    """One program at a time on any board of the key that is free: see `rpc_link`."""

    def __init__(self, tracker: Address, key: str, free_wait_s: float = _FREE_WAIT_S) -> None:
        self.name = f"{key} at {tracker}"
        self._free_wait_s = free_wait_s
        self._arguments = [tracker.host, str(tracker.port), key]
        self._process: Speaking | None = None

    def run(self, program: bytes, silence_s: float) -> Iterator[str]:
        process = self._started()
        process.give(struct.pack("<dq", self._free_wait_s, len(program)) + program, close=False)
        finished = False
        try:
            for line in process.lines(silence_s + self._free_wait_s):
                kind, _, words = line.partition(" ")
                match kind:
                    case "#end":
                        finished = True
                        return
                    case "#lost":
                        finished = True
                        raise LinkLostError(words)
                    case "#program":
                        finished = True
                        raise ProgramError(words)
                    case "#refused":
                        finished = True
                        raise RefusedError(words)
                    case _:
                        yield line
            raise LinkLostError("the client's process ended")
        finally:
            if not finished:
                self.close()

    def hello(self) -> dict[str, Any]:
        """What a board says of itself. Errors: LinkLostError, RefusedError."""
        for line in self.run(b"", 0.0):
            with suppress(ValueError):
                return json.loads(line)
        raise LinkLostError("the board says nothing")

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _started(self) -> Speaking:
        if self._process is None or not self._process.alive:
            inherited = os.environ.get("PYTHONPATH")
            path = str(PACKAGE_ROOT) if not inherited else f"{PACKAGE_ROOT}{os.pathsep}{inherited}"
            command = [sys.executable, "-m", "targets.measuring.rpc_link", *self._arguments]
            self._process = Speaking(command, with_errors=False, environment={"PYTHONPATH": path})
        return self._process


class RpcBoards(Boards):
    """All boards that the tracker has of a key, which the user promises are equal; those that join later take
    part from the next candidates on.

    Errors: TrackerError where there is no tracker, no such board, or one that cannot be used.
    """

    def __init__(
        self,
        tracker: Address,
        key: str,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        constants: FormConstants | None = None,
        batch: int = 8,
        patience_s: float = 60.0,
        workers: int = 2,
    ) -> None:
        self._tracker, self._key = tracker, key
        count = len(boards_of(tracker, key))
        first = RpcLink(tracker, key)
        told = _told(first)
        links = [first, *(RpcLink(tracker, key) for _ in range(count - 1))]
        super().__init__(
            links,
            fingerprint_of(told["facts"]),
            timing=timing,
            limits=limits,
            constants=constants,
            batch=batch,
            patience_s=patience_s,
            workers=workers,
        )

    def measure(self, candidates: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
        with suppress(TrackerError):  # a link that needs the tracker says so itself
            more = len(boards_of(self._tracker, self._key)) - len(self._links)
            self._links += (RpcLink(self._tracker, self._key) for _ in range(more))
        yield from super().measure(candidates)


def _told(link: RpcLink) -> dict[str, Any]:
    """A board's hello, of whichever of them answers. Errors: TrackerError."""
    for left in reversed(range(_HELLOS)):
        try:
            return link.hello()
        except (LinkLostError, RefusedError) as error:
            if isinstance(error, RefusedError) or not left:
                link.close()
                raise TrackerError(f"board {link.name}: {error}") from error
    raise AssertionError
