"""The command line does its work: results on standard output, progress on standard error, JSON on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloom.commands.arguments import pairs
from bitloom.commands.progress import Stages
from bitloom.commands.samples import Expected, read_samples
from bitloom.commands.text import size, table
from bitloom.stages import all_stages, float_stages
from tests.command_line import Outcome, X, bitloom, model


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A folder with a library in lib/, and what the compilation printed."""
    folder = tmp_path_factory.mktemp("compiled")
    model(folder)
    np.savez(folder / "c.npz", x=X)
    arguments = ("compile", "m.onnx", "-c", "c.npz", "-o", "lib", "--json")
    outcome = bitloom(*arguments, cwd=folder, cache=folder / "cache")
    assert outcome.code == 0, outcome.stderr
    return folder, outcome


def succeed(folder: Path, *arguments: str) -> Outcome:
    outcome = bitloom(*arguments, cwd=folder, cache=folder / "cache")
    assert outcome.code == 0, outcome.stderr
    return outcome


def test_compile_prints_the_manifest(compiled: tuple[Path, Outcome]) -> None:
    folder, outcome = compiled
    record = json.loads(outcome.stdout)
    assert set(record["files"].values()) <= {p.name for p in (folder / "lib").iterdir()}
    assert record["target"] == "host"
    assert len(record["digest"]) == 64
    assert record["versions"]["apache-tvm"]
    assert "link" in outcome.stderr


def test_a_second_compilation_comes_from_the_cache_and_is_equal(compiled: tuple[Path, Outcome]) -> None:
    folder, _ = compiled
    outcome = succeed(folder, "compile", "m.onnx", "-c", "c.npz", "-o", "again")
    assert "take from the cache" in outcome.stderr
    assert not outcome.heavy & {"tvm", "onnxruntime", "scipy"}
    for path in (folder / "lib").iterdir():
        assert (folder / "again" / path.name).read_bytes() == path.read_bytes()


def test_run_gives_what_the_library_computes(compiled: tuple[Path, Outcome]) -> None:
    folder, _ = compiled
    record = json.loads(
        succeed(folder, "run", "lib", "-i", "c.npz", "-o", "z.npz", "--time", "--json").stdout
    )
    found = np.load(folder / "z.npz")["z"]
    assert np.array_equal(found, np.array(record["outputs"]["z"], np.float32).reshape(3, 2))
    weight = np.arange(8, dtype=np.float32).reshape(4, 2) - 3
    assert np.abs(found - np.maximum(X @ weight, 0)).max() < 0.05
    latency = record["latency"]
    assert 0 < latency["p10_ms"] <= latency["median_ms"] <= latency["p90_ms"]


def test_run_times_each_layer(compiled: tuple[Path, Outcome]) -> None:
    folder, _ = compiled
    record = json.loads(succeed(folder, "run", "lib", "-i", "c.npz", "--layers", "--json").stdout)
    layers = record["layers"]
    assert [layer["step"] for layer in layers] == list(range(len(layers)))
    assert sum(layer["share"] for layer in layers) == pytest.approx(1)
    assert sum(layer["macs"] for layer in layers) == 8
    text = succeed(folder, "run", "lib", "-i", "c.npz", "--layers").stdout.splitlines()
    assert [line.split()[0] for line in text if "%" in line] == [
        *(layer["layer"].split()[0] for layer in layers),
        "all",
    ]


def test_codes_in_give_codes_out(compiled: tuple[Path, Outcome]) -> None:
    folder, _ = compiled
    np.save(folder / "codes.npy", np.arange(4, dtype=np.int8)[None])
    succeed(folder, "run", "lib", "-i", "codes.npy", "-o", "z.npz")
    assert np.load(folder / "z.npz")["z"].dtype == np.int8


def test_verify_says_exact(compiled: tuple[Path, Outcome]) -> None:
    folder, _ = compiled
    record = json.loads(succeed(folder, "verify", "lib", "-i", "c.npz", "--json").stdout)
    assert (record["exact"], record["samples"], record["difference"]) == (True, 3, None)
    text = succeed(folder, "verify", "lib", "--samples", "2", "--outputs-only").stdout
    assert text == "exact: the outputs of 2 samples are equal to the interpreter, bit for bit\n"


def test_inspect_shows_layers_and_text(compiled: tuple[Path, Outcome]) -> None:
    folder, _ = compiled
    shown = succeed(folder, "inspect", "lib").stdout
    assert "lower bound" in shown
    (row,) = (line for line in shown.splitlines() if " dense " in line)
    assert row.startswith("fc")
    assert "8 bit" in row
    text = succeed(folder, "inspect", "lib", "--text", "full").stdout
    again = succeed(folder, "inspect", "m.onnx", "-c", "c.npz", "--text", "full").stdout
    assert text == again
    assert "= batch_norm(" not in text
    assert succeed(folder, "inspect", "m.onnx", "--after", "import").stdout.startswith('graph "m" {')


def test_stages_are_told_apart() -> None:
    names = all_stages()
    assert len(set(names)) == len(names)
    assert names[: len(float_stages())] == float_stages()


def test_targets_and_doctor(tmp_path: Path) -> None:
    targets: list[dict[str, Any]] = json.loads(succeed(tmp_path, "targets", "--json").stdout)
    assert targets[0]["name"] == "host"
    assert targets[0]["runs_here"]
    findings = json.loads(succeed(tmp_path, "doctor", "--json").stdout)
    assert all(f["ok"] for f in findings if f["needed"])
    assert all(f["remedy"] for f in findings if not f["ok"])


@given(st.lists(st.tuples(st.text("abé", min_size=1, max_size=9), st.text("123", min_size=1, max_size=9))))
def test_columns_of_a_table_are_aligned(rows: list[tuple[str, str]]) -> None:
    """The first to the left, the second to the right."""
    lines = table(["a", "b"], rows, "lr").split("\n")
    assert len({len(line) for line in lines}) == 1
    assert [tuple(line.split()) for line in lines[1:]] == rows


@given(st.integers(0, 10**12))
def test_sizes_are_right_to_three_digits(count: int) -> None:
    number, unit = size(count).split()
    assert float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] == pytest.approx(count, rel=0.06, abs=50)


@given(st.dictionaries(st.text("ab=/.", min_size=1), st.text("xy1", min_size=1), max_size=4))
def test_pairs_are_read_back(options: dict[str, str]) -> None:
    assert pairs("--shape", [f"{n}={v}" for n, v in options.items()], "") == options


@given(st.integers(0, 50), st.integers(4, 100), st.floats(0.1, 100))
def test_estimate_of_steady_work_is_right(already: int, more: int, seconds_each: float) -> None:
    """What was done before the stage began took no time, and does not count."""
    now = 0.0
    stages = Stages(clock=lambda: now)
    total = already + more
    stages.enter("build", already)
    for done in range(already, total):
        left = stages.remaining(done, total)
        assert left is None or left == pytest.approx((total - done) * seconds_each)
        now += seconds_each
    assert stages.remaining(total, total) is None


@pytest.mark.parametrize(("samples", "batch"), [(1, 1), (3, 1), (2, 3)])
def test_a_longer_leading_axis_is_split(tmp_path: Path, samples: int, batch: int) -> None:
    array = np.arange(samples * batch * 2, dtype=np.float32).reshape(samples * batch, 2)
    np.save(tmp_path / "x.npy", array)
    found = read_samples(tmp_path / "x.npy", [Expected("x", (batch, 2), (np.dtype(np.float32),))])
    assert len(found) == samples
    assert np.array_equal(np.concatenate([sample["x"] for sample in found]), array)
