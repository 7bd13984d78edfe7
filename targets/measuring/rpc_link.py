"""A process that carries programs to boards of one key: `python -m targets.measuring.rpc_link HOST PORT KEY`.

TVM's client waits without limits and dies with its connection in more ways than one, so it lives in a process
that may be killed. On standard input: for each program the seconds that a board may take to get free (a
double), its length (a number of 64 bits), its bytes. On standard output: the program's lines, then one of
`#end`, `#lost WORDS`, `#program WORDS`, `#refused WORDS`. The length 0 asks for one line: a board's
hello and its facts.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from typing import Any

from targets.measuring.board_agent import Address
from targets.measuring.board_session import PROTOCOL
from targets.measuring.program import architecture_of
from targets.measuring.tracker import TrackerError, free_board

# What else than programs of its own name a machine runs.
_RUNS = {"aarch64": ("aarch64", "arm"), "armv7l": ("arm",), "armv8l": ("arm",)}
_POLL_S = 1.0
_CONNECT_S = 5.0


class _LostError(Exception):
    pass


class _RefusedError(Exception):
    pass


def main() -> None:
    tracker, key = Address(sys.argv[1], int(sys.argv[2])), sys.argv[3]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever TVM prints belongs to the errors

    def say(line: str) -> None:
        print(line, file=answers, flush=True)

    while head := sys.stdin.buffer.read(16):
        wait_s, size = struct.unpack("<dq", head)
        program = sys.stdin.buffer.read(size)
        try:
            session = _session(tracker, key, wait_s)
            if size:
                say(_run(session, program, say))
            else:
                told = _hello(session)
                told["facts"] = json.loads(str(session.get_function("bitloom.board.facts")()))
                say(json.dumps(told))
                say("#end")
            del session
        except _RefusedError as error:
            say(f"#refused {error}")
        except (_LostError, TrackerError) as error:
            say(f"#lost {error}")
        except Exception as error:  # TVM's errors are of many types, all of them the connection's
            words = [line.strip() for line in str(error).splitlines() if line.strip()]
            say(
                f"#lost the board or the way to it went away ({words[-1] if words else type(error).__name__})"
            )


def _session(tracker: Address, key: str, wait_s: float) -> Any:
    # First, for it takes seconds: a board that is taken and not used is soon offered to others.
    from tvm import rpc

    host, port, match = free_board(tracker, key, wait_s)
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        raise _LostError(f"cannot reach the board at {host}:{port}: {error.strerror or error}") from error
    return rpc.connect(host, port, match)


def _hello(session: Any) -> dict[str, Any]:
    greet = session.get_function("bitloom.board.hello")
    told = json.loads(str(greet()))
    if told["protocol"] != PROTOCOL:
        older = "the board" if told["protocol"] < PROTOCOL else "this computer"
        raise _RefusedError(
            f"the board's agent speaks version {told['protocol']} and this computer version {PROTOCOL}: "
            f"install the newer bitloom on {older}"
        )
    return told


def _run(session: Any, program: bytes, say: Any) -> str:
    """The last line."""
    told = _hello(session)
    wanted = architecture_of(program)
    if wanted is not None and wanted not in _RUNS.get(told["machine"], (told["machine"],)):
        raise _RefusedError(f"the board is {told['machine']}; the kernels are for {wanted}")
    session.get_function("bitloom.board.start")(program)
    read = session.get_function("bitloom.board.read")
    kept = ""
    while True:
        told = json.loads(str(read(_POLL_S)))
        *whole, kept = (kept + told["output"]).split("\n")
        for line in whole:
            say(line)
        status = told["status"]
        if status is None:
            continue
        if status == 0:
            return "#end"
        if status < 0:
            return f"#lost the measuring program was ended by signal {-status}"
        return f"#program {told['errors'].replace(chr(10), '; ') or f'it ended with status {status}'}"


if __name__ == "__main__":
    main()
