"""A cache on disk, keyed by content: losing it costs time, never correctness.

Entries are files named by a digest of everything that they depend on, the sources of this package
included, so nothing is ever stale. Writes are atomic (a temporary file, then a rename); a folder that
cannot be written turns the cache off. Each entry carries a checksum: a damaged one counts as absent.
An entry's time of modification is that of its last use, by which `trim` takes away the oldest.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from compiler.ir.diagnostics import BitloomError

_LIMIT_VARIABLE = "BITLOOM_CACHE_BYTES"
DEFAULT_LIMIT_BYTES = 2_000_000_000
_PACKAGES = ("bitloom", "compiler", "schedules", "targets", "sim")


@once
def source_digest() -> str:
    """16 hex digits of the sources of all our packages: part of every key."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".c", ".h", ".S", ".toml"):
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def default_folder() -> Path:
    """BITLOOM_CACHE_DIR, else bitloom in the user's cache folder."""
    chosen = os.environ.get("BITLOOM_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bitloom"


def default_limit() -> int:
    """BITLOOM_CACHE_BYTES, else 2 GB. Errors: BitloomError for what is no number of bytes."""
    chosen = os.environ.get(_LIMIT_VARIABLE, "") or str(DEFAULT_LIMIT_BYTES)
    if not (chosen.isascii() and chosen.isdigit()):
        raise BitloomError(
            f'{_LIMIT_VARIABLE} is "{chosen}", which is no number of bytes',
            f"for example {_LIMIT_VARIABLE}=500000000",
        )
    return int(chosen)


@dataclass(frozen=True, slots=True)
class _Entry:
    """used: nanoseconds, of its last use."""

    used: int
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class Cache:
    """folder: None turns caching off."""

    folder: Path | None

    def get(self, kind: str, key: str) -> bytes | None:
        """The entry, or None where it is absent or damaged."""
        if self.folder is None:
            return None
        with suppress(OSError):
            path = self._path(kind, key)
            data = path.read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                with suppress(OSError):  # a folder that can only be read serves as well
                    os.utime(path)
                return data[32:]
        return None

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Stores an entry; does nothing where the folder cannot be written."""
        if self.folder is None:
            return
        path = self._path(kind, key)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(hashlib.sha256(data).digest() + data)
                Path(partial).replace(path)
            except OSError:
                Path(partial).unlink(missing_ok=True)
                raise

    def trim(self, limit_bytes: int) -> None:
        """Takes away what was not used for longest until at most `limit_bytes` are left.

        Other processes may read, store and trim meanwhile: a file that is gone counts as taken away, one that
        is open can still be read, and whoever misses an entry builds it again.
        """
        if self.folder is None:
            return
        entries = sorted(_entries(self.folder), key=lambda entry: entry.used)
        excess = sum(entry.size for entry in entries) - limit_bytes
        for entry in entries:
            if excess <= 0:
                return
            with suppress(OSError):
                os.unlink(entry.path)
            excess -= entry.size

    def _path(self, kind: str, key: str) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(f"{source_digest()}\0{key}".encode()).hexdigest()
        return self.folder / kind / name[:2] / name


def _entries(folder: Path) -> Iterator[_Entry]:
    """The files of a cache: entries, and what interrupted processes have left of them."""
    for kind, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(kind, name)
            with suppress(FileNotFoundError):
                found = os.stat(path)
                yield _Entry(found.st_mtime_ns, found.st_size, path)
