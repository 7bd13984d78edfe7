"""Boards over TVM's RPC: a real tracker and real agents on loopback, of which any may be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
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
from schedules.tuning.measure import Measurement, Outcome
from targets.measuring.board_agent import Address
from targets.measuring.board_session import PROTOCOL
from targets.measuring.program import Limits, Timing
from targets.measuring.rpc import RpcBoards
from targets.measuring.tracker import TrackerError, known_boards
from tests.faulty_kernels import FAULTS, faulty
from tests.rpc_boards import ROOT, Farm, children, farm_of, free_port, started

pytestmark = pytest.mark.skipif(not runs_here(X86_64), reason="the boards are this computer")
LIMITS = Limits(seconds=2.0, memory_bytes=256 << 20)
QUICK = Timing(repeats=5, slice_seconds=0.0005)


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """Two boards of the key `pair`; tests that kill make their own."""
    with farm_of(2, "pair") as made:
        yield made


def plans(count: int) -> list[object]:
    return [faulty(X86_64, "right", i) for i in range(count)]


def test_faults_are_told_in_their_own_words_and_the_others_go_on(farm: Farm) -> None:
    device = RpcBoards(farm.address, "pair", limits=LIMITS, timing=QUICK)
    configs = ["right", *FAULTS, "slower"]
    found = dict(device.measure([faulty(X86_64, c, i) for i, c in enumerate(configs)]))
    device.close()
    told = {configs[i]: (m.outcome, m.said) for i, m in found.items()}
    for config, (outcome, words) in FAULTS.items():
        assert told[config][0] is outcome, (config, told[config])
        assert words in told[config][1]
    assert found[0].outcome is found[len(configs) - 1].outcome is Outcome.MEASURED
    assert len(known_boards(farm.address)) == 2


def test_what_is_not_there_is_named(farm: Farm) -> None:
    with pytest.raises(TrackerError, match=r'no board of the key "rpi5"; it knows pair'):
        RpcBoards(farm.address, "rpi5")
    nowhere = Address("127.0.0.1", free_port())
    with pytest.raises(TrackerError, match=r"cannot reach the tracker at 127\.0\.0\.1:\d+: .*refused"):
        RpcBoards(nowhere, "pair")


def test_a_board_of_another_architecture_says_so(farm: Farm) -> None:
    device = RpcBoards(farm.address, "pair", limits=LIMITS, timing=QUICK, patience_s=0.5)
    with pytest.raises(BitloomError, match=r"the board is x86_64; the kernels are for aarch64"):
        list(device.measure([faulty(CORTEX_A53, "right")]))
    device.close()


def test_another_version_is_refused_by_both_numbers(farm: Farm, tmp_path: Path) -> None:
    """The board has no bitloom, only the agent's two files."""
    farm.start_copy("newer", tmp_path, protocol=PROTOCOL + 1)
    try:
        farm.wait_for(3)
        words = f"agent speaks version {PROTOCOL + 1} and this computer version {PROTOCOL}"
        with pytest.raises(TrackerError, match=words):
            RpcBoards(farm.address, "newer")
    finally:
        agent = farm.agents.pop()
        agent.kill()
        agent.wait()
    farm.wait_for(2)


def test_the_stock_server_is_refused_by_its_remedy(farm: Farm) -> None:
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    where += ["--custom-addr", "127.0.0.1"]
    server = started(["-m", "tvm.exec.rpc_server", *where, "--tracker", str(farm.address), "--key", "stock"])
    try:
        farm.wait_for(3)
        with pytest.raises(TrackerError, match=r"the board stock at \S+ runs another RPC server"):
            RpcBoards(farm.address, "stock")
    finally:
        for child in children(server.pid):
            os.kill(child, signal.SIGKILL)
        server.kill()
        server.wait()
    farm.wait_for(2)


def test_commands_list_and_check_boards(farm: Farm) -> None:
    where = ["--tracker", str(farm.address), "--json"]
    listed = CliRunner().invoke(app, ["board", "list", *where])
    assert listed.exit_code == 0, listed.output
    boards = json.loads(listed.stdout)
    assert [(b["key"], b["state"]) for b in boards] == [("pair", "free")] * 2
    assert all(b["facts"]["machine"] == os.uname().machine for b in boards)
    checked = CliRunner().invoke(app, ["board", "check", "pair", *where])
    assert checked.exit_code == 0, checked.output
    found = json.loads(checked.stdout)
    assert 0 < found["round_trip_seconds"] < 30
    assert 2e8 < found["clock_hz"] < 1e10
    assert found["noise"] >= 0
    assert found["peak"] == pytest.approx(found["per_cycle"] * found["clock_hz"])
    missing = CliRunner().invoke(app, ["board", "check", "rpi5", *where])
    assert missing.exit_code == 2
    assert 'no board of the key "rpi5"' in missing.stderr


def test_a_board_that_joins_takes_part() -> None:
    with farm_of(1, "late") as farm:
        device = RpcBoards(farm.address, "late", limits=LIMITS, timing=QUICK, batch=2)
        first = dict(device.measure(plans(1)))
        assert device.parallel == 2
        farm.start_agent("late")
        farm.wait_for(2)
        then = dict(device.measure(plans(4)))
        assert device.parallel == 4
        device.close()
    assert [m.outcome for m in (*first.values(), *then.values())] == [Outcome.MEASURED] * 5


def seconds_for(farm: Farm, key: str, count: int, pause: float) -> float:
    """Of measuring `count` candidates on boards that are bound by waiting."""
    timing = Timing(repeats=3, slice_seconds=0.0002, pause_seconds=pause)
    device = RpcBoards(farm.address, key, limits=LIMITS, timing=timing, batch=2)
    assert len(list(device.measure(plans(1)))) == 1  # starts what is started once
    start = time.monotonic()
    found = dict(device.measure(plans(count)))
    spent = time.monotonic() - start
    device.close()
    assert all(m.outcome is Outcome.MEASURED for m in found.values())
    return spent


@pytest.mark.slow
def test_four_boards_are_three_times_as_fast_as_one() -> None:
    """Each waits 5 s behind every candidate, as a board without a fan does."""
    made = Farm()
    made.start_tracker()
    for key in ("one", "four", "four", "four", "four"):
        made.start_agent(key)
    try:
        made.wait_for(5)
        one, four = (seconds_for(made, key, 16, 5.0) for key in ("one", "four"))
    finally:
        made.stop()
    print(f"16 candidates: {one:.1f} s on one board, {four:.1f} s on four, {one / four:.2f} x")
    assert one > 3 * four


def test_killed_boards_and_trackers_lose_nothing() -> None:
    kill_at_random(kills=3, candidates=16, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_killed_boards_and_trackers_lose_nothing(seed: int) -> None:
    kill_at_random(kills=5, candidates=30, seed=seed)


def kill_at_random(kills: int, candidates: int, seed: int) -> None:
    """Boards and the tracker are killed and started again, alternately, while candidates are measured."""
    rng = random.Random(seed)
    made = Farm()
    made.start_tracker()
    for _ in range(2):
        made.start_agent("board")
    timing = Timing(repeats=3, slice_seconds=0.0002, pause_seconds=0.4)
    try:
        made.wait_for(2)
        # A tracker that starts again imports TVM first, which takes minutes where all cores are busy.
        device = RpcBoards(made.address, "board", limits=LIMITS, timing=timing, batch=3, patience_s=600.0)
    except BaseException:
        made.stop()
        raise
    done = threading.Event()

    def killer() -> None:
        for number in range(kills):
            if done.wait(rng.uniform(0.3, 2.5)):
                return
            if number % 2:
                made.kill_tracker()
                made.start_tracker()
            else:
                victim = made.agents.pop(rng.randrange(2))
                victim.kill()
                victim.wait()
                made.start_agent("board")

    thread = threading.Thread(target=killer)
    found: dict[int, Measurement] = {}
    try:
        assert len(list(device.measure(plans(2)))) == 2
        thread.start()
        for index, measurement in device.measure(plans(candidates)):
            assert index not in found, "answered twice"
            found[index] = measurement
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
        device.close()
        made.stop()
    assert sorted(found) == list(range(candidates))
    # Only a candidate that ran at two of the kills is given up.
    assert [m for m in found.values() if m.outcome is not Outcome.MEASURED][kills // 2 :] == []


_CLIENT = """
import sys
from schedules.machines import X86_64
from targets.measuring.board_agent import Address
from targets.measuring.board_session import PROTOCOL
from targets.measuring.program import Limits, Timing
from targets.measuring.rpc import RpcBoards
from tests.faulty_kernels import faulty

timing = Timing(repeats=3, slice_seconds=0.0002, pause_seconds=0.1)
device = RpcBoards(Address.parse(sys.argv[1]), "pair", limits=Limits(seconds=2.0), timing=timing)
done = set(open(sys.argv[2]).read().split())
left = [i for i in range(int(sys.argv[3])) if str(i) not in done]
with open(sys.argv[2], "a") as records:
    for index, _ in device.measure([faulty(X86_64, "right", i) for i in left]):
        print(left[index], file=records, flush=True)
device.close()
"""


def kill_clients(farm: Farm, folder: Path, kills: int, candidates: int) -> None:
    """Clients die at random moments; the next one goes on where the records end, and the last one ends."""
    records, rng = folder / "records", random.Random(kills)
    records.write_text("")
    client = ["-c", _CLIENT, str(farm.address), str(records), str(candidates)]
    for _ in range(kills):
        process = started(client)
        time.sleep(rng.uniform(2.0, 6.0))
        process.kill()
        process.wait()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *client], env=environment, check=True, timeout=300)
    assert sorted(map(int, records.read_text().split())) == list(range(candidates))
    farm.wait_for(2)
    assert all((b.status or {})["protocol"] == 1 for b in known_boards(farm.address))


def test_killed_clients_leave_the_boards_to_others(farm: Farm, tmp_path: Path) -> None:
    kill_clients(farm, tmp_path, kills=2, candidates=20)


@pytest.mark.slow
def test_twenty_killed_clients_leave_the_boards_to_others(farm: Farm, tmp_path: Path) -> None:
    kill_clients(farm, tmp_path, kills=20, candidates=200)


def test_a_session_that_dies_does_not_end_its_agent(farm: Farm) -> None:
    """What a kernel of TVM's own client does when it crashes: the next session starts afresh."""
    device = RpcBoards(farm.address, "pair", limits=LIMITS, timing=Timing(pause_seconds=1.0), batch=2)
    work = device.measure(plans(8))
    next(work)
    sessions = [child for agent in farm.agents for child in children(agent.pid)]
    assert sessions
    os.kill(sessions[0], signal.SIGSEGV)
    rest = list(work)
    device.close()
    assert len(rest) == 7
    assert sum(m.outcome is Outcome.MEASURED for _, m in rest) >= 6
    assert len(known_boards(farm.address)) == 2
    assert all(agent.poll() is None for agent in farm.agents)
