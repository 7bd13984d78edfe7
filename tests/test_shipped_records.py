"""The records that the package carries: of its demo, on the NPU's presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitloom.tuning import work_of
from compiler.driver import no_progress
from examples.letters.tune import HERE, SHIPPED
from schedules.tuning.records import read, shipped
from schedules.tuning.tuned import is_current
from sim.config import load_config, preset_names
from targets.npu import NpuBuild, NpuTarget
from targets.streams.choosing import cycles_of


def test_they_are_of_the_sources_as_they_are() -> None:
    assert shipped() == [SHIPPED]
    records = read(SHIPPED, pytest.fail)
    assert len(records) == len(preset_names())
    assert all(is_current(r) for r in records), "make them anew: python -m examples.letters.tune"
    assert all(r.verdict is not None and r.verdict <= 1 for r in records)
    assert any(r.verdict is not None and r.verdict < 0.99 for r in records)


@pytest.mark.parametrize("preset", preset_names())
def test_compile_uses_them(preset: str, tmp_path: Path) -> None:
    work = work_of(HERE / "letters.onnx", f"npu/{preset}", HERE / "calibration.npz")
    plain = work.target.build(work.graph, no_progress)
    known = NpuTarget(f"npu/{preset}", load_config(preset)).with_records(tmp_path, pytest.fail)
    found = known.build(work.graph, no_progress)
    assert isinstance(plain, NpuBuild) and isinstance(found, NpuBuild)
    [record] = [r for r in read(SHIPPED, pytest.fail) if preset in r.fingerprint]
    assert cycles_of(found.program).total == record.cost
    assert cycles_of(plain.program).total == pytest.approx((record.cost or 0.0) / (record.verdict or 1.0))
    assert (found.facts["tuning"]["tuned"] > 0) == (record.verdict != 1)
