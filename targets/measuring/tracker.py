"""A TVM RPC tracker as its clients see it: which boards it knows, and the way to a free one."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from compiler.ir.diagnostics import BitloomError
from targets.measuring.board_agent import Address

# TVM's protocol (tvm.rpc.base): importing TVM for a list of boards would take seconds.
_MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6
_ANSWER_S = 5.0


class TrackerError(BitloomError):
    """The tracker is not there, or is none, or has no such board."""


@dataclass(frozen=True, slots=True)
class KnownBoard:
    """A board that is registered. status: what our agent last told; None for other servers."""

    key: str
    address: str
    status: dict[str, Any] | None


def address_of(text: str) -> Address:
    """HOST:PORT. Errors: TrackerError."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise TrackerError(f"--tracker: {error}", "such as 127.0.0.1:9190") from error


def known_boards(tracker: Address) -> list[KnownBoard]:
    """All boards, by key and address. Errors: TrackerError where there is no tracker."""
    with _connected(tracker) as connection:
        answer = _asked(connection, tracker, [_SUMMARY])
    found: list[KnownBoard] = []
    for info in answer[1]["server_info"]:
        host, port = info.get("addr", ("?", 0))
        found.append(KnownBoard(info["key"].removeprefix("server:"), f"{host}:{port}", info.get("bitloom")))
    return sorted(found, key=lambda board: (board.key, board.address))


def boards_of(tracker: Address, key: str) -> list[KnownBoard]:
    """At least one, all of them with our agent. Errors: TrackerError, which lists the keys there are."""
    known = known_boards(tracker)
    found = [board for board in known if board.key == key]
    if not found:
        others = sorted({board.key for board in known})
        there = f"it knows {', '.join(others)}" if others else "it knows no board at all"
        raise TrackerError(
            f'the tracker at {tracker} has no board of the key "{key}"; {there}',
            f"on the board: bitloom board serve --tracker {tracker} --key {key}",
        )
    for board in found:
        if board.status is None:
            raise TrackerError(
                f"the board {key} at {board.address} runs another RPC server",
                f"on the board: bitloom board serve --tracker {tracker} --key {key}",
            )
    return found


def free_board(tracker: Address, key: str, wait_s: float) -> tuple[str, int, str]:
    """Host, port and the key to show, of the first board that is free; it is ours for some seconds.

    Errors: TrackerError where there is none of the key, or none gets free in time.
    """
    boards_of(tracker, key)
    with _connected(tracker) as connection:
        connection.settimeout(wait_s)
        try:
            _, (host, port, match) = _asked(connection, tracker, [_REQUEST, key, "", 1])
        except TimeoutError:
            raise TrackerError(f'no board of the key "{key}" got free within {wait_s:g} s') from None
    return str(host), int(port), str(match)


def _connected(tracker: Address) -> socket.socket:
    try:
        connection = socket.create_connection((tracker.host, tracker.port), _ANSWER_S)
        connection.sendall(struct.pack("<i", _MAGIC))
        magic = _taken(connection, 4)
    except OSError as error:
        raise TrackerError(
            f"cannot reach the tracker at {tracker}: {error.strerror or error}",
            "start it: python -m tvm.exec.rpc_tracker --host HOST --port PORT",
        ) from error
    if struct.unpack("<i", magic)[0] != _MAGIC:
        connection.close()
        raise TrackerError(f"what answers at {tracker} is no tracker of TVM's RPC")
    return connection


def _asked(connection: socket.socket, tracker: Address, message: list[Any]) -> Any:
    """Errors: TimeoutError; TrackerError where the tracker goes away."""
    sent = json.dumps(message).encode()
    try:
        connection.sendall(struct.pack("<i", len(sent)) + sent)
        (size,) = struct.unpack("<i", _taken(connection, 4))
        answer = json.loads(_taken(connection, size))
    except TimeoutError:
        raise
    except OSError as error:
        raise TrackerError(f"the tracker at {tracker} went away: {error}") from error
    if isinstance(answer, list) and answer and answer[0] != _SUCCESS:
        raise TrackerError(f"the tracker at {tracker} refuses: {answer}")
    return answer


def _taken(connection: socket.socket, size: int) -> bytes:
    contents = b""
    while len(contents) < size:
        part = connection.recv(size - len(contents))
        if not part:
            raise OSError("it closed the connection")
        contents += part
    return contents
