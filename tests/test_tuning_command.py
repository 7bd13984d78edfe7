"""`bitloom tune` and `bitloom records` as users run them: processes, files, Ctrl-C and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitloom as api
from bitloom.commands.tune import duration
from compiler.ir.diagnostics import BitloomError
from schedules.machines import host_machine
from schedules.tuning.measure import Outcome
from schedules.tuning.records import Record, append, databases, read
from schedules.tuning.space import KernelSpace
from targets.measuring.host import host_fingerprint
from tests.command_line import X, bitloom, environment, model
from tests.planted_records import verdict_for
from tests.test_tuning_records import BASE

ROOT = Path(__file__).parents[1]
LETTERS = ROOT / "examples" / "letters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a model, its calibration data and a cache; records lie beside the cache."""
    folder = tmp_path_factory.mktemp("tuning")
    model(folder)
    np.savez(folder / "x.npz", x=X)
    yield folder


def records_of(folder: Path) -> list[Record]:
    paths = databases(folder / "cache-records")
    return [record for path in paths for record in read(path, pytest.fail)]


def run(folder: Path, *arguments: str | Path) -> Any:
    return bitloom(*arguments, cwd=folder, cache=folder / "cache")


def compiled(folder: Path, *options: str) -> dict[str, Any]:
    done = run(folder, "compile", "m.onnx", "-c", "x.npz", "-q", "--json", *options)
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def test_tuning_ends_in_a_faster_or_equal_library_that_is_exact(folder: Path) -> None:
    before = compiled(folder)
    kernels = len(before["variants"][0]["steps"])
    assert before["tuning"] == {"kernels": kernels, "tuned": 0, "widened": 0, "devices": []}
    done = run(folder, "tune", "m.onnx", "--trials", "24", "--seed", "1", "--json", "-q")
    assert done.code == 0, done.stderr
    result = json.loads(done.stdout)
    assert sum(kernel["trials"] for kernel in result["kernels"]) == 24
    assert all(0 < kernel["ratio"] <= 1 for kernel in result["kernels"])
    assert [m["threads"] for m in result["model"]] == [1]
    assert result["device"] == host_fingerprint()
    measured = [r for r in records_of(folder) if r.is_alone]
    assert len(measured) == 24
    assert {r.outcome for r in measured} == {Outcome.MEASURED}
    assert Path(result["records"]) in databases(folder / "cache-records")
    after = compiled(folder)
    assert after["tuning"]["tuned"] == after["tuning"]["kernels"] > 0
    assert after["tuning"]["devices"] == [host_fingerprint()]
    assert after["digest"] != before["digest"]
    assert compiled(folder, "--no-records")["digest"] == before["digest"]
    compiled(folder)
    assert run(folder, "verify", "out").code == 0


def test_the_folder_of_a_library_is_tuned_as_well_and_earlier_trials_count(folder: Path) -> None:
    compiled(folder)
    known = len([r for r in records_of(folder) if r.is_alone])
    done = run(folder, "tune", "out", "--trials", str(known + 4))
    assert done.code == 0, done.stderr
    assert f"{known} measurements of earlier runs are known" in done.stderr
    assert "the model with 1 thread: " in done.stdout
    assert "next: bitloom compile uses them" in done.stdout
    assert len([r for r in records_of(folder) if r.is_alone]) <= known + 4


def test_records_enter_the_choice_of_kernels(folder: Path, tmp_path: Path) -> None:
    """A record says that a slower configuration is the best: compile believes it."""
    from bitloom.tuning import work_of

    work = work_of(folder / "m.onnx")
    machine = host_machine()
    for _, space, _ in work.target.subjects(work.graph):
        assert isinstance(space, KernelSpace) and space.machine == machine
        near = space.neighbours(space.default)
        if near:
            break
    else:
        raise AssertionError("no kernel has a choice")
    record = verdict_for(space, near[0], host_fingerprint())
    path = tmp_path / "cache-records" / "r.jsonl"
    append(path, [record])
    model(tmp_path)
    np.savez(tmp_path / "x.npz", x=X)
    kernels = {step["kernel"] for step in compiled(tmp_path)["variants"][0]["steps"]}
    assert space.plan(near[0]).symbol in kernels
    assert space.plan(space.default).symbol not in kernels
    with path.open("a") as stream:
        stream.write("{garbage\n")
    done = run(tmp_path, "compile", "m.onnx", "-c", "x.npz", "-q")
    assert done.code == 0
    assert f"warning: {path}, line 2: damaged record left out" in done.stderr
    assert f"1 of {len(kernels)} kernels planned by records of {host_fingerprint()}" in done.stdout


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(folder: Path, tmp_path: Path) -> None:
    command = ["tune", str(LETTERS / "letters.onnx"), "--trials", "30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bitloom.cli", *command],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while len(records_of(tmp_path)) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    [path] = databases(tmp_path / "cache-records")
    assert f"interrupted; all measurements are kept in {path}" in stderr
    assert "the same command goes on" in stderr
    assert not _alive("targets.measuring", str(tmp_path))
    kept = records_of(tmp_path)
    done = run(tmp_path, *command)
    assert done.code == 0, done.stderr
    assert f"{len(kept)} measurements of earlier runs are known" in done.stderr
    after = records_of(tmp_path)
    assert after[: len(kept)] == kept
    trials = [r for r in after if r.is_alone]
    assert len(trials) == 30
    assert len({(r.subject, json.dumps(r.choice, sort_keys=True)) for r in trials}) == 30
    assert "30 trials; " in done.stdout


def _alive(*words: str) -> list[str]:
    """Command lines that hold all the words."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(line)
    return found


def test_a_full_disk_ends_it_and_costs_no_record(tmp_path: Path) -> None:
    """A file system of 8 kB, in a namespace of its own."""
    model(tmp_path)
    records = tmp_path / "records"
    records.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=8k none {records}"
    if subprocess.run([*inside, "sh", "-c", mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    tune = f"{sys.executable} -m bitloom.cli tune m.onnx --trials 40 -q"
    kept = tmp_path / "kept.jsonl"
    done = subprocess.run(
        [*inside, "sh", "-c", f"{mount} && {tune}; code=$?; cat {records}/*.jsonl > {kept}; exit $code"],
        cwd=tmp_path,
        env={**environment(tmp_path / "cache"), "BITLOOM_RECORDS": str(records)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "No space left on device; the records in it are as they were" in done.stderr
    assert "Traceback" not in done.stderr
    found = read(kept, pytest.fail)
    assert found and {r.outcome for r in found} == {Outcome.MEASURED}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune", "absent.onnx"], ["absent.onnx"]),
        (["tune", "m.onnx", "--target", "magic"], ['unknown target "magic"', "known targets"]),
        (["tune", "m.onnx", "--target", "arm/cortex-a53"], ["which this computer is not"]),
        (["tune", "m.onnx", "--time", "soon"], ['--time wants a duration, not "soon"', "10m"]),
        (["tune", "m.onnx", "-c", "absent.npz"], ["calibration absent.npz: no such file"]),
        (["records", "show", "absent.jsonl"], ["records absent.jsonl: no such file"]),
    ],
)
def test_mistakes_are_told_in_one_message(folder: Path, arguments: list[str], words: list[str]) -> None:
    done = run(folder, *arguments)
    assert done.code == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not done.heavy & {"tvm", "xgboost"}


def test_records_that_cannot_be_written_are_reported(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "cache-records").write_text("a file where the folder should be")
    done = run(tmp_path, "tune", "m.onnx", "--trials", "4", "-q")
    assert done.code == 2
    assert "cache-records" in done.stderr
    assert "Traceback" not in done.stderr


def test_records_are_shown_merged_pruned_and_exported(tmp_path: Path) -> None:
    empty = run(tmp_path, "records", "show")
    assert empty.code == 2 and "there are no records" in empty.stderr
    form = next(iter(_forms(tmp_path)))
    space = KernelSpace(form, host_machine())
    here, default = host_fingerprint(), space.default
    measured = verdict_for(space, default, here, verdict=None, cost=2e-5)
    records = [verdict_for(space, default, here), measured, BASE]
    append(tmp_path / "a.jsonl", records[:2])
    append(tmp_path / "b.jsonl", records[1:])
    merged = run(tmp_path, "records", "merge", "a.jsonl", "b.jsonl", "-o", "c.jsonl")
    assert merged.code == 0 and "c.jsonl: 3 records" in merged.stdout
    again = run(tmp_path, "records", "merge", "c.jsonl", "b.jsonl", "-o", "c.jsonl")
    assert "c.jsonl: 3 records" in again.stdout
    shown = run(tmp_path, "records", "show", "c.jsonl").stdout
    assert "cpu a" in shown and host_fingerprint() in shown
    assert run(tmp_path, "records", "merge", "c.jsonl").code == 0
    assert len(databases(tmp_path / "cache-records")) == 2
    exported = run(tmp_path, "records", "export").stdout.splitlines()
    assert len(exported) == 2  # of a template that is as it was: the verdict and the best measurement
    assert all(Record.of_line(line).subject == space.subject for line in exported)
    with (tmp_path / "c.jsonl").open("a") as stream:
        stream.write("damaged\n")
    pruned = run(tmp_path, "records", "prune", "c.jsonl", "--best", "1")
    assert "c.jsonl, line 4: damaged record left out" in pruned.stderr
    assert "3 records before, 2 after" in pruned.stdout


def _forms(folder: Path) -> Any:
    from bitloom.tuning import work_of

    work = work_of(model(folder))
    return [space.form for _, space, _ in work.target.subjects(work.graph) if isinstance(space, KernelSpace)]


def test_durations() -> None:
    assert [duration(text) for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
    for text in ("", "0s", "-1m", "10 m", "m"):
        with pytest.raises(BitloomError, match="wants a duration"):
            duration(text)


def test_python_compiles_with_and_without_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITLOOM_CACHE_DIR", str(folder / "cache"))
    artifact = api.compile(
        folder / "m.onnx", calibration=folder / "x.npz", output=tmp_path / "out", records=False
    )
    assert artifact.manifest["tuning"]["tuned"] == 0
    assert os.environ["BITLOOM_CACHE_DIR"]
