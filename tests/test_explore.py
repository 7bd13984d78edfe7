"""`bitloom explore`: ranges, the front, the same results wherever they are computed, and going on."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitloom
from bitloom.exploration.area import area
from bitloom.exploration.evaluation import Result
from bitloom.exploration.front import objectives, pareto_front
from bitloom.exploration.space import configured, parse_space
from sim.config import ConfigError, load_config
from tests.command_line import X, environment, model
from tests.command_line import bitloom as command

RANGES = "rows=8..16,cols=8|12|16,weights=int8|int4"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rows=8..32", {"rows": (8, 16, 32)}),
        ("sram=24k..96k/24k", {"sram": (24576, 49152, 73728, 98304)}),
        ("rows=8|64|16, cols=4", {"rows": (8, 64, 16), "cols": (4,)}),
        ("clock=500M|1G", {"clock": (500_000_000, 1_000_000_000)}),
        ("dram_port=0.5..2", {"dram_port": (0.5, 1.0, 2.0)}),
        ("weights=int8|int4", {"weights": ("int8", "int4")}),
        ("rows=2|8..16", {"rows": (2, 8, 16)}),
    ],
)
def test_ranges(text: str, values: dict[str, tuple[object, ...]]) -> None:
    space = parse_space(text)
    assert space.values == values
    assert space.size == len(list(space.points()))


@given(st.integers(1, 64), st.integers(0, 6), st.integers(1, 9), st.integers(0, 9))
def test_ranges_double_or_add(low: int, doublings: int, step: int, steps: int) -> None:
    doubled = parse_space(f"cores={low}..{low << doublings}").values["cores"]
    assert doubled == tuple(low << i for i in range(doublings + 1))
    added = parse_space(f"cores={low}..{low + step * steps}/{step}").values["cores"]
    assert added == tuple(low + step * i for i in range(steps + 1))


@pytest.mark.parametrize("preset", ["npu-128", "npu-256", "npu-512"])
def test_a_base_with_its_own_values_is_the_base(preset: str) -> None:
    base = load_config(preset)
    point = {"rows": base.mac.rows, "cols": base.mac.columns, "sram": base.scratchpad.total_bytes}
    assert configured(base, {**point, "cores": base.cores, "clock": base.clock_hz}) == base


@given(st.integers(15, 22))
def test_scratchpads_keep_their_proportions(log: int) -> None:
    """Up to the rounding to banks and to what instructions can address, and never more than asked."""
    base = load_config("npu-256")
    try:
        pads = configured(base, {"sram": 1 << log}).scratchpad
    except ConfigError as error:
        assert "instructions can address" in str(error)
        return
    factor = (1 << log) / base.scratchpad.total_bytes
    assert pads.total_bytes <= 1 << log
    for name in ("activation_bytes", "weight_bytes", "accumulator_words", "parameter_bytes", "table_bytes"):
        most = {"parameter_bytes": 1 << 16, "table_bytes": 1 << 12}.get(name, 1 << 20)
        assert min(most, factor * getattr(base.scratchpad, name) - 256) <= getattr(pads, name)


def test_knobs_are_checked_together() -> None:
    """A large array alone does not fit; with larger memories it does."""
    base = load_config("npu-256")
    with pytest.raises(ConfigError, match="does not hold"):
        configured(base, {"rows": 64, "cols": 64})
    assert configured(base, {"rows": 64, "cols": 64, "sram": 1 << 19}).macs_per_cycle == 4096


def test_the_area_of_a_preset_by_hand() -> None:
    cells = 16 * 16 * (282 + 137 + 24 * 4.522) + 16 * (3495 + 137)
    bits = 8 * (16384 + 12288 + 6144 + 2048) + 2 * 32 * 3072
    assert area(load_config("npu-256")) == pytest.approx((cells + bits * 0.692) / 419)


_RESULTS = st.builds(
    lambda w, c, e, a, h, bad: Result(
        point={"weights": w}, cycles=c, energy_pj=e, area=a, host_layers=h, reason="bad" if bad else ""
    ),
    st.sampled_from(["int8", "int4"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 1),
    st.booleans(),
)


@given(st.lists(_RESULTS, max_size=12))
def test_the_front_is_what_nothing_comparable_beats(results: list[Result]) -> None:
    def beats(a: Result, b: Result) -> bool:
        x, y = objectives(a), objectives(b)
        return a.point == b.point and x != y and all(i <= j for i, j in zip(x, y, strict=True))

    front = [r for r, f in zip(results, pareto_front(results), strict=True) if f]
    for weights in ("int8", "int4"):
        mine = [r for r in results if r.point["weights"] == weights and not r.reason]
        fewest = min((r.host_layers for r in mine), default=0)
        full = [r for r in mine if r.host_layers == fewest]
        chosen = [r for r in front if r.point["weights"] == weights]
        assert all(r in full and not any(beats(o, r) for o in full) for r in chosen)
        assert all(r in chosen or any(beats(o, r) for o in chosen) for r in full)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explore")
    model(path)
    np.savez(path / "c.npz", x=X)
    return path


@pytest.fixture(scope="module")
def explored(folder: Path) -> bitloom.Exploration:
    """In this process. Twelve configurations, four of which no NPU can be: 12 columns."""
    return bitloom.explore(folder / "m.onnx", calibration=folder / "c.npz", npu=RANGES, output=folder / "a")


def lines(path: Path) -> list[str]:
    return (path / "results.jsonl").read_text().splitlines()


def test_a_row_says_what_compile_and_simulate_say(folder: Path, explored: bitloom.Exploration) -> None:
    bitloom.compile(
        folder / "m.onnx", calibration=folder / "c.npz", target="npu/npu-256", output=folder / "out"
    )
    timed = bitloom.simulate(folder / "out")
    (row,) = [r for r in explored.results if r.point == {"rows": 16, "cols": 16, "weights": "int8"}]
    assert (row.cycles, row.energy_pj) == (timed.cycles, timed.energy_pj)


def test_what_cannot_be_is_a_row_with_its_reason(explored: bitloom.Exploration) -> None:
    reasons = {str(r.point["cols"]): r.reason for r in explored.results}
    assert "mac.columns is 12, it must be a power of two" in reasons["12"]
    assert reasons["8"] == reasons["16"] == ""
    assert len(explored.results) == 12 and any(explored.front)
    assert "mac.columns is 12" in (explored.path / "table.txt").read_text()


def test_the_plot_shows_every_figure(explored: bitloom.Exploration) -> None:
    root = ElementTree.fromstring((explored.path / "plot.svg").read_text())
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == sum(not r.reason for r in explored.results)
    assert sum(c.get("class") == "f" for c in circles) == sum(explored.front)


def test_processes_give_the_same(folder: Path, explored: bitloom.Exploration) -> None:
    arguments = ("--npu", RANGES, "-o", "b", "--jobs", "2", "-q", "--json")
    outcome = command("explore", "m.onnx", "-c", "c.npz", *arguments, cwd=folder)
    assert outcome.code == 0, outcome.stderr
    expected = explored.as_dict()["configurations"]
    assert json.loads(outcome.stdout)["configurations"] == json.loads(json.dumps(expected))
    assert sorted(lines(folder / "b")) == sorted(lines(folder / "a"))
    for name in ("table.txt", "plot.svg"):
        assert (folder / "b" / name).read_text() == (folder / "a" / name).read_text()


def test_a_run_goes_on_from_what_is_there(
    folder: Path, explored: bitloom.Exploration, tmp_path: Path
) -> None:
    """Also from a file whose last line was cut off; of wider ranges, what is new is computed."""
    kept = lines(folder / "a")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "results.jsonl").write_text("\n".join([*kept[:5], kept[5][:40]]))
    again = ("explore", folder / "m.onnx", "-c", folder / "c.npz", "-o", "o")
    outcome = command(*again, "--npu", RANGES, cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert "found 5 of 12 configurations" in outcome.stderr and "5 of 12 were found" in outcome.stdout
    assert sorted(lines(tmp_path / "o")) == sorted(kept)
    outcome = command(*again, "--npu", RANGES.replace("8..16", "8..32"), "-q", cwd=tmp_path)
    assert "12 of 18 were found" in outcome.stdout


def test_another_network_is_not_found(folder: Path, explored: bitloom.Exploration, tmp_path: Path) -> None:
    model(tmp_path, factor=2.0)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "results.jsonl").write_text("\n".join(lines(folder / "a")) + "\n")
    found = bitloom.explore(
        tmp_path / "m.onnx", calibration=folder / "c.npz", npu="rows=16,weights=int8", output=tmp_path / "o"
    )
    assert found.found == 0


def test_interrupted_it_keeps_what_is_finished(folder: Path, tmp_path: Path) -> None:
    given = [folder / "m.onnx", "-c", folder / "c.npz", "-o", "o", "--jobs", "2"]
    arguments = [*given, "--npu", "clock=1M..400M/1M"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bitloom.cli", "explore", *map(str, arguments)],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    results = tmp_path / "o" / "results.jsonl"
    until = time.monotonic() + 120
    while (not results.exists() or results.read_bytes().count(b"\n") < 3) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted; finished configurations are kept" in said and "Traceback" not in said
    kept = [json.loads(line) for line in results.read_text().splitlines()]
    assert 3 <= len(kept) < 400
    ranges = "clock=" + "|".join(str(r["point"]["clock"]) for r in kept)
    outcome = command("explore", *given, "--npu", ranges, cwd=tmp_path)
    assert f"found {len(kept)} of {len(kept)} configurations" in outcome.stderr


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Dask scheduler with one worker, each in a process of its own."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed: python -m pip install 'bitloom[dask]'")
    where = tmp_path_factory.mktemp("dask")
    file = where / "scheduler.json"
    common = ["--scheduler-file", str(file)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            cwd=where,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for arguments in (
            ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *common],
            ["worker", "--nthreads", "1", "--no-dashboard", *common],
        )
    ]
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        import distributed

        with distributed.Client(address, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
        yield address
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def test_dask_gives_the_same(folder: Path, explored: bitloom.Exploration, scheduler: str) -> None:
    outcome = command(
        "explore", "m.onnx", "-c", "c.npz", "--npu", RANGES, "-o", "d", "--dask", scheduler, cwd=folder
    )
    assert outcome.code == 0, outcome.stderr
    assert sorted(lines(folder / "d")) == sorted(lines(folder / "a"))
    assert (folder / "d" / "table.txt").read_text() == (folder / "a" / "table.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--npu", "rows"), '--npu: "rows" is not KEY=VALUES'),
        (("--npu", "rows=8,"), '--npu: "" is not KEY=VALUES'),
        (("--npu", "rws=8"), 'unknown key "rws"\nhint: did you mean rows?'),
        (("--npu", "rows=8,rows=16"), '"rows" is given twice'),
        (("--npu", "rows=8|8"), "rows=8|8 names a value twice"),
        (("--npu", "rows=8..24"), "rows=8..24: doubling from 8 does not meet 24"),
        (("--npu", "rows=8..24/7"), "steps of 7 from 8 does not meet 24"),
        (("--npu", "rows=8/2"), "rows=8/2: a step needs a range"),
        (("--npu", "rows=32..8"), "the range runs downwards"),
        (("--npu", "rows=8k"), '"8k" is not a number'),
        (("--npu", "rows=0"), '"0" must be a whole number above 0'),
        (("--npu", "rows=8..16/0"), '"0" must be a whole number above 0'),
        (("--npu", "cores=1.5"), '"1.5" must be a whole number above 0'),
        (("--npu", "weights=int7"), 'weights: unknown type "int7"'),
        (("--npu", "rows=8", "--base", "npu-1"), "--base npu-1: no NPU 'npu-1'"),
        (("--npu", "rows=8", "-o", "c.npz"), "the output folder c.npz is a file"),
    ],
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    outcome = command("explore", "m.onnx", "-c", "c.npz", "-q", *arguments, cwd=folder)
    assert outcome.code == 2, outcome
    assert said in outcome.stderr
    assert outcome.stdout == "" and "Traceback" not in outcome.stderr
    assert not outcome.heavy
    assert not (folder / "explored").exists()


def test_no_scheduler_is_told(folder: Path) -> None:
    pytest.importorskip("distributed")
    outcome = command(
        *("explore", "m.onnx", "-c", "c.npz", "--npu", "rows=8", "-o", "n", "--dask", "tcp://127.0.0.1:1"),
        cwd=folder,
    )
    assert outcome.code == 2, outcome
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in outcome.stderr
    assert "Traceback" not in outcome.stderr
