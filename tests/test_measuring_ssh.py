"""Boards over ssh: a real sshd on this computer stands for one; nothing of a program stays there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitloom.cli import app
from compiler.ir.diagnostics import BitloomError
from schedules.arm_machines import CORTEX_A53
from schedules.machines import X86_64, runs_here
from schedules.tuning.measure import Outcome, Unit
from schedules.tuning.records import read
from targets.measuring.facts import fingerprint_of
from targets.measuring.host import host_fingerprint
from targets.measuring.program import Limits, Timing
from targets.measuring.ssh import SshBoards, facts_over_ssh
from targets.runners import Board, RunnerError, runner_named
from tests.command_line import ROOT, bitloom
from tests.command_line import Outcome as Done
from tests.faulty_kernels import FAULTS, faulty
from tests.loopback_sshd import Loopback, loopback_sshd

pytestmark = pytest.mark.skipif(not runs_here(X86_64), reason="the board is this computer")
LIMITS = Limits(seconds=2.0, memory_bytes=256 << 20)
QUICK = Timing(repeats=5, slice_seconds=0.0005)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback_sshd(tmp_path_factory.mktemp("sshd")) as board:
        yield board


def board_of(sshd: Loopback) -> Board:
    board = runner_named(sshd.runner)
    assert isinstance(board, Board)
    return board


def test_faults_are_told_in_their_own_words_and_the_others_go_on(sshd: Loopback) -> None:
    device = SshBoards([board_of(sshd)], "x86_64", limits=LIMITS, timing=QUICK)
    configs = ["right", *FAULTS, "slower"]
    found = dict(device.measure([faulty(X86_64, c, i) for i, c in enumerate(configs)]))
    device.close()
    told = {configs[i]: (m.outcome, m.said) for i, m in found.items()}
    for config, (outcome, words) in FAULTS.items():
        assert told[config][0] is outcome, (config, told[config])
        assert words in told[config][1]
    right, slower = found[0], found[len(configs) - 1]
    assert right.outcome is slower.outcome is Outcome.MEASURED
    assert device.unit is Unit.SECONDS
    assert 0 < 5 * right.cost < slower.cost < 0.01
    assert list(sshd.temporary.iterdir()) == []


def test_a_connection_that_breaks_loses_no_candidate(sshd: Loopback) -> None:
    """Every connection is cut a while after it was made, until all candidates are through."""
    slow = Timing(repeats=5, slice_seconds=0.0005, pause_seconds=0.15)
    device = SshBoards([board_of(sshd)], "x86_64", limits=LIMITS, timing=slow, batch=6)
    stopped = threading.Event()
    cut: list[int] = []

    def cutter() -> None:
        while not stopped.wait(0.9) and len(cut) < 4:
            for process in _connections(sshd):
                os.kill(process, signal.SIGKILL)
                cut.append(process)

    found: dict[int, Outcome] = {}
    plans = [faulty(X86_64, "right", i) for i in range(12)]
    first = device.measure(plans[:1])
    assert next(first)[1].outcome is Outcome.MEASURED  # warm
    thread = threading.Thread(target=cutter)
    thread.start()
    try:
        for index, measurement in device.measure(plans):
            assert index not in found
            found[index] = measurement.outcome
    finally:
        stopped.set()
        thread.join()
        device.close()
    assert cut
    # A candidate that ran at two of the cuts is given up, in so many words; none is forgotten.
    assert sorted(found) == list(range(12))
    assert list(found.values()).count(Outcome.MEASURED) >= 10


def _connections(sshd: Loopback) -> list[int]:
    """Processes of ssh that lead to the board."""
    config = str(sshd.temporary.parent / "ssh_config")
    listed = subprocess.run(["pgrep", "-f", "--", f"-F {config}"], capture_output=True, check=False).stdout
    return [int(word) for word in listed.split() if _is_ssh(int(word))]


def _is_ssh(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip() == "ssh"
    except OSError:
        return False


def test_a_board_that_stays_away_ends_it_with_its_words(sshd: Loopback, tmp_path: Path) -> None:
    device = SshBoards([board_of(sshd)], "x86_64", limits=LIMITS, timing=QUICK, patience_s=0.5)
    (sshd.temporary.parent / "key.pub").rename(tmp_path / "key.pub")
    start = time.monotonic()
    try:
        with pytest.raises(BitloomError, match=r"no board is left: ssh:.*Permission denied"):
            list(device.measure([faulty(X86_64, "right")]))
    finally:
        (tmp_path / "key.pub").rename(sshd.temporary.parent / "key.pub")
    assert time.monotonic() - start < 60
    ((_, again),) = device.measure([faulty(X86_64, "right")])
    device.close()
    assert again.outcome is Outcome.MEASURED


def test_a_board_of_another_architecture_is_refused(sshd: Loopback) -> None:
    device = SshBoards([board_of(sshd)], "aarch64", limits=LIMITS, timing=QUICK)
    with pytest.raises(BitloomError, match="it is Linux x86_64; the kernels are for Linux aarch64"):
        list(device.measure([faulty(CORTEX_A53, "right")]))
    device.close()


@pytest.mark.slow
def test_a_model_is_tuned_over_ssh_and_compiled_by_its_records(sshd: Loopback, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> Done:
        return bitloom(*arguments, cwd=tmp_path, cache=tmp_path / "cache")

    target, letters = ["--target", "cpu/avx2"], ROOT / "examples" / "letters"
    tuned = run(
        "tune", letters / "letters.onnx", *target, "--board", sshd.runner, "--trials", "40", "-q", "--json"
    )
    assert tuned.code == 0, tuned.stderr
    result = json.loads(tuned.stdout)
    assert (result["device"], result["unit"]) == (fingerprint_of(facts_over_ssh(board_of(sshd))), "seconds")
    assert result["device"] != host_fingerprint()
    [model] = result["model"]
    assert 0 < model["after_s"] < 2 * model["before_s"] < 1
    records = read(Path(result["records"]), pytest.fail)
    measured = [r for r in records if r.is_alone]
    placed = [r for r in records if r.place and r.verdict is None]
    assert {r.subject for r in placed} == {r.subject for r in measured}
    assert [r.outcome for r in measured] == [Outcome.MEASURED] * 40
    assert {r.machine for r in measured} == {"avx2"}
    assert list(sshd.temporary.iterdir()) == []
    compiled = run(
        "compile", letters / "letters.onnx", "-c", letters / "calibration.npz", *target, "-q", "--json"
    )
    assert compiled.code == 0, compiled.stderr
    tuning = json.loads(compiled.stdout)["tuning"]
    assert tuning["tuned"] == tuning["kernels"] and tuning["devices"] == [result["device"]]
    verified = run("verify", "out", "--runner", sshd.runner, "--samples", "1")
    assert verified.code == 0, verified.stderr


def test_boards_over_ssh_are_checked(sshd: Loopback) -> None:
    checked = CliRunner().invoke(app, ["board", "check", sshd.runner])
    assert checked.exit_code == 0, checked.output
    shown = dict(line.split(maxsplit=1) for line in checked.stdout.replace("round trip", "trip").splitlines())
    assert shown["trip"].endswith(" ms")
    assert shown["clock"].endswith(" MHz measured")
    assert "GMAC/s of one core (vp" in shown["peak"]
    missing = CliRunner().invoke(app, ["board", "check", "ssh:nobody@127.0.0.1:1"])
    assert missing.exit_code == 2
    assert "cannot reach ssh:nobody@127.0.0.1:1" in missing.stderr


def test_a_board_that_is_not_there() -> None:
    with pytest.raises(RunnerError, match=r"cannot reach ssh:nobody@127\.0\.0\.1:1"):
        SshBoards([Board("nobody@127.0.0.1", 1)], "x86_64")
