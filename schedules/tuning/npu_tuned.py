"""What records say of networks on NPUs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compiler.lowering.kernel import structural_digest
from schedules.npu_choices import Choices
from schedules.tuning.measure import Outcome, Unit
from schedules.tuning.networks import TEMPLATE, choices_of, key_of, version
from schedules.tuning.records import Record, Warn, databases, read, shipped


@dataclass(frozen=True)
class TunedNetworks:
    """choices: the fastest of each network, as in records; devices: whose records they are."""

    choices: Mapping[str, Mapping[str, Any]]
    devices: tuple[str, ...]

    @staticmethod
    def of(folder: Path, machine: str, warn: Warn) -> TunedNetworks:
        """From all databases of a folder and the package's, for one machine. Cycles are exact: the fewest
        count, whoever has found them."""
        best: dict[str, Record] = {}
        for path in (*databases(folder), *shipped()):
            for record in read(path, warn):
                if record.machine == machine and _counts(record):
                    known = best.get(record.subject)
                    if known is None or (record.cost or 0.0) < (known.cost or 0.0):
                        best[record.subject] = record
        devices = dict.fromkeys(record.fingerprint for record in best.values())
        return TunedNetworks({s: r.choice for s, r in best.items()}, tuple(devices))

    @cached_property
    def digest(self) -> str:
        return structural_digest(json.dumps(self.choices, sort_keys=True))

    def __hash__(self) -> int:
        return hash(self.digest)

    def choices_for(self, subject: str) -> Choices | None:
        record = self.choices.get(subject)
        return None if record is None else choices_of(record, version())


def _counts(record: Record) -> bool:
    measured = record.outcome is Outcome.MEASURED and record.unit is Unit.CYCLES and record.cost is not None
    current = record.choice.get("template") == TEMPLATE and record.key == key_of(record.subject, version())
    return measured and current
