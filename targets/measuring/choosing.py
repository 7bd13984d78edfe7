"""The device of a name that a user gives."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.machine import CpuMachine
from targets.measuring.boards import Boards
from targets.measuring.emulated import EmulatedBoards
from targets.measuring.operands import FormConstants
from targets.measuring.program import Limits, Timing, static_triple
from targets.measuring.rpc import RpcBoards
from targets.measuring.ssh import SshBoards
from targets.measuring.tracker import address_of
from targets.runners import Board, runner_named


def boards_named(
    names: Sequence[str],
    machine: CpuMachine,
    *,
    tracker: str | None = None,
    constants: FormConstants | None = None,
    limits: Limits | None = None,
    timing: Timing | None = None,
) -> Boards:
    """One device of `qemu:CPU`, of one or several equal `ssh:USER@HOST`, or of the boards of a key.

    machine: whose kernels run there. tracker: HOST:PORT, for a key. timing: not of emulated cores, which
    count. Errors: BitloomError for names that are none of these or cannot be used together, and those of
    the devices.
    """
    architecture = static_triple(machine).partition("-")[0]
    if len(names) == 1 and names[0].startswith("qemu:"):
        cpu = names[0].removeprefix("qemu:")
        return EmulatedBoards(cpu, architecture, limits=limits, constants=constants)
    if names and all(name.startswith("ssh:") for name in names):
        boards = [board for board in map(runner_named, names) if isinstance(board, Board)]
        return SshBoards(boards, architecture, limits=limits, timing=timing, constants=constants)
    if len(names) == 1 and ":" not in names[0] and tracker is not None:
        address = address_of(tracker)
        return RpcBoards(address, names[0], limits=limits, timing=timing, constants=constants)
    raise BitloomError(
        f'no device is called "{" ".join(names)}"{"" if tracker else " (and no tracker is given)"}',
        "devices are qemu:CPU, ssh:USER@HOST (several, if they are equal), or a key and --tracker HOST:PORT",
    )
