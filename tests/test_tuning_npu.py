"""Networks tuned on the NPU: exact, never slower than the compiler's own choice, resumed, refused."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.driver import no_progress
from compiler.ir.graph import Graph
from schedules.npu_choices import Choices
from schedules.tuning.measure import Outcome
from schedules.tuning.networks import STAGINGS, NetworkChoice, NetworkSpace
from schedules.tuning.records import append, databases, read
from schedules.tuning.tilings import tiling_json, tiling_of
from schedules.tuning.tuner import Budget, Tuner
from sim.config import NpuConfig, load_config
from targets.measuring.npu import Network, NpuDevice
from targets.npu import NpuTarget
from targets.streams.choosing import cycles_of, network_space
from targets.streams.lowering import Lowering
from targets.tunable import Place
from tests.command_line import X, bitloom, model
from tests.npu_networks import configurations
from tests.random_graphs import quantized_graphs
from tests.test_npu_networks import convolutions
from tests.test_npu_staging import narrowing

ANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def space_of(graph: Graph, config: NpuConfig) -> NetworkSpace:
    lowering = Lowering(graph, config)
    return network_space(lowering, lowering.lower())


def drawn(space: NetworkSpace, seed: int) -> NetworkChoice:
    return space.drawn(Random(seed))


def target_of(preset: str = "npu-128") -> NpuTarget:
    return NpuTarget(f"npu/{preset}", load_config(preset))


@settings(ANY, max_examples=20)
@given(st.one_of(convolutions(), quantized_graphs()), configurations(), st.integers(0, 2**16))
def test_any_choice_passes_the_checker_and_is_exact(graph: Graph, config: NpuConfig, seed: int) -> None:
    """`measure` compares outputs with the interpreter's; the lowering has the checker look."""
    space = space_of(graph, config)
    if space.layers:
        measured = Network(graph, config).measure(space.candidate(drawn(space, seed)))
        assert measured.outcome is Outcome.MEASURED, measured.said
        assert sum(measured.parts) == measured.cost


@settings(ANY, max_examples=15)
@given(st.one_of(convolutions(), quantized_graphs()), configurations(), st.integers(0, 2**16))
def test_what_is_given_is_kept_only_where_it_is_faster(graph: Graph, config: NpuConfig, seed: int) -> None:
    lowering = Lowering(graph, config)
    space = network_space(lowering, lowering.lower())
    if not space.layers:
        return
    given_ = space.candidate(drawn(space, seed))
    own, other, both = (
        cycles_of(lowering.lower(attempts=attempts)).total
        for attempts in ((None,), (given_,), (None, given_))
    )
    assert both <= min(own, other)


@settings(ANY, max_examples=15)
@given(convolutions(), configurations(), st.integers(0, 2**16))
def test_a_choice_survives_its_record(graph: Graph, config: NpuConfig, seed: int) -> None:
    space = space_of(graph, config)
    choice = drawn(space, seed)
    record = json.loads(json.dumps(space.choice_json(choice)))
    assert space.choice_of(record) == choice
    assert space.choice_of({**record, "version": "another"}) is None
    assert space.choice_of({**record, "tilings": {}}) is None or not space.layers
    for tiling in space.candidate(choice).tilings.values():
        assert tiling_of(tiling_json(tiling)) == tiling


def test_the_default_is_what_the_compiler_writes() -> None:
    graph, config = narrowing(), load_config("npu-256")
    lowering = Lowering(graph, config)
    program = lowering.lower()
    space = network_space(lowering, program)
    again = lowering.lower(attempts=(space.candidate(space.default),))
    assert cycles_of(again) == cycles_of(program)


def test_a_candidate_that_the_checker_refuses_is_an_outcome() -> None:
    graph, config = narrowing(), load_config("npu-128")
    space = space_of(graph, config)
    own = space.candidate(space.default)
    first = min(own.tilings)
    wide = replace(own.tilings[first], rows=48, columns=48)  # more than the accumulators hold
    measured = Network(graph, config).measure(Choices({**own.tilings, first: wide}))
    assert measured.outcome is Outcome.NOT_BUILT
    assert "the checker refuses it: core 0, instruction " in measured.said


def test_the_device_measures_in_processes_and_outlives_their_end() -> None:
    graph, config = narrowing(), load_config("npu-128")
    space, network = space_of(graph, config), Network(graph, config)
    choices = [space.candidate(space.default), *(space.candidate(drawn(space, n)) for n in range(5))]
    expected = {n: network.measure(c).cost for n, c in enumerate(choices)}
    others = set(multiprocessing.active_children())

    seen = set[BaseProcess]()

    def kill() -> None:
        mine = set(multiprocessing.active_children()) - others
        seen.update(mine)
        for child in mine:
            child.kill()

    device = NpuDevice(graph, config)
    try:
        found = dict(device.measure(choices))
        assert {n: m.cost for n, m in found.items()} == expected
        kill()
        found = dict(device.measure(choices))
        assert {n: m.cost for n, m in found.items()} == expected
        ended = list[int]()
        for number, measured in device.measure(choices):
            if not ended:
                kill()
            ended.append(number)
            assert measured.outcome in (Outcome.MEASURED, Outcome.CRASHED)
            assert measured.outcome is Outcome.CRASHED or measured.cost == expected[number]
        assert sorted(ended) == list(expected)
        seen.update(set(multiprocessing.active_children()) - others)
    finally:
        device.close()
    assert all(connection.wait([child.sentinel], 0) for child in seen)


def tuned(graph: Graph, folder: Path, trials: int) -> Tuner:
    target = target_of()
    device = target.device(graph, Place())
    try:
        subjects = target.subjects(graph)
        tuner = Tuner(subjects, device, folder, seed=1, budget=Budget(trials=trials))
        assert all(p.trials <= trials for p in tuner.run())
        assert [ratio <= 1 for _, ratio in tuner.conclude()] == [True]
        return tuner
    finally:
        device.close()


def test_a_tuned_network_is_faster_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    graph = narrowing()
    tuned(graph, tmp_path, 8)
    again = tuned(graph, tmp_path, 24)
    assert again.recalled == 8 and again.trials == 24
    records = [r for path in databases(tmp_path) for r in read(path, pytest.fail)]
    measured = [r for r in records if r.verdict is None]
    assert len(measured) == 24 == len({json.dumps(r.choice) for r in measured})
    verdict = [r for r in records if r.verdict is not None][-1]
    costs = [r.cost for r in measured if r.cost is not None]
    assert verdict.cost == min(costs) < costs[0]
    target = target_of().with_records(tmp_path, pytest.fail)
    build = target.build(graph, no_progress)
    assert cycles_of(build.program).total == verdict.cost
    assert 0 < build.facts["tuning"]["tuned"] <= build.facts["tuning"]["layers"] == 4
    assert target.digest != target_of().digest


def test_slower_records_change_nothing(tmp_path: Path) -> None:
    graph = narrowing()
    tuned(graph, tmp_path, 12)
    (path,) = databases(tmp_path)
    records = read(path, pytest.fail)
    worst = max((r for r in records if r.cost is not None), key=lambda r: r.cost or 0.0)
    path.unlink()
    append(path, [worst])
    build = target_of().with_records(tmp_path, pytest.fail).build(graph, no_progress)
    own = target_of().build(graph, no_progress)
    assert cycles_of(build.program).total == cycles_of(own.program).total <= (worst.cost or 0.0)
    assert build.facts["tuning"]["tuned"] == 0


def test_stagings_are_different_and_hold_the_compilers_own() -> None:
    assert len(set(STAGINGS)) == len(STAGINGS)


def test_tune_and_compile_as_users_run_them(tmp_path: Path) -> None:
    model(tmp_path)
    np.savez(tmp_path / "x.npz", x=X)

    def run(*arguments: str) -> str:
        done = bitloom(*arguments, cwd=tmp_path, cache=tmp_path / "cache")
        assert done.code == 0, done.stderr
        return done.stdout

    compile_ = ("compile", "m.onnx", "-c", "x.npz", "--target", "npu/npu-128", "-q")
    plain = json.loads(run(*compile_, "--no-records", "--json"))["digest"]
    before = json.loads(run(*compile_, "--json"))  # by the package's records, which are of another network
    assert before["tuning"]["tuned"] == 0 < before["tuning"]["layers"]
    assert "chosen / default" in run("tune", "out", "--trials", "60")
    after = json.loads(run(*compile_, "--json"))
    assert after["digest"] != before["digest"]
    assert json.loads(run(*compile_, "--no-records", "--json"))["digest"] == plain
    run(*compile_)
    run("verify", "out")
    said = run("records", "prune")
    assert " records before, " in said and ", 0 after" not in said


def test_boards_and_threads_are_refused(tmp_path: Path) -> None:
    model(tmp_path)
    for options, said in (
        (("--threads", "2"), "has no threads"),
        (("--board", "qemu:cortex-a53"), "is simulated on this computer"),
    ):
        done = bitloom("tune", "m.onnx", "--target", "npu/npu-128", *options, cwd=tmp_path, cache=tmp_path)
        assert done.code == 2 and said in done.stderr
