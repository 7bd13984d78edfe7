"""The agent of a board on TVM's RPC: it outlives what it runs, its tracker, and its clients.

    bitloom board serve --tracker HOST:PORT --key KEY

A board without bitloom needs this file, `board_session.py` and TVM: see docs/boards.md.
Each session is a process of its own, so that kernels that crash, hang or eat memory end the session and not
the agent. While it waits and while a session runs, it tells the tracker every few seconds how the board is.
RPC has no authentication and runs whatever it is sent: on loopback, in a VPN or behind an ssh tunnel only.
"""

from __future__ import annotations

import argparse
import importlib
import os
import select
import shlex
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from targets.measuring.board_session import PROTOCOL, own_facts, serve_session

BEAT_S = 2.0
_FACTS_S = 5.0  # how old they may be
_HANDSHAKE_S = 5.0
_RECONNECT_S = (0.2, 5.0)  # the first wait for a tracker, and the longest
_UNUSED_BEATS = 3  # a key that a client took and does not use is replaced after so many
_RESERVED_BYTES = 256 << 20  # of the board's memory, for the agent and the system


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """HOST:PORT. Errors: ValueError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f'"{text}" is not HOST:PORT')
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class TrackerLink:
    """The agent's connection to a tracker. All calls but `connected` raise OSError where it is lost."""

    def __init__(self, address: Address, key: str, port: int, shown_host: str | None) -> None:
        self._address, self._key, self._port, self._shown = address, key, port, shown_host
        self._socket: socket.socket | None = None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def connect(self) -> None:
        from tvm.rpc import base

        tracker = socket.create_connection((self._address.host, self._address.port), _HANDSHAKE_S)
        tracker.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        if struct.unpack("<i", base.recvall(tracker, 4))[0] != base.RPC_TRACKER_MAGIC:
            tracker.close()
            raise OSError(f"{self._address} is no tracker")
        self._socket = tracker

    def drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def offer(self) -> str:
        """Offers the board to one client; the key by which that client shows itself."""
        from tvm.rpc import base

        match = base.random_key(self._key)
        self._ask(base.TrackerCode.PUT, self._key, (self._port, match), self._shown)
        return str(match)

    def is_offered(self, match: str) -> bool:
        from tvm.rpc import base

        return match in self._ask(base.TrackerCode.GET_PENDING_MATCHKEYS)

    def tell(self, status: dict[str, Any]) -> None:
        from tvm.rpc import base

        info = {"key": f"server:{self._key}", "addr": (self._shown, self._port), "bitloom": status}
        self._ask(base.TrackerCode.UPDATE_INFO, info)

    def _ask(self, *message: Any) -> Any:
        from tvm.rpc import base

        if self._socket is None:
            raise OSError("no tracker")
        base.sendjson(self._socket, message)
        return base.recvjson(self._socket)


class Agent:
    """Serves one client after the other. `run` never returns by itself."""

    def __init__(
        self,
        tracker: Address,
        key: str,
        *,
        host: str = "127.0.0.1",
        ports: tuple[int, int] = (9091, 9199),
        shown_host: str | None = None,
        memory_bytes: int | None = None,
        launcher: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """host: the address that it listens on; shown_host: the one that clients are told, None for that
        from which the tracker hears it. ports: the first free one from the one to the other, exclusive.
        memory_bytes: of each session; None for all but a reserve. launcher: stands before the command of a
        measuring program, as `taskset -c 3`. Errors: OSError where no port is free."""
        self._say = say
        self._tracker_name = str(tracker)
        self._listener = _listen(host, ports)
        self.port: int = self._listener.getsockname()[1]
        if shown_host is None and host not in ("0.0.0.0", "::"):
            shown_host = host
        self._tracker = TrackerLink(tracker, key, self.port, shown_host)
        self._key = key
        self._memory_bytes = memory_bytes or _all_but_reserve()
        self._launcher = tuple(launcher)
        self._match: str | None = None
        self._taken_beats = 0
        self._facts, self._facts_until = dict[str, str](), 0.0
        self._sessions = 0
        self._faults = 0
        self._beats = 0
        self._next_try, self._wait_s = 0.0, _RECONNECT_S[0]

    def run(self) -> None:
        importlib.import_module("tvm.rpc.server")  # before the first fork: sessions start at once

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while True:
            self._keep_tracker(busy=False)
            ready, _, _ = select.select([self._listener], [], [], self._pause_s())
            if ready:
                self._accept()

    def _pause_s(self) -> float:
        if self._tracker.connected:
            return BEAT_S
        return max(0.05, min(BEAT_S, self._next_try - time.monotonic()))

    def _keep_tracker(self, *, busy: bool) -> None:
        """One beat: connects, tells how the board is, and offers it if it is free."""
        try:
            if not self._tracker.connected:
                if time.monotonic() < self._next_try:
                    return
                self._tracker.connect()
                self._match = None
                self._wait_s = _RECONNECT_S[0]
                self._say(f"registered with the tracker at {self._tracker_name} as {self._key}")
            self._beats += 1
            self._tracker.tell(self._status(busy))
            if not busy:
                self._keep_offer()
        except (OSError, ValueError) as error:
            if self._tracker.connected or self._wait_s == _RECONNECT_S[0]:
                self._say(f"the tracker at {self._tracker_name} is away ({error}); trying again")
            self._tracker.drop()
            self._next_try = time.monotonic() + self._wait_s
            self._wait_s = min(self._wait_s * 2, _RECONNECT_S[1])

    def _keep_offer(self) -> None:
        if self._match is None:
            self._match, self._taken_beats = self._tracker.offer(), 0
        elif self._tracker.is_offered(self._match):
            self._taken_beats = 0
        else:
            self._taken_beats += 1
            if self._taken_beats > _UNUSED_BEATS:
                self._match = None
                self._keep_offer()

    def _status(self, busy: bool) -> dict[str, Any]:
        if time.monotonic() > self._facts_until:
            self._facts, self._facts_until = own_facts(), time.monotonic() + _FACTS_S
        told = {name: value for name, value in self._facts.items() if name != "features"}
        counts = {"sessions": self._sessions, "faults": self._faults, "beat": self._beats}
        return {"protocol": PROTOCOL, "state": "busy" if busy else "free", **counts, "facts": told}

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                options = self._handshake(connection)
                if options is not None:
                    self._match = None
                    self._serve(connection, options)

    def _handshake(self, connection: socket.socket) -> list[str] | None:
        """The client's options; None where it is none of ours. Errors: OSError."""
        from tvm.rpc import base

        connection.settimeout(_HANDSHAKE_S)
        if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_MAGIC:
            return None
        length = struct.unpack("<i", base.recvall(connection, 4))[0]
        if not 0 < length < 4096:
            return None
        words = base.recvall(connection, length).decode(errors="replace").split()
        if not words or self._match is None or words[0] != f"client:{self._match}":
            connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
            return None
        name = f"server:{self._key}".encode()
        connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(name)) + name)
        connection.settimeout(None)
        _notice_death(connection)
        return words[1:]

    def _serve(self, connection: socket.socket, options: list[str]) -> None:
        """Runs a session to its end, however it ends."""
        limit_s = next((float(o[9:]) for o in options if o.startswith("-timeout=")), float("inf"))
        folder = tempfile.mkdtemp(prefix="bitloom-session-")
        process = os.fork()
        if process == 0:
            self._listener.close()
            self._tracker.drop()
            serve_session(connection, folder, self._memory_bytes, self._launcher)
        self._sessions += 1
        until = time.monotonic() + limit_s if limit_s > 0 else float("inf")
        next_beat = time.monotonic() + BEAT_S
        try:
            while (status := _ended(process, min(until, next_beat))) is None:
                if time.monotonic() >= until:
                    self._say(f"a session was ended after its {limit_s:g} s")
                    os.kill(process, signal.SIGKILL)
                    until = float("inf")
                elif time.monotonic() >= next_beat:
                    self._keep_tracker(busy=True)
                    next_beat = time.monotonic() + BEAT_S
            if status != 0:
                self._faults += 1
                self._say(f"a session ended {_manner(status)}; the next one starts afresh")
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)  # what it started
            shutil.rmtree(folder, ignore_errors=True)


def _listen(host: str, ports: tuple[int, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    words = "no port was tried"
    for port in range(*ports):
        try:
            listener.bind((host, port))
            listener.listen(4)
            return listener
        except OSError as error:
            words = error.strerror or str(error)
    listener.close()
    raise OSError(f"no port of {host} from {ports[0]} to {ports[1] - 1} can be listened on: {words}")


def _all_but_reserve() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(total // 2, total - _RESERVED_BYTES)


def _notice_death(connection: socket.socket) -> None:
    """A client whose computer lost its power never says so."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _ended(process: int, until: float) -> int | None:
    """The status of a child, None if it still runs at `until` (monotonic)."""
    pause = 0.001
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(pause)
        pause = min(0.05, pause * 2)


def _manner(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracker", type=Address.parse, required=True, metavar="HOST:PORT")
    parser.add_argument("--key", required=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9091, help="first port to try (default: %(default)s)")
    parser.add_argument("--shown-host", help="address that clients are told")
    parser.add_argument("--launcher", default="", help="command before measuring programs: 'taskset -c 3'")
    options = parser.parse_args()
    ports = (options.port, options.port + 108)
    agent = Agent(
        options.tracker,
        options.key,
        host=options.host,
        ports=ports,
        shown_host=options.shown_host,
        launcher=shlex.split(options.launcher),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    agent.run()


if __name__ == "__main__":
    main()
