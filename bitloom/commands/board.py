"""`bitloom board`: boards for `bitloom tune` and the tracker that knows them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from targets.measuring.board_agent import Address
    from targets.measuring.checking import BoardCheck
    from targets.measuring.tracker import KnownBoard

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Tracker = Annotated[str, typer.Option("--tracker", metavar="HOST:PORT", help="The TVM RPC tracker.")]

# A board that beats every 2 s (board_agent.BEAT_S) is heard within this.
_LISTEN_S = 5.0

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Boards for tuning: serve one, list them, check one. "
    "TVM's RPC has no authentication and runs whatever it is sent: "
    "use it on loopback, in a VPN or behind an ssh tunnel only.",
)


@app.command("serve")
def serve_command(
    tracker: Tracker,
    key: Annotated[str, typer.Option("--key", help="The name that boards of this kind share.")],
    host: Annotated[
        str,
        typer.Option(
            "--host", help="The address to listen on. Whoever reaches it can run any code on this board."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The first port to try.")] = 9091,
    shown_host: Annotated[
        str | None, typer.Option("--shown-host", help="The address that clients are told to connect to.")
    ] = None,
    launcher: Annotated[
        str,
        typer.Option("--launcher", help="A command to run kernels by, such as 'taskset -c 3'."),
    ] = "",
    memory: Annotated[
        int | None, typer.Option("--memory", help="Most memory of a session, in MiB. Default: all but 256.")
    ] = None,
) -> None:
    """Lend this computer to tuners. Runs until it is ended.

    It outlives kernels that crash, hang or eat memory, and registers again after the tracker
    was restarted. There is no authentication: anyone who reaches the address can run code here.
    A board without bitloom runs two files of it with TVM alone: see docs/boards.md.
    """
    import shlex

    from compiler.ir.diagnostics import BitloomError
    from targets.measuring.board_agent import Agent
    from targets.measuring.tracker import address_of

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if host not in ("127.0.0.1", "localhost", "::1"):
        say(f"warning: whoever reaches {host} can run any code on this computer: RPC has no authentication")
    try:
        agent = Agent(
            address_of(tracker),
            key,
            host=host,
            ports=(port, port + 108),
            shown_host=shown_host,
            launcher=shlex.split(launcher),
            memory_bytes=None if memory is None else memory << 20,
            say=say,
        )
    except OSError as error:
        raise BitloomError(str(error), "--host must be an address of this computer") from error
    say(f"listening on {host}:{agent.port}")
    agent.run()


@app.command("list")
def list_command(tracker: Tracker, json: Json = False) -> None:
    """List the boards that a tracker knows, and how they are.

    Takes some seconds, to hear which of them are alive.
    """
    from bitloom.commands.text import print_json, table
    from targets.measuring.tracker import address_of

    rows = _heard(address_of(tracker))
    if json:
        print_json([{"key": b.key, "address": b.address, "state": state, **_told(b)} for b, state in rows])
        return
    headers = ["key", "address", "state", "core", "clock", "governor", "temperature", "sessions", "faults"]
    print(table(headers, [_row(board, state) for board, state in rows], "    r rrr"))


@app.command("check")
def check_command(
    board: Annotated[str, typer.Argument(metavar="KEY|ssh:USER@HOST", help="The board.")],
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="The tracker, for a KEY.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure whether a board is fit for tuning.

    Round trip, noise of equal measurements, clock, and the most multiply-accumulates of 8 bits
    that one core can make.
    """
    from bitloom.commands.text import print_json
    from compiler.ir.diagnostics import BitloomError
    from targets.measuring.links import LinkLostError, ProgramError, RefusedError

    try:
        facts, found = _checked(board, tracker)
    except (LinkLostError, ProgramError, RefusedError) as error:
        raise BitloomError(f"board {board}: {error}") from error
    if json:
        peak = {"instruction": found.instruction, "peak": found.peak, "per_cycle": found.peak_per_cycle}
        known = {"round_trip_seconds": found.round_trip_seconds, "noise": found.noise}
        print_json({**known, "clock_hz": found.clock_hz, **peak, "facts": facts})
        return
    _print_check(facts, found)


def _checked(board: str, tracker: str | None) -> tuple[dict[str, str], BoardCheck]:
    from compiler.ir.diagnostics import BitloomError
    from targets.measuring.checking import check_board
    from targets.measuring.program import triple_of_system
    from targets.measuring.rpc import RpcLink
    from targets.measuring.ssh import SshLink, facts_over_ssh
    from targets.measuring.tracker import address_of, boards_of
    from targets.runners import Board, runner_named

    if board.startswith("ssh:"):
        reached = runner_named(board)
        assert isinstance(reached, Board)
        facts = facts_over_ssh(reached)
        triple = triple_of_system(facts.get("machine", ""))
        link = SshLink(reached, triple.split("-")[0])
        return facts, check_board(link, triple, lambda: reached.ask("true"))
    if tracker is None:
        raise BitloomError(f'board "{board}" is a key: --tracker HOST:PORT says who knows it')
    address = address_of(tracker)
    boards_of(address, board)
    rpc = RpcLink(address, board)
    try:
        facts = rpc.hello()["facts"]
        return facts, check_board(rpc, triple_of_system(facts.get("machine", "")), rpc.hello)
    finally:
        rpc.close()


def _print_check(facts: dict[str, str], found: BoardCheck) -> None:
    from targets.measuring.facts import celsius_of, fingerprint_of, warnings_of

    rows = [("board", fingerprint_of(facts))]
    rows.append(("round trip", f"{found.round_trip_seconds * 1e3:.1f} ms"))
    rows.append(("clock", f"{found.clock_hz / 1e6:.0f} MHz measured"))
    rows.append(("noise", f"{found.noise:.1%} between equal measurements"))
    if found.peak is not None and found.peak_per_cycle is not None:
        how = f"{found.instruction}, {found.peak_per_cycle:.1f} a cycle"
        rows.append(("peak", f"{found.peak / 1e9:.1f} GMAC/s of one core ({how})"))
    degrees = celsius_of(facts)
    if degrees is not None:
        rows.append(("temperature", f"{degrees:.0f} °C"))
    rows += [("governor", facts["governor"])] if "governor" in facts else []
    for name, value in rows:
        print(f"{name:<12} {value}")
    for warning in warnings_of(facts):
        print(f"warning: {warning}", file=sys.stderr)


def _heard(address: Address) -> list[tuple[KnownBoard, str]]:
    """Every board with its state, after listening for a beat of each."""
    import time

    from targets.measuring.tracker import known_boards

    first = {board.address: _told(board).get("beat") for board in known_boards(address)}
    until = time.monotonic() + _LISTEN_S
    while True:
        now = known_boards(address)
        waiting = [b for b in now if b.status is not None and _told(b).get("beat") == first.get(b.address)]
        if not waiting or time.monotonic() > until:
            return [(board, _state(board, board in waiting)) for board in now]
        time.sleep(0.25)


def _told(board: KnownBoard) -> dict[str, Any]:
    return board.status or {}


def _state(board: KnownBoard, silent: bool) -> str:
    if board.status is None:
        return "another RPC server"
    return "silent" if silent else str(board.status["state"])


def _row(board: KnownBoard, state: str) -> list[str]:
    from targets.measuring.facts import celsius_of, cpu_of, throttling_of

    told = _told(board)
    facts: dict[str, str] = told.get("facts", {})
    clock = f"{int(facts['clock_khz']) // 1000} MHz" if "clock_khz" in facts else "-"
    degrees, slowed = celsius_of(facts), throttling_of(facts)
    heat = "-" if degrees is None else f"{degrees:.0f} °C"
    state = f"{state}, slowed by {slowed}" if slowed else state
    core = cpu_of(facts) if facts else "-"
    counts = [str(told.get(name, "-")) for name in ("sessions", "faults")]
    return [board.key, board.address, state, core, clock, facts.get("governor", "-"), heat, *counts]
