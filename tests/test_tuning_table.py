"""The live table of `bitloom tune`, on a terminal that tests read; Ctrl-C there."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from schedules.tuning.records import databases, read
from tests.command_line import environment

LETTERS = Path(__file__).parents[1] / "examples" / "letters"
_HEADS = "kernel +runs +trials +default +best +gain +to gain"
_ROW = r"(?m)^(\w+) +(\d+) +(\d+) +(\d+\.\d µs|-) +(\d+\.\d µs|-) +(\d+\.\d)% +(\d+\.\d)% *$"
_STATUS = r"measure: (\d+) trials, \d+\.\d% gained, about \d+\.\d% to gain, \d+ s, about \d+ s left"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A process with a terminal of its own; `text`: all that it wrote, without colours and moves."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str]) -> None:
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.execve(command[0], command, variables)
        self._seen = b""

    @property
    def text(self) -> str:
        return _ANSI.sub("", self._seen.decode(errors="replace")).replace("\r\n", "\n").replace("\r", "\n")

    def read_until(self, pattern: str, seconds: float) -> re.Match[str]:
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < until, self.text[-3000:]
            assert self._read(), self.text[-3000:]
        return found

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def exit_code(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def _read(self) -> bool:
        """More of what it writes, if there is any soon. Whether it may write more."""
        if select.select([self._terminal], [], [], 0.2)[0]:
            try:
                part = os.read(self._terminal, 65536)
            except OSError:  # the other end was closed
                return False
            self._seen += part
            return bool(part)
        return True


def test_the_table_shows_each_kernel_and_ctrl_c_tells_how_to_go_on(tmp_path: Path) -> None:
    arguments = ["tune", str(LETTERS / "letters.onnx"), "--trials", "400"]
    command = [sys.executable, "-m", "bitloom.cli", *arguments]
    variables = {**environment(tmp_path / "cache"), "COLUMNS": "140", "LINES": "40", "TERM": "xterm"}
    terminal = Terminal(command, tmp_path, variables)
    try:
        terminal.read_until(_HEADS, 120)
        terminal.read_until(_STATUS, 300)
        terminal.read_until(r"measure: (1[6-9]|[2-9]\d) trials", 300)  # beyond the defaults: one is searched
        frame = terminal.text[: terminal.text.rindex("measure: ")]
        rows = re.findall(_ROW, frame[frame.rindex("kernel ") :])
        terminal.type("\x03")
        assert terminal.exit_code() == 130
    except BaseException:
        os.kill(terminal.process, signal.SIGKILL)
        raise
    assert rows, terminal.text[-3000:]
    for _, runs, trials, default, best, gain, to_gain in rows:
        assert int(runs) >= 1 and 0 <= float(gain) < 100 and 0 <= float(to_gain) <= 100
        if int(trials):
            before, after = (float(text.removesuffix(" µs")) for text in (default, best))
            assert after <= before
            assert float(gain) == pytest.approx(100 * (1 - after / before), abs=100 * 0.11 / before + 0.06)
    costs = [float(r[1]) * float(r[4].removesuffix(" µs")) for r in rows if r[4] != "-"]
    assert costs == sorted(costs, reverse=True)
    [path] = databases(tmp_path / "cache-records")
    text = " ".join(terminal.text.split())
    assert f"interrupted; all measurements are kept in {path}" in text
    assert f"hint: the same command goes on: bitloom {' '.join(arguments)}" in text
    kept = read(path, pytest.fail)
    assert len(kept) >= 16
    assert sum(int(row[2]) for row in rows) <= len(kept)
