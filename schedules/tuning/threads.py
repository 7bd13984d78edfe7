"""With how many threads a model runs fastest on a device: measured of the whole model, when it was tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from compiler.lowering.kernel import structural_digest
from schedules.tuning.measure import Outcome, Unit
from schedules.tuning.records import Record

TEMPLATE = "threads"
# More threads have to save so much of the time for each of them.
_WORTH = 0.03


def subject_of(kernels: Iterable[str]) -> str:
    """Of a model, by the subjects of its kernels."""
    return structural_digest(TEMPLATE, sorted(kernels))


def fewest(seconds: Mapping[int, float]) -> int:
    """The number of threads to take, of those that were timed: the least from which no other one is clearly
    faster."""
    best = min(seconds, key=lambda n: seconds[n])
    return next(n for n in sorted(seconds) if seconds[n] <= seconds[best] * (1 + _WORTH))


def threads_record(
    fingerprint: str,
    machine: str,
    kernels: Iterable[str],
    seconds: Mapping[int, float],
    versions: Mapping[str, str],
) -> Record:
    """Of what a run of a whole model takes, by the number of threads."""
    subject, chosen = subject_of(kernels), fewest(seconds)
    return Record(
        fingerprint=fingerprint,
        machine=machine,
        subject=subject,
        key=key_of(subject),
        form={"kind": "model", "numbers": {"threads": max(seconds)}},
        choice={"template": TEMPLATE, "threads": chosen},
        unit=Unit.SECONDS,
        outcome=Outcome.MEASURED,
        cost=seconds[chosen],
        spread=0.0,
        date=datetime.now(UTC).isoformat(timespec="milliseconds"),
        versions=versions,
        verdict=seconds[chosen] / seconds[max(seconds)],
    )


def key_of(subject: str) -> str:
    """Of records: what they say does not depend on sources."""
    return structural_digest(subject, TEMPLATE)


def threads_of(record: Record) -> int | None:
    """What a record says; None where it is of something else, or nothing that can be read."""
    found = record.choice.get("threads")
    is_one = record.choice.get("template") == TEMPLATE and isinstance(found, int) and found >= 1
    return found if is_one else None
