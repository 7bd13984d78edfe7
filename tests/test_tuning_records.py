"""Records: nothing that was written whole is lost, whatever happens to the writers, and nothing is lost
silently."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schedules.tuning.measure import Outcome, Unit
from schedules.tuning.records import (
    Record,
    append,
    database_path,
    databases,
    merged,
    pruned,
    read,
    records_folder,
    rewrite,
)

ROOT = Path(__file__).parents[1]
BASE = Record(
    fingerprint="cpu a",
    machine="amx",
    subject="s0",
    key="k0",
    form={"kind": "convolution", "numbers": {"height": 7}},
    choice={"template": "amx", "version": "0", "config": {"pixels": 4}},
    unit=Unit.SECONDS,
    outcome=Outcome.MEASURED,
    cost=1e-5,
    spread=1e-7,
    date="2026-01-01T00:00:00.000+00:00",
)
_TEXT = st.text(max_size=20)


@st.composite
def records(draw: st.DrawFn) -> Record:
    outcome = draw(st.sampled_from(Outcome))
    number = st.floats(1e-9, 1e3)
    measured = outcome is Outcome.MEASURED
    return Record(
        fingerprint=draw(_TEXT),
        machine=draw(_TEXT),
        subject=draw(st.sampled_from(["s0", "s1", "s2"])),
        key=draw(_TEXT),
        form={"kind": draw(_TEXT), "numbers": draw(st.dictionaries(_TEXT, st.integers(), max_size=3))},
        choice={"template": draw(_TEXT), "config": draw(st.dictionaries(_TEXT, st.booleans(), max_size=3))},
        unit=draw(st.sampled_from(Unit)),
        outcome=outcome,
        cost=draw(number) if measured else None,
        spread=draw(number) if measured else None,
        date=draw(st.sampled_from(["2026-01-01", "2026-01-02", "2026-01-03"])),
        versions=draw(st.dictionaries(_TEXT, _TEXT, max_size=2)),
        said=draw(_TEXT),
        verdict=draw(st.none() | number) if measured else None,
        place=draw(st.sampled_from(["", "a net"])) if measured else "",
    )


def refuse(text: str) -> None:
    raise AssertionError(text)


def numbered(count: int, start: int = 0) -> list[Record]:
    return [replace(BASE, said=f"number {n}") for n in range(start, start + count)]


@given(records())
def test_a_line_is_its_record(record: Record) -> None:
    line = record.line()
    assert "\n" not in line
    assert Record.of_line(line) == record


@given(records(), st.data())
def test_no_changed_character_goes_unnoticed(record: Record, data: st.DataObject) -> None:
    line = record.line()
    place = data.draw(st.integers(0, len(line) - 1))
    changed = line[:place] + data.draw(st.characters(exclude_categories=["Cs"])) + line[place + 1 :]
    try:
        found = Record.of_line(changed)
    except ValueError:
        return
    assert found == record  # JSON that means the same, as another case of a hexadecimal digit


@given(st.lists(records(), max_size=6), st.lists(records(), max_size=6), st.lists(records(), max_size=6))
def test_merging_is_commutative_associative_and_idempotent(
    a: list[Record], b: list[Record], c: list[Record]
) -> None:
    assert merged([a, b]) == merged([b, a])
    assert merged([merged([a, b]), c]) == merged([a, merged([b, c])])
    assert merged([a, a]) == merged([a])
    assert merged([merged([a, b]), b]) == merged([a, b])
    assert {r.line() for r in merged([a, b])} == {r.line() for r in a + b}


@given(st.lists(records(), max_size=20), st.integers(1, 3))
def test_pruning_keeps_the_best_and_the_last_verdict(group: list[Record], best: int) -> None:
    kept = list(pruned(group, lambda record: record.machine != "gone", best))
    for subject in {r.subject for r in group}:
        alive = [r for r in group if r.subject == subject and r.machine != "gone" and r.cost is not None]
        costs = sorted(r.cost for r in alive if r.is_alone and r.cost is not None)
        here = [r for r in kept if r.subject == subject]
        assert sorted(r.cost for r in here if r.is_alone and r.cost is not None) == costs[:best]
        assert [r for r in here if r.verdict is not None] == [r for r in alive if r.verdict is not None][-1:]
    assert list(pruned(kept, lambda record: record.machine != "gone", best)) == kept


@given(st.lists(records(), min_size=1, max_size=8), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_damaged_line_is_named_and_the_others_are_read(
    tmp_path: Path, group: list[Record], data: st.DataObject
) -> None:
    path = tmp_path / "r.jsonl"
    place = data.draw(st.integers(0, len(group) - 1))
    lines = [record.line().encode() for record in group]
    cut = data.draw(st.integers(1, len(lines[place]) - 1))
    lines[place] = data.draw(st.sampled_from([lines[place][:cut], b"\xff\0garbage", b'{"sum":"0"}', b"[1]"]))
    path.write_bytes(b"\n".join(lines) + b"\n")
    said: list[str] = []
    assert read(path, said.append) == group[:place] + group[place + 1 :]
    assert len(said) == 1
    assert said[0].startswith(f"{path}, line {place + 1}: damaged record left out: ")


def test_what_a_dead_writer_left_ends_before_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first, second = numbered(2)
    path.write_text(f"{first.line()}\n{second.line()[:40]}")
    append(path, [second])
    said: list[str] = []
    assert read(path, said.append) == [first, second]
    assert [text.partition(": ")[0] for text in said] == [f"{path}, line 2"]


_WRITER = """
import sys
from pathlib import Path
from tests.test_tuning_records import append, numbered
for record in numbered(int(sys.argv[3]), int(sys.argv[2])):
    append(Path(sys.argv[1]), [record])
    print(record.said, flush=True)
"""


def start(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(path), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writers = [start(path, 1000 * n, 60) for n in range(4)]
    assert [w.wait() for w in writers] == [0] * 4
    wanted = {f"number {1000 * n + i}" for n in range(4) for i in range(60)}
    found = [record.said for record in read(path, refuse)]
    assert len(found) == len(wanted) and set(found) == wanted


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.02, 0.05])
def test_a_writer_that_is_killed_loses_no_record_that_it_reported(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "r.jsonl"
    writer, other = start(path, 0, 100_000), start(path, 200_000, 40)
    assert writer.stdout is not None
    reported = [writer.stdout.readline().strip()]
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    reported += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    assert other.wait() == 0
    append(path, numbered(1, 300_000))
    said: list[str] = []
    found = {record.said for record in read(path, said.append)}
    assert found >= {*reported, "number 300000", *(f"number {200_000 + i}" for i in range(40))}
    assert len(said) <= 1


def test_a_rewrite_loses_nothing_that_others_write_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writer = start(path, 0, 120)
    while writer.poll() is None:
        rewrite(path, lambda old: merged([old]), refuse)
    assert {r.said for r in read(path, refuse)} == {f"number {n}" for n in range(120)}
    assert list(tmp_path.iterdir()) == [path]


_FULL = """
import sys
from pathlib import Path
from tests.test_tuning_records import append, numbered, rewrite
path = Path(sys.argv[1])
try:
    if sys.argv[2] == "append":
        append(path, numbered(40, 100))
    else:
        rewrite(path, lambda old: old + numbered(40, 100), print)
except OSError as error:
    print(error.filename, error.strerror, sep="|")
"""


def _small_disk(limit: int) -> Callable[[], None]:
    """Files cannot grow beyond the limit, as on a full disk: a write is cut short and the next one fails."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return before


@pytest.mark.parametrize("how", ["append", "rewrite"])
def test_a_full_disk_is_reported_and_spoils_nothing(tmp_path: Path, how: str) -> None:
    path = tmp_path / "r.jsonl"
    old = numbered(10)
    append(path, old)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path), how],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=_small_disk(len(before) + 5000),
        check=True,
    )
    assert done.stdout.strip() == f"{path}|File too large; the records in it are as they were"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    append(path, numbered(1, 500))
    assert read(path, refuse) == [*old, *numbered(1, 500)]


def test_each_device_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = ["cortex-a76", "cortex-a76, 2400 MHz", "../../etc/passwd", "", "a/b", "a-b"]
    paths = [database_path(tmp_path, name) for name in names]
    assert len(set(paths)) == len(names)
    assert all(path.parent == tmp_path for path in paths)
    for path in paths:
        append(path, [BASE])
    assert databases(tmp_path) == sorted(paths)


def test_records_survive_the_loss_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BITLOOM_RECORDS", raising=False)
    monkeypatch.setenv("BITLOOM_CACHE_DIR", str(tmp_path / "cache"))
    assert records_folder() == tmp_path / "cache-records"
    monkeypatch.setenv("BITLOOM_RECORDS", str(tmp_path / "mine"))
    assert records_folder() == tmp_path / "mine"
    assert os.environ["BITLOOM_CACHE_DIR"] not in str(records_folder())
