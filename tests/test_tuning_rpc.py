"""`bitloom tune` on boards behind a real tracker on loopback, of which any part may be killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path

import pytest

from schedules.machines import X86_64, runs_here
from schedules.tuning.measure import Outcome
from schedules.tuning.records import Record, databases, read
from targets.measuring.board_session import PROTOCOL
from tests.command_line import ROOT, bitloom, environment
from tests.command_line import Outcome as Done
from tests.onnx_models import make_model, node, save
from tests.rpc_boards import Farm, farm_of

pytestmark = pytest.mark.skipif(not runs_here(X86_64), reason="the boards are this computer")
LETTERS = ROOT / "examples" / "letters"


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """Two boards of the key `pair`; tests that kill make their own."""
    with farm_of(2, "pair") as made:
        yield made


def run(folder: Path, *arguments: str | Path) -> Done:
    return bitloom(*arguments, cwd=folder, cache=folder / "cache")


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bitloom.cli", *arguments],
        cwd=folder,
        env={**environment(folder / "cache"), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records_of(folder: Path) -> list[Record]:
    return [r for path in databases(folder / "cache-records") for r in read(path, pytest.fail)]


def trials_of(folder: Path) -> list[Record]:
    return [r for r in records_of(folder) if r.verdict is None]


def test_a_model_is_tuned_by_all_boards_of_a_key_and_compiled_by_its_records(
    farm: Farm, tmp_path: Path
) -> None:
    boards = ["--tracker", str(farm.address), "--key", "pair"]
    tuned = run(
        tmp_path, "tune", LETTERS / "letters.onnx", "-t", "cpu/avx2", *boards, "--trials", "24", "--json"
    )
    assert tuned.code == 0, tuned.stderr
    result = json.loads(tuned.stdout)
    assert result["model"] == [] and "boards of a tracker run kernels alone" in result["not_compared"]
    assert [r.outcome for r in trials_of(tmp_path)] == [Outcome.MEASURED] * 24
    source = [LETTERS / "letters.onnx", "-c", LETTERS / "calibration.npz", "-t", "cpu/avx2"]
    compiled = run(tmp_path, "compile", *source, "-q", "--json")
    assert compiled.code == 0, compiled.stderr
    tuning = json.loads(compiled.stdout)["tuning"]
    assert tuning["tuned"] == tuning["kernels"] and tuning["devices"] == [result["device"]]
    assert run(tmp_path, "verify", "out", "--samples", "1").code == 0


def test_boards_that_cannot_be_used_are_told_in_one_message(farm: Farm, tmp_path: Path) -> None:
    """A key that is not there, another architecture, another version of the agent."""
    tracker = ["--tracker", str(farm.address), "-q"]
    model = str(LETTERS / "letters.onnx")
    absent = run(tmp_path, "tune", model, *tracker, "--key", "rpi5")
    other = run(tmp_path, "tune", model, *tracker, "--key", "pair", "-t", "arm/cortex-a53")
    farm.start_copy("newer", tmp_path / "newer", protocol=PROTOCOL + 1)
    try:
        farm.wait_for(3)
        newer = run(tmp_path, "tune", model, *tracker, "--key", "newer")
    finally:
        agent = farm.agents.pop()
        agent.kill()
        agent.wait()
    farm.wait_for(2)
    told = {
        'no board of the key "rpi5"; it knows pair': absent,
        'does not suit the target "arm/cortex-a53": the board is x86_64; the kernels are for aarch64': other,
        f"the board's agent speaks version {PROTOCOL + 1} and this computer version {PROTOCOL}": newer,
    }
    for words, done in told.items():
        assert done.code == 2
        assert done.stderr.startswith("error: ") and words in done.stderr, done.stderr
        assert done.stderr.count("\n") <= 2  # the message, and the way out
    assert records_of(tmp_path) == []


def test_a_board_that_stays_away_ends_the_tune_and_keeps_the_records(tmp_path: Path) -> None:
    made = Farm()
    made.start_tracker()
    made.start_agent("board")
    boards = ["--tracker", str(made.address), "--key", "board", "--pause", "0.3s", "--patience", "2s"]
    command = ["tune", str(LETTERS / "letters.onnx"), *boards, "--trials", "24"]
    try:
        made.wait_for(1)
        process = started(tmp_path, *command)
        _wait_for_records(tmp_path, 5, process)
        agent = made.agents.pop()
        agent.kill()
        agent.wait()
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 2, stderr
        assert "error: no board is left: board at" in stderr
        assert "hint: what was measured is kept: run the same command when the board is back" in stderr
        assert "Traceback" not in stderr
        kept = records_of(tmp_path)
        [path] = databases(tmp_path / "cache-records")
        _damage_a_line(path, 2)
        made.start_agent("board")
        made.wait_for(1)
        done = run(tmp_path, *command)
    finally:
        made.stop()
    assert done.code == 0, done.stderr
    assert f"warning: {path}, line 2: damaged record left out" in done.stderr
    damaged = kept.pop(1)
    found: list[str] = []
    after = read(path, found.append)
    assert len(found) == 1
    assert after[: len(kept)] == kept
    again = [r for r in after[len(kept) :] if (r.subject, r.choice) == (damaged.subject, damaged.choice)]
    assert again  # what is not known is measured
    assert len([r for r in after if r.verdict is None]) == 24


def _damage_a_line(path: Path, number: int) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = lines[number - 1].replace('"cost":', '"cast":')
    path.write_text("\n".join(lines))


def _wait_for_records(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while len(records_of(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


def test_whatever_is_killed_the_tune_ends_with_all_its_records(tmp_path: Path) -> None:
    kill_at_random(tmp_path, ["board", "tracker", "tuner"], seed=1)


@pytest.mark.slow
def test_twenty_kills_lose_no_measurement(tmp_path: Path) -> None:
    kill_at_random(tmp_path, list(islice(cycle(["tuner", "board", "tracker"]), 20)), seed=2)


def kill_at_random(folder: Path, victims: list[str], seed: int) -> None:
    """Kills -9 one after the other while `bitloom tune` runs, and starts again what was killed."""
    rng = random.Random(seed)
    rng.shuffle(victims)
    made = Farm()
    made.start_tracker()
    for _ in range(2):
        made.start_agent("board")
    boards = ["--tracker", str(made.address), "--key", "board", "--pause", "0.5s", "--patience", "10m"]
    command = ["tune", str(LETTERS / "letters.onnx"), "-t", "cpu/avx2", *boards, "-q", "--json", "--trials"]
    trials, kept = 40, list[Record]()
    try:
        made.wait_for(2)
        process = started(folder, *command, str(trials))
        for number, victim in enumerate(victims):
            _wait_for_records(folder, 1, process)
            time.sleep(rng.uniform(0.5, 8.0))
            if process.poll() is not None:
                trials += 0 if _result(process) is None else 40
                process = started(folder, *command, str(trials))
            process = _kill(made, victim, rng, process, folder, [*command, str(trials)])
            after = _readable(folder)
            assert after[: len(kept)] == kept, f"kill {number} ({victim}) lost records"
            kept = after
        while (result := _result(process)) is None:
            made.wait_for(2)
            process = started(folder, *command, str(trials))
    finally:
        made.stop()
    after = _readable(folder)
    assert after[: len(kept)] == kept
    measured = [r for r in after if r.verdict is None and r.outcome is not Outcome.LOST]
    assert len(measured) == trials
    # Only a candidate that ran at two of the kills is given up; nothing that was recorded is done again.
    assert {r.outcome for r in measured} == {Outcome.MEASURED}
    choices = {(r.subject, json.dumps(r.choice, sort_keys=True)) for r in measured}
    assert len(choices) == trials
    verdicts = {r.subject for r in after if r.verdict is not None}
    assert len(verdicts) == len(json.loads(result)["kernels"])
    print(f"{len(victims)} kills, {trials} trials, {len(after)} records")


def _result(process: subprocess.Popen[str]) -> str | None:
    """What it prints when all is done. None where its tracker or boards were killed before it had found them:
    then it says so in one message, and is to be started again."""
    stdout, stderr = process.communicate(timeout=1800)
    if process.returncode == 2:
        assert stderr.startswith(("error: cannot reach the tracker", "error: the tracker", "error: board "))
        return None
    assert process.returncode == 0, stderr
    return stdout


def _kill(
    farm: Farm,
    victim: str,
    rng: random.Random,
    process: subprocess.Popen[str],
    folder: Path,
    command: list[str],
) -> subprocess.Popen[str]:
    """The tuner's process from now on."""
    if victim == "tracker":
        farm.kill_tracker()
        farm.start_tracker()
    elif victim == "board":
        agent = farm.agents.pop(rng.randrange(len(farm.agents)))
        agent.kill()
        agent.wait()
        farm.start_agent("board")
    else:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        farm.wait_for(2)  # a tuner that starts while there is no tracker says so and ends
        return started(folder, *command)
    return process


def _readable(folder: Path) -> list[Record]:
    """Records but for lines that a kill has cut short."""
    return [r for path in databases(folder / "cache-records") for r in read(path, lambda _: None)]


def rate(farm: Farm, key: str, boards: int, folder: Path) -> float:
    """Trials a second of boards that are bound by waiting, from the first one on; the first trials of all
    boards end together."""
    folder.mkdir()
    where = ["--tracker", str(farm.address), "--key", key, "--pause", f"{PAUSE_S}s"]
    process = started(
        folder, "tune", str(conv_model(folder)), "-t", "cpu/avx2", *where, "--trials", str(TRIALS)
    )
    _wait_for_records(folder, TRIALS, process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    times = sorted(datetime.fromisoformat(r.date).timestamp() for r in trials_of(folder)[:TRIALS])
    return (TRIALS - boards) / (times[-1] - times[0])


PAUSE_S, TRIALS = 4.0, 64


def conv_model(folder: Path) -> Path:
    """One kernel with hundreds of choices."""
    import numpy as np

    weight = np.linspace(-1, 1, 48 * 32 * 9, dtype=np.float32).reshape(48, 32, 3, 3)
    nodes = [node("Conv", "x w", "y", name="conv", pads=[1, 1, 1, 1]), node("Relu", "y", "z")]
    return save(make_model(nodes, {"x": [1, 32, 12, 12]}, ["z"], {"w": weight}), folder)


@pytest.mark.slow
def test_four_boards_tune_three_times_as_fast_as_one(tmp_path: Path) -> None:
    """Each rests behind every candidate, as a board without a fan does."""
    made = Farm()
    made.start_tracker()
    for key in ("one", "four", "four", "four", "four"):
        made.start_agent(key)
    try:
        made.wait_for(5)
        one, four = rate(made, "one", 1, tmp_path / "one"), rate(made, "four", 4, tmp_path / "four")
    finally:
        made.stop()
    print(f"{TRIALS} trials: {one:.3f} a second on one board, {four:.3f} on four, {four / one:.2f} x")
    assert four > 3 * one
