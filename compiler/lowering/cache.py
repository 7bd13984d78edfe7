"""A cache on disk, keyed by content: losing it costs time, never correctness.

Entries are files named by a digest of everything that they depend on, the sources of this package
included, so nothing is ever stale. Writes are atomic (a temporary file, then a rename); a folder that
cannot be written turns the cache off. Each entry carries a checksum: a damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Cache:
    """folder: None turns caching off."""

    folder: Path | None

    def get(self, kind: str, key: str) -> bytes | None:
        """The entry, or None where it is absent or damaged."""
        if self.folder is None:
            return None
        with suppress(OSError):
            data = self._path(kind, key).read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
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

    def _path(self, kind: str, key: str) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(f"{source_digest()}\0{key}".encode()).hexdigest()
        return self.folder / kind / name[:2] / name
