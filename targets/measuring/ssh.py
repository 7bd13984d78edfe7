"""Boards over ssh: nothing is installed there; a static program is copied, runs, and is removed."""

from __future__ import annotations

from collections.abc import Iterator

from targets.measuring.board_session import FACTS_SCRIPT, read_facts
from targets.measuring.boards import Boards
from targets.measuring.facts import fingerprint_of
from targets.measuring.links import LinkLostError, ProgramError, RefusedError, Speaking
from targets.measuring.operands import FormConstants
from targets.measuring.program import Limits, Timing
from targets.runners import SYSTEM_CHECK, Board, RunnerError

_SSH_FAILED = 255
_OTHER_SYSTEM = 90
_NO_PLACE = 91

# `exit` keeps the shell, which removes the folder; a lost connection ends the program when it next speaks.
_RUN = (
    SYSTEM_CHECK
    + """\
folder=$(mktemp -d) || exit 91
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM PIPE
cat >"$folder/measure" && chmod 700 "$folder/measure" || exit 91
"$folder/measure" "$folder/measure"
exit $?
"""
)


class SshLink:
    """One board, one connection for each program."""

    def __init__(self, board: Board, architecture: str) -> None:
        self.name = board.name
        self._board = board
        self._architecture = architecture
        self._running: Speaking | None = None

    def run(self, program: bytes, silence_s: float) -> Iterator[str]:
        command = self._board.command(_RUN.format(machine=Board.machine_of(self._architecture)))
        self._running = running = Speaking(command, with_errors=False)
        try:
            running.give(program, close=True)
            other = ""
            for line in running.lines(silence_s):
                other = line
                yield line
            status = running.status()
        finally:
            running.end()
        complaint = running.complaint
        if status == _OTHER_SYSTEM:
            raise RefusedError(f"it is {other}; the kernels are for Linux {self._architecture}")
        if status == _NO_PLACE:
            raise RefusedError(f"it has no place for the program: {complaint}")
        if status == _SSH_FAILED or status < 0:
            raise LinkLostError(complaint or "the connection was lost")
        if status > 128:
            raise LinkLostError(f"the measuring program was ended by signal {status - 128}")
        if status != 0:
            raise ProgramError(complaint or f"the program ended with {status}")

    def close(self) -> None:
        if self._running is not None:
            self._running.end()


def facts_over_ssh(board: Board) -> dict[str, str]:
    """What the board tells of itself. Errors: RunnerError."""
    return read_facts(board.ask(FACTS_SCRIPT))


class SshBoards(Boards):
    """Boards that are equal, by their names `ssh:USER@HOST`; the first one gives the fingerprint.

    architecture: of the kernels, as zig spells it. Errors: RunnerError where a board cannot be reached or
    is another machine than the first.
    """

    def __init__(
        self,
        boards: list[Board],
        architecture: str,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        constants: FormConstants | None = None,
        batch: int = 8,
        patience_s: float = 60.0,
        workers: int = 2,
    ) -> None:
        prints = {board.name: fingerprint_of(facts_over_ssh(board)) for board in boards}
        if len(set(prints.values())) > 1:
            told = "; ".join(f"{name} is {what}" for name, what in prints.items())
            raise RunnerError(f"these boards differ, so that their times cannot be compared: {told}")
        super().__init__(
            [SshLink(board, architecture) for board in boards],
            next(iter(prints.values())),
            timing=timing,
            limits=limits,
            constants=constants,
            batch=batch,
            patience_s=patience_s,
            workers=workers,
        )
