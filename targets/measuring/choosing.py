"""The device of a place that a user names: this computer, or boards of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.machine import CpuMachine
from schedules.machines import runs_here
from schedules.tuning.measure import Device
from targets.measuring.board_agent import Address
from targets.measuring.boards import Boards
from targets.measuring.emulated import EmulatedBoards
from targets.measuring.features import check_boards
from targets.measuring.host import HostDevice
from targets.measuring.operands import FormConstants, constants_of
from targets.measuring.program import Limits, Timing, static_triple
from targets.measuring.rpc import RpcBoards
from targets.measuring.ssh import SshBoards
from targets.measuring.tracker import address_of, boards_of
from targets.runners import Board, emulator_command, runner_named
from targets.tunable import NotTimedError, Place

if TYPE_CHECKING:
    from compiler.ir.graph import Graph

# A core of qemu; boards over ssh; the key of boards that a tracker knows.
_Named = str | list[Board] | tuple[Address, str]


def check_place(place: Place, machine: CpuMachine, target: str) -> None:
    """Errors: BitloomError where the machine's kernels cannot be measured there, as far as that can be known
    without asking a board's CPU: boards that are not there, options that do not fit."""
    if place.runner is not None:
        raise BitloomError(
            f'target "{target}" runs on CPUs, and --runner is for OpenCL devices',
            "leave it out, or name a --board",
        )
    if place.is_here:
        if not runs_here(machine):
            raise BitloomError(
                f'target "{target}" is {machine.name}, which this computer is not',
                "tune on such a computer, or on boards: --board, or --tracker and --key",
            )
        if place.pause_seconds:
            raise BitloomError("--pause is for boards", "leave it out, or name a --board")
        return
    if place.threads != 1:
        raise BitloomError("--threads is for this computer: boards measure kernels by one thread")
    if "apple" in str(dict(machine.target).get("mtriple", "")):
        raise BitloomError(f'target "{target}" is for macOS, and boards run Linux', "tune on such a computer")
    match _named(place.boards, place.tracker):
        case str(cpu):
            emulator_command(cpu, _architecture(machine))
            if place.pause_seconds:
                raise BitloomError(f"--pause does not cool qemu:{cpu}: it counts instructions")
        case list(boards):
            for board in boards:
                board.ask("true")
        case (tracker, key):
            boards_of(tracker, key)


def kernel_device(graph: Graph, place: Place, machine: CpuMachine, target: str) -> Device[KernelPlan]:
    """Measures kernels of a graph. Errors: as `check_place`, and for boards whose CPUs do not suit."""
    check_place(place, machine, target)
    constants = constants_of(graph)
    if place.is_here:
        return HostDevice(constants, threads=place.threads)
    boards = boards_named(
        place.boards,
        machine,
        tracker=place.tracker,
        constants=constants,
        timing=Timing(pause_seconds=place.pause_seconds),
        patience_s=place.patience_seconds,
    )
    try:
        check_boards(boards.links, machine, target, place.patience_seconds)
    except BaseException:
        boards.close()
        raise
    return boards


def runner_of(place: Place) -> str:
    """See `targets.tunable.Tunable.runner`."""
    if place.is_here:
        return "local"
    match _named(place.boards, place.tracker):
        case str(cpu):
            raise NotTimedError(f"qemu:{cpu} counts instructions of kernels, and keeps no time of models")
        case list(boards):
            return boards[0].name
        case _:
            raise NotTimedError("boards of a tracker run kernels alone: `bitloom run` needs ssh")


def boards_named(
    names: Sequence[str],
    machine: CpuMachine,
    *,
    tracker: str | None = None,
    constants: FormConstants | None = None,
    limits: Limits | None = None,
    timing: Timing | None = None,
    patience_s: float = 60.0,
) -> Boards:
    """One device of `qemu:CPU`, of one or several equal `ssh:USER@HOST`, or of the boards of a key.

    machine: whose kernels run there. tracker: HOST:PORT, for a key. timing, patience_s: not of emulated
    cores, which count and are not lost. Errors: BitloomError for names that are none of these or cannot be
    used together, and those of the devices.
    """
    architecture = _architecture(machine)
    match _named(names, tracker):
        case str(cpu):
            return EmulatedBoards(cpu, architecture, limits=limits, constants=constants)
        case list(boards):
            return SshBoards(
                boards,
                architecture,
                limits=limits,
                timing=timing,
                constants=constants,
                patience_s=patience_s,
            )
        case (address, key):
            return RpcBoards(
                address, key, limits=limits, timing=timing, constants=constants, patience_s=patience_s
            )


def _architecture(machine: CpuMachine) -> str:
    return static_triple(machine).partition("-")[0]


def _named(names: Sequence[str], tracker: str | None) -> _Named:
    """Errors: BitloomError."""
    if len(names) == 1 and names[0].startswith("qemu:"):
        return names[0].removeprefix("qemu:")
    if names and all(name.startswith("ssh:") for name in names):
        return [board for board in map(runner_named, names) if isinstance(board, Board)]
    if len(names) == 1 and ":" not in names[0] and tracker is not None:
        return address_of(tracker), names[0]
    raise BitloomError(
        f'no device is called "{" ".join(names)}"{"" if tracker else " (and no tracker is given)"}',
        "devices are qemu:CPU, ssh:USER@HOST (several, if they are equal), or a key and --tracker HOST:PORT",
    )
