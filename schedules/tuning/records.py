"""Records of measurements: JSON lines, one file for each device fingerprint, appended and never rewritten.

A line is one record with a checksum of its own. Writers append whole lines under a lock of the file and have
the system write them through, so that several may write at once and one may die at any moment: what was
half written stands on a line of its own, which readers skip and name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compiler.lowering.cache import default_folder
from schedules.tuning.measure import Outcome, Unit

FORMAT = 1
_FOLDER_VARIABLE = "BITLOOM_RECORDS"
_SUFFIX = ".jsonl"
_CHECKSUM = "sum"

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One choice on one device, as it was measured.

    subject: digest of what was tuned, a form on a machine or a graph; key: the same with the choice's
    template and its version, so that records of a template that has changed are not found. form: what the
    subject is, in JSON, from which similar ones are recognized. choice: template and fields. cost, spread:
    None unless the outcome is MEASURED. place: digest of the model in which it was measured, all its runs
    together; empty for a kernel by itself. verdict: None for a measurement; else that a comparison by turns
    has made this the choice for its subject, and its cost over the default's. date: UTC, ISO 8601. versions:
    of what built it. parts: as of `Measurement`.
    """

    fingerprint: str
    machine: str
    subject: str
    key: str
    form: Mapping[str, Any]
    choice: Mapping[str, Any]
    unit: Unit
    outcome: Outcome
    cost: float | None
    spread: float | None
    date: str
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    said: str = ""
    verdict: float | None = None
    place: str = ""
    parts: tuple[float, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether it is a measurement of a kernel by itself."""
        return self.verdict is None and not self.place

    def line(self) -> str:
        """With checksum, without the end of the line."""
        body = {**asdict(self), "format": FORMAT, "unit": self.unit.value, "outcome": self.outcome.value}
        return _canonical({**body, _CHECKSUM: _checksum(body)})

    @staticmethod
    def of_line(line: str) -> Record:
        """Errors: ValueError that says what is wrong with the line."""
        try:
            body = json.loads(line)
        except ValueError as error:
            raise ValueError(f"no JSON ({error})") from None
        if not isinstance(body, dict):
            raise ValueError("no JSON object")
        if body.pop(_CHECKSUM, None) != _checksum(body):
            raise ValueError("its checksum does not fit")
        if body.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        try:
            record = Record(**body)
            kinds = {"unit": Unit(record.unit), "outcome": Outcome(record.outcome)}
            return replace(record, **kinds, parts=tuple(record.parts))
        except (TypeError, ValueError) as error:
            raise ValueError(f"no record ({error})") from None


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode()).hexdigest()[:8]


def records_folder() -> Path:
    """BITLOOM_RECORDS, else beside the cache of compilations, which may be deleted at any time."""
    chosen = os.environ.get(_FOLDER_VARIABLE)
    cache = default_folder()
    return Path(chosen) if chosen else cache.with_name(f"{cache.name}-records")


def database_path(folder: Path, fingerprint: str) -> Path:
    """Of a device: its fingerprint as far as a file can be called so, and a digest of all of it."""
    plain = re.sub(r"[^A-Za-z0-9.=]+", "-", fingerprint).strip("-.")[:60]
    return folder / f"{plain}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:8]}{_SUFFIX}"


def append(path: Path, records: Sequence[Record]) -> None:
    """Adds records, all or none, and returns when they are on the disk.

    Errors: OSError with the file's name, where the disk is full for example; the file is then as before.
    """
    if not records:
        return
    data = "".join(f"{record.line()}\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as handle:
        size = os.fstat(handle).st_size
        # What another process could not finish ends here.
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        try:
            _write_all(handle, data)
            os.fsync(handle)
        except OSError as error:
            os.ftruncate(handle, size)
            raise _named(error, path) from error


@contextmanager
def _locked(path: Path) -> Generator[int]:
    """The file, made where there is none, under a lock; `rewrite` may have put another in its place."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
                yield handle
                return
        finally:
            os.close(handle)


def _named(error: OSError, path: Path) -> OSError:
    reason = os.strerror(error.errno or 0)
    return OSError(error.errno, f"{reason}; the records in it are as they were", str(path))


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def read(path: Path, warn: Warn) -> list[Record]:
    """The records of a file, in order; nothing where there is no file. warn: told of each damaged line."""
    if not path.exists():
        return []
    found: list[Record] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(Record.of_line(line.decode()))
        except ValueError as error:
            warn(f"{path}, line {number}: damaged record left out: {error}")
    return found


def databases(folder: Path) -> list[Path]:
    """The files of a folder of records, by name."""
    return sorted(folder.glob(f"*{_SUFFIX}"))


def shipped() -> list[Path]:
    """The files of records that the package carries: of simulated NPUs, whose cycles are the same everywhere.

    They count like a user's own. `python -m examples.letters.tune` makes them.
    """
    return databases(Path(__file__).with_name("shipped"))


def merged(groups: Iterable[Iterable[Record]]) -> list[Record]:
    """Every record once, in an order that depends on nothing else."""
    lines = {record.line(): record for group in groups for record in group}
    return [lines[line] for line in sorted(lines, key=lambda line: (lines[line].date, line))]


def rewrite(path: Path, change: Callable[[list[Record]], Iterable[Record]], warn: Warn) -> None:
    """Puts what `change` makes of a file's records in their place: whole or not at all, and without losing
    what other processes add meanwhile. Damaged lines go. Errors: OSError with the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with _locked(path):
        lines = [f"{record.line()}\n" for record in change(read(path, warn))]
        try:
            with partial.open("wb") as stream:
                stream.write("".join(lines).encode())
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _named(error, path) from error


def pruned(records: Iterable[Record], keys_alive: Callable[[Record], bool], best: int) -> Iterator[Record]:
    """Of each subject the verdicts and the `best` cheapest measurements of templates as they are now.
    Failures go too: they may be tried again."""
    kept: dict[str, list[Record]] = {}
    for record in records:
        if keys_alive(record) and record.outcome is Outcome.MEASURED:
            kept.setdefault(record.subject, []).append(record)
    for group in kept.values():
        verdicts = [r for r in group if r.verdict is not None]
        yield from verdicts[-1:]
        yield from sorted((r for r in group if r.is_alone), key=lambda r: r.cost or 0.0)[:best]
