"""A session of a board's agent: what a client may call, in a process of its own that ends with it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Raised with every change of what the functions below take or answer.
PROTOCOL = 1
_PR_SET_PDEATHSIG = 1

# What a shell can tell of a Linux board: `name=value` lines.
FACTS_SCRIPT = r"""
first() { for f in "$@"; do [ -r "$f" ] && tr -d '\0' <"$f" 2>/dev/null && echo && return; done; echo; }
cpu() { sed -n "s/^$1[[:space:]]*: //p" /proc/cpuinfo 2>/dev/null | head -n 1; }
policy=/sys/devices/system/cpu/cpu0/cpufreq
echo "system=$(uname -s)"
echo "machine=$(uname -m)"
echo "model=$(first /proc/device-tree/model /sys/devices/virtual/dmi/id/product_name | head -n 1)"
echo "cpu=$(cpu 'model name')"
echo "part=$(cpu 'CPU implementer')/$(cpu 'CPU part')"
echo "features=$(cpu 'Features')$(cpu 'flags')"
echo "cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
echo "memory_kb=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
echo "clock_khz=$(first $policy/cpuinfo_max_freq)"
echo "clock_now_khz=$(first $policy/scaling_cur_freq)"
echo "governor=$(first $policy/scaling_governor)"
echo "millidegrees=$(cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null | sort -n | tail -n 1)"
echo "throttled=$(vcgencmd get_throttled 2>/dev/null | sed 's/throttled=//')"
echo "cooling=$(for d in /sys/class/thermal/cooling_device*; do
    case "$(cat $d/type 2>/dev/null)" in *cpu*|*Processor*) cat $d/cur_state 2>/dev/null;; esac
done | sort -n | tail -n 1)"
echo "load=$(cut -d ' ' -f 1 /proc/loadavg 2>/dev/null)"
"""


def read_facts(text: str) -> dict[str, str]:
    """What FACTS_SCRIPT printed; what the system does not tell is left out."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs if value.strip() and value.strip() != "/"}


def own_facts() -> dict[str, str]:
    done = subprocess.run(["sh", "-c", FACTS_SCRIPT], capture_output=True, text=True, check=False)
    return corrected(read_facts(done.stdout), platform.machine())


def corrected(facts: dict[str, str], machine: str) -> dict[str, str]:
    """Facts without those of another CPU: an emulated board's shell may be its host's."""
    told = facts.get("machine", machine)
    if told == machine:
        return {**facts, "machine": machine}
    kept = {name: facts[name] for name in ("system", "cores", "memory_kb", "load") if name in facts}
    return {**kept, "machine": machine, "model": f"emulated on {told}"}


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve_session(connection: socket.socket, folder: str, memory_bytes: int, launcher: Sequence[str]) -> None:
    """The child's life. Never returns."""
    status = 1
    try:
        os.setsid()
        _die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        os.chdir(folder)
        from tvm.rpc import _ffi_api, server

        server.logger.setLevel("ERROR")
        kept = server._server_env([], None)  # pyright: ignore[reportPrivateUsage]
        _Session(Path(folder), launcher).register()
        _ffi_api.ServerLoop(connection.fileno())  # pyright: ignore[reportAttributeAccessIssue]
        del kept
        status = 0
    finally:
        os._exit(status)


class _Session:
    """What clients call besides TVM's own functions: run a program that prints lines, and read them."""

    def __init__(self, folder: Path, launcher: Sequence[str]) -> None:
        self._folder = folder
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def register(self) -> None:
        import tvm_ffi

        for function in (self.hello, self.facts, self.start, self.read):
            tvm_ffi.register_global_func(f"bitloom.board.{function.__name__}", function, override=True)

    def hello(self) -> str:
        import tvm

        who = {"protocol": PROTOCOL, "tvm": tvm.__version__, "machine": platform.machine()}
        return json.dumps({**who, "system": platform.system()})

    def facts(self) -> str:
        return json.dumps(own_facts())

    def start(self, program: bytes) -> None:
        """Runs an executable file, its own path its only argument."""
        self._count += 1
        path = self._folder / f"program{self._count}"
        path.write_bytes(bytes(program))
        path.chmod(0o700)
        with (self._folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [*self._launcher, str(path), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._folder,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the session has one thread
            )

    def read(self, seconds: float) -> str:
        """{"output": what came within so many seconds, "status": of the program once it ended, or null,
        "errors": the end of its errors then}."""
        process = self._process
        assert process is not None and process.stdout is not None
        if not select.select([process.stdout], [], [], float(seconds))[0]:
            return json.dumps({"output": "", "status": None})
        part = os.read(process.stdout.fileno(), 65536)
        if part:
            return json.dumps({"output": part.decode(errors="replace"), "status": None})
        status = process.wait()
        errors = (self._folder / "errors").read_bytes()[-2000:].decode(errors="replace")
        return json.dumps({"output": "", "status": status, "errors": errors.strip()})
