"""A TVM tracker and board agents on this computer, as processes that tests may kill."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from targets.measuring.board_agent import Address
from targets.measuring.board_session import PROTOCOL
from targets.measuring.tracker import TrackerError, known_boards

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def started(arguments: list[str], **settings: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdin=subprocess.DEVNULL)


@dataclass
class Farm:
    """A tracker and its boards."""

    address: Address = field(default_factory=lambda: Address("127.0.0.1", free_port()))
    tracker: subprocess.Popen[bytes] | None = None
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_tracker(self) -> None:
        where = ["--host", self.address.host, "--port", str(self.address.port)]
        # One port only: the tracker otherwise takes the next one that is free.
        where += ["--port-end", str(self.address.port + 1)]
        self.tracker = started(["-m", "tvm.exec.rpc_tracker", *where, "--silent"])

    def start_agent(self, key: str) -> subprocess.Popen[bytes]:
        port = free_port()
        arguments = ["--tracker", str(self.address), "--key", key, "--port", str(port)]
        agent = started(["-m", "targets.measuring.board_agent", *arguments])
        self.agents.append(agent)
        return agent

    def start_copy(
        self,
        key: str,
        folder: Path,
        *,
        protocol: int = PROTOCOL,
        python: Sequence[str] = (sys.executable,),
        path: str = "",
        options: Sequence[str] = (),
    ) -> None:
        """The agent as a board without bitloom has it: two files. path: of its packages."""
        place = folder / "targets" / "measuring"
        place.mkdir(parents=True)
        if sys.executable in python:  # which has bitloom: regular packages come before it
            (place / "__init__.py").touch()
            (place.parent / "__init__.py").touch()
        for name in ("board_agent.py", "board_session.py"):
            source = (ROOT / "targets" / "measuring" / name).read_text()
            (place / name).write_text(
                source.replace(f"\nPROTOCOL = {PROTOCOL}\n", f"\nPROTOCOL = {protocol}\n")
            )
        arguments = ["--tracker", str(self.address), "--key", key, "--port", str(free_port()), *options]
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{path}"}
        command = [*python, "-m", "targets.measuring.board_agent", *arguments]
        self.agents.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, cwd=folder))

    def wait_for(self, boards: int, seconds: float = 300.0) -> None:
        """Until so many boards are registered: where all cores are busy, importing TVM takes minutes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if len(known_boards(self.address)) == boards:
                    return
            except TrackerError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{boards} boards did not register")

    def kill_tracker(self) -> None:
        """The tracker's server is a child of its command."""
        assert self.tracker is not None
        for child in children(self.tracker.pid):
            os.kill(child, 9)
        self.tracker.kill()
        self.tracker.wait()

    def stop(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        if self.tracker is not None:
            self.kill_tracker()


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, check=False)
    return [int(word) for word in listed.stdout.split()]


@contextmanager
def farm_of(boards: int, key: str) -> Generator[Farm]:
    """A tracker that knows so many boards of a key."""
    made = Farm()
    made.start_tracker()
    for _ in range(boards):
        made.start_agent(key)
    try:
        made.wait_for(boards)
        yield made
    finally:
        made.stop()
