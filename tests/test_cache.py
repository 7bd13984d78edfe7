"""The cache on disk: what it gives back, what it forgets, and whom it serves at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bitloom
from compiler.lowering.cache import DEFAULT_LIMIT_BYTES, Cache, default_limit
from tests.command_line import environment, model

KIB = bytes(1 << 10)


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def age(cache: Cache, key: str, seconds: int) -> None:
    """Lets the last use of an entry lie back."""
    path = cache._path("k", key)
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for i in range(8):
        cache.put("k", str(i), KIB)
        age(cache, str(i), 1000 - i)
    assert cache.get("k", "0") == KIB  # used just now
    limit = sizes(tmp_path) // 2
    cache.trim(limit)
    assert limit - len(KIB) < sizes(tmp_path) <= limit
    kept = [i for i in range(8) if cache.get("k", str(i)) is not None]
    assert kept == [0, 5, 6, 7]


def test_a_cache_within_its_limit_loses_nothing_and_none_is_allowed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("k", "a", KIB)
    cache.trim(sizes(tmp_path))
    assert cache.get("k", "a") == KIB
    cache.trim(0)
    assert cache.get("k", "a") is None
    Cache(None).trim(0)
    Cache(tmp_path / "absent").trim(0)


_BUSY = """
import sys
from pathlib import Path
from compiler.lowering.cache import Cache
cache, who = Cache(Path(sys.argv[1])), sys.argv[2]
for i in range(150):
    key = str(i % 40)
    found = cache.get("k", key)
    assert found is None or found == key.encode() * 999, "another entry's contents"
    cache.put("k", key, key.encode() * 999)
    cache.trim(20_000)
"""


def test_processes_that_trim_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _BUSY, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(i)], env=environment(), stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    Cache(tmp_path).trim(20_000)
    assert sizes(tmp_path) <= 20_000


def test_the_limit_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITLOOM_CACHE_BYTES", raising=False)
    assert default_limit() == DEFAULT_LIMIT_BYTES
    monkeypatch.setenv("BITLOOM_CACHE_BYTES", "2GB")
    with pytest.raises(
        bitloom.BitloomError, match='BITLOOM_CACHE_BYTES is "2GB", which is no number of bytes'
    ):
        default_limit()
    monkeypatch.setenv("BITLOOM_CACHE_BYTES", "0")
    monkeypatch.setenv("BITLOOM_CACHE_DIR", str(tmp_path / "cache"))
    calibration = [np.array([[0.5, -1.0, 2.0, 1.0]], np.float32)]
    bitloom.compile(model(tmp_path), calibration=calibration, output=tmp_path / "out")
    assert sizes(tmp_path / "cache") == 0
    assert bitloom.verify(tmp_path / "out")
