"""Records of measurements that nobody has made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from schedules.tuning.records import Record
from schedules.tuning.space import Choice, FormSpace
from tests.test_tuning_records import BASE


def verdict_for(space: FormSpace[Any], choice: Choice, device: str, **changes: Any) -> Record:
    """A choice that takes half of the default's time on a device."""
    record = replace(
        BASE,
        fingerprint=device,
        machine=space.machine_name,
        subject=space.subject,
        key=space.key(choice),
        form=space.describe(),
        choice=space.choice_json(choice),
        verdict=0.5,
    )
    return replace(record, **changes)
