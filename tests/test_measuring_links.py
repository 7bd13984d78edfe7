"""Processes that lead to boards: their lines, and their last words."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from targets.measuring.links import LinkLostError, Speaking


class LateReader(Speaking):
    """Its errors are read only a while after the process has ended."""

    def _keep_errors(self) -> None:
        self.ended.wait(10)
        super()._keep_errors()

    def __init__(self, *command: str) -> None:
        self.ended = threading.Event()
        super().__init__(command, with_errors=False)


def test_last_words_are_waited_for() -> None:
    process = LateReader("sh", "-c", "echo a line; echo why >&2; exit 7")
    assert list(process.lines(5)) == ["a line"]
    assert process.status() == 7
    threading.Timer(0.2, process.ended.set).start()
    assert process.complaint == "why"


def test_errors_that_stay_open_are_not_waited_for() -> None:
    sleeper = "import subprocess; print(subprocess.Popen(['sleep', '30'], start_new_session=True).pid)"
    process = Speaking(
        [sys.executable, "-c", sleeper + "; import sys; sys.stderr.write('why')"], with_errors=False
    )
    lines = process.lines(5)
    child = next(lines)
    try:
        assert process.status() == 0
        assert process.complaint == "why"
    finally:
        subprocess.run(["kill", child], check=True)


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(LinkLostError, match="cannot start no-such-program: No such file"):
        Speaking(["no-such-program"], with_errors=False)
