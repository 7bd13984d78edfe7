"""Narrow weights that are kept as bytes because that is faster: a choice of the tuner."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bitloom as api
from bitloom.tuning import work_of
from compiler.loops.form import Convolution
from compiler.numerics.element import ElementType
from schedules.machines import MACHINES
from schedules.mali_machines import G76
from schedules.tuning.mali_space import GpuSpace
from schedules.tuning.records import append, database_path, records_folder
from schedules.tuning.space import Choice, KernelSpace, widened
from targets.measuring.host import host_fingerprint
from tests.onnx_models import make_model, node, save
from tests.planted_records import verdict_for

I8, I16, I4, I2, B1 = ElementType.I8, ElementType.I16, ElementType.I4, ElementType.I2, ElementType.B1
narrow = st.builds(
    lambda inputs, outputs, kernel, weight, bits, groups: Convolution(
        *(1, 9, 9, groups or inputs, 9, 9, groups or outputs, kernel, kernel, I8, weight, bits),
        pad=(kernel // 2, kernel // 2),
        groups=groups or 1,
    ),
    st.integers(1, 70),
    st.integers(1, 140),
    st.sampled_from([1, 3]),
    st.sampled_from([I4, I2, B1]),
    st.sampled_from([I8, I16]),
    st.sampled_from([0, 0, 24]),
)


@settings(max_examples=40, deadline=None)
@given(narrow, st.sampled_from(MACHINES), st.integers(0, 1 << 30))
def test_both_ways_are_reached_from_each_other(form: Convolution, machine: object, seed: int) -> None:
    space = KernelSpace(form, machine)  # type: ignore[arg-type]
    first, *others = space.defaults
    assert first == space.default and not first.widened
    assert [c.widened for c in others] == [True]
    wide = KernelSpace(space.forms[True], space.machine)
    for choice in (space.drawn(Random(seed)), *others):
        assert Choice.of_json(choice.as_json()) == choice
        assert space.choice_of(choice.as_json()) == choice
        if choice.widened:
            assert space.plan(choice) == wide.plan(Choice(choice.template, choice.config))
        assert len(space.features(choice)) == len(space.features(first))
    steps = [c.widened for c in (*space.neighbours(first), *space.neighbours(others[0]))]
    assert True in steps or others[0].template != first.template


def test_what_is_not_narrow_is_not_widened() -> None:
    wide = Convolution(1, 9, 9, 8, 9, 9, 8, 1, 1, I8, I8, I8)
    bits = Convolution(1, 9, 9, 8, 9, 9, 8, 1, 1, B1, B1, I8)
    assert widened(wide) is None and widened(bits) is None
    assert set(KernelSpace(wide, MACHINES[0]).forms) == {False}
    narrow = Convolution(1, 9, 9, 8, 9, 9, 8, 1, 1, I8, I4, I8)
    assert [c.widened for c in GpuSpace(narrow, G76).defaults] == [False, True]


def test_a_library_with_widened_weights_is_exact_and_larger_and_a_budget_prevents_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITLOOM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("BITLOOM_RECORDS", str(tmp_path / "records"))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 64), np.float32)
    save(make_model([node("MatMul", "x w", "y", name="fc")], {"x": [1, 96]}, ["y"], {"w": weight}), tmp_path)
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((4, 96), np.float32))

    def compiled(**options: str) -> api.Artifact:
        return api.compile(
            tmp_path / "m.onnx",
            calibration=tmp_path / "x.npz",
            output=tmp_path / "out",
            layer_weights={"fc": "int4"},
            **options,  # type: ignore[arg-type]
        )

    before = dict(compiled().manifest)
    assert before["tuning"]["widened"] == 0
    work = work_of(tmp_path / "out")
    spaces = [s for _, s, _ in work.target.subjects(work.graph) if isinstance(s, KernelSpace)]
    [space] = [s for s in spaces if True in s.forms]
    record = verdict_for(space, space.defaults[1], host_fingerprint())
    append(database_path(records_folder(), record.fingerprint), [record])
    after = compiled()
    assert after.manifest["tuning"]["widened"] == after.manifest["tuning"]["tuned"] == 1
    assert after.manifest["constant_bytes"] > 1.5 * before["constant_bytes"]
    assert api.verify(after.path).is_exact
    packed = compiled(budget="size<=100%")
    assert packed.manifest["tuning"]["widened"] == 0
