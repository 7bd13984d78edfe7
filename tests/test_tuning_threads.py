"""The number of threads of a model: found, recorded, and taken where a caller leaves it open."""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloom.tuning import thread_counts
from schedules.machines import machine_named
from schedules.tuning.records import append, database_path, merged, pruned, read
from schedules.tuning.threads import fewest, subject_of, threads_of, threads_record
from schedules.tuning.tuned import Tuned, is_current
from targets.library.emit import emit_library
from targets.library.toolchain import Toolchain
from tests.command_line import X, bitloom, model
from tests.library_kernels import description, kernel_object
from tests.test_tuning_records import BASE

TIMES = st.dictionaries(st.integers(1, 64), st.floats(1e-6, 1.0), min_size=1, max_size=8)


@given(TIMES)
def test_the_fewest_threads_that_are_about_as_fast(seconds: dict[int, float]) -> None:
    chosen, least = fewest(seconds), min(seconds.values())
    assert seconds[chosen] <= 1.03 * least
    assert all(seconds[n] > 1.03 * least for n in seconds if n < chosen)


def test_counts_are_powers_of_two_and_all_cores() -> None:
    counts = thread_counts()
    assert counts[0] == 1 and counts == sorted(set(counts))
    assert counts[-1] == len(os.sched_getaffinity(0))
    assert all(n & (n - 1) == 0 for n in counts[:-1])


def test_the_last_record_of_this_computer_decides(tmp_path: Path) -> None:
    def put(device: str, kernels: list[str], seconds: dict[int, float], date: str) -> None:
        record = replace(threads_record(device, "amx", kernels, seconds, {}), date=date)
        assert is_current(record)
        append(database_path(tmp_path, device), [record])

    put("here", ["a", "b"], {1: 1.0, 2: 0.6, 4: 0.7}, "2026-01-01")
    put("here", ["b", "a"], {1: 0.5, 2: 0.6, 4: 0.7}, "2026-01-02")
    put("there", ["a", "b"], {1: 1.0, 2: 0.6, 4: 0.2}, "2026-01-03")
    put("there", ["c"], {1: 1.0, 2: 0.6}, "2026-01-03")
    found = Tuned.of(tmp_path, [machine_named("amx")], "here", pytest.fail)
    assert found.threads == {subject_of(["a", "b"]): 1, subject_of(["c"]): 2}
    assert not found.choices
    lines = merged(pruned(read(path, pytest.fail), is_current, 1) for path in tmp_path.glob("*.jsonl"))
    assert sorted((r.fingerprint, threads_of(r)) for r in lines) == [("here", 1), ("there", 2), ("there", 4)]


def test_a_kernels_record_says_nothing_of_threads() -> None:
    assert threads_of(BASE) is None


@pytest.mark.parametrize("threads", [0, 1, 2, 200])
def test_a_library_takes_no_more_than_it_is_fastest_with(tmp_path: Path, threads: int) -> None:
    toolchain = Toolchain.host()
    described = replace(description(), threads=threads)
    files = emit_library(described, [kernel_object(tmp_path, "tiny", toolchain)], tmp_path / "out", toolchain)
    library = ctypes.CDLL(str(files.shared))
    library.tiny_context_bytes.restype = ctypes.c_size_t
    sizes = [library.tiny_context_bytes(n) for n in range(257)]
    cores = len(os.sched_getaffinity(0))
    assert sizes[0] == sizes[min(cores, threads or cores)]
    assert sizes[1] < sizes[2] < sizes[256], "a caller who says how many gets them"
    manifest = json.loads(files.manifest.read_text())
    assert manifest.get("threads", 0) == threads


@pytest.mark.skipif(len(thread_counts()) < 2, reason="one core leaves no choice")
def test_tuning_finds_the_number_and_compile_takes_it(tmp_path: Path) -> None:
    model(tmp_path)
    np.savez(tmp_path / "x.npz", x=X)
    cache = tmp_path / "cache"
    done = bitloom("tune", "m.onnx", "--trials", "4", "-q", "--json", cwd=tmp_path, cache=cache)
    assert done.code == 0, done.stderr
    seconds = {int(n): float(cost) for n, cost in json.loads(done.stdout)["threads"].items()}
    assert list(seconds) == thread_counts()
    compiled = bitloom("compile", "m.onnx", "-c", "x.npz", "-q", "--json", cwd=tmp_path, cache=cache)
    assert json.loads(compiled.stdout)["threads"] == fewest(seconds)
    plain = bitloom(
        "compile", "m.onnx", "-c", "x.npz", "-q", "--json", "--no-records", cwd=tmp_path, cache=cache
    )
    assert "threads" not in json.loads(plain.stdout)
