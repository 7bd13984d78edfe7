"""What tuning earns on the NPU: simulated cycles of whole networks.

    python -m benchmarks.npu_tuning [MODEL ...] [--npu NAME ...] [--trials N] [--records FOLDER]

For each model of the zoo and each NPU: cycles with the tilings that the analytic model likes best; with
those that `compile` chooses, which tries some on the simulator; and with the records of `tune` after so many
trials. Then Kendall's tau between the analytic model and the simulator: tilings of each layer, drawn from all
that fit, and from those within 1.3 of the cheapest, which are what a choice is about; the mean over layers.
With a folder of records a run goes on where it has ended.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cases import ZOO_VARIABLE, CaseError
from benchmarks.npu_vela import quantized
from compiler.driver import no_progress
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from schedules.npu_cost import costs
from schedules.npu_mechanisms import ALL, Mechanism
from schedules.npu_search import trial
from schedules.npu_space import tiling_space, with_two_engines
from schedules.tuning.networks import NetworkSpace
from schedules.tuning.tilings import TilingSpace
from schedules.tuning.tuner import Budget, Tuner
from sim.config import preset_names
from sim.validate import kendall_tau
from targets.npu import NpuTarget, target_from
from targets.streams.choosing import cycles_of, network_space
from targets.streams.lowering import Lowering
from targets.tunable import Place

_DRAWN = 16  # tilings of a layer
_NEAR = 1.3
_TAU_LAYERS = 16  # of a network


@dataclass(frozen=True, slots=True)
class Row:
    """Cycles, the mean of tau over layers, trials in all and seconds of those of this run."""

    analytic: int
    compiled: int
    tuned: int
    tau: float
    tau_near: float
    trials: int
    seconds: float


def measure(graph: Graph, target: NpuTarget, trials: int, records: Path, seed: int) -> Row:
    lowering = Lowering(graph, target.config)
    analytic = cycles_of(Lowering(graph, target.config, ALL - {Mechanism.TRIALS}).lower()).total
    program = lowering.lower()
    tau, tau_near = taus(network_space(lowering, program))
    begin = time.monotonic()
    made = tune(graph, target, trials, records, seed)
    seconds = time.monotonic() - begin
    tuned = target.with_records(records, print).build(graph, no_progress).program
    return Row(analytic, cycles_of(program).total, cycles_of(tuned).total, tau, tau_near, made, seconds)


def tune(graph: Graph, target: NpuTarget, trials: int, records: Path, seed: int) -> int:
    """How many trials there are in the records then."""
    device = target.device(graph, Place())
    try:
        tuner = Tuner(target.subjects(graph), device, records, seed=seed, budget=Budget(trials=trials))
        for _ in tuner.run():
            pass
        for _ in tuner.conclude():
            pass
        return tuner.trials
    finally:
        device.close()


def taus(space: NetworkSpace) -> tuple[float, float]:
    """Of tilings from all that fit, and from those near the cheapest."""
    found: list[list[float]] = [[], []]
    rng = np.random.default_rng(0)
    products = [s for s in dict.fromkeys(space.spaces) if isinstance(s, TilingSpace)]
    for layer in products[:_TAU_LAYERS]:
        every = with_two_engines(tiling_space(layer.shape, layer.fits), layer.shape)
        cycles, _ = costs(every, layer.shape, layer.fits)
        for part, rows in zip(
            found, (np.arange(len(cycles)), np.flatnonzero(cycles <= _NEAR * cycles.min())), strict=True
        ):
            drawn = rng.choice(rows, min(_DRAWN, len(rows)), replace=False).tolist()
            simulated = [trial(every.tiling(r), layer.shape, layer.fits).cycles for r in drawn]
            modelled = [float(cycles[r]) for r in drawn]
            if len(set(simulated)) > 1 and len(set(modelled)) > 1:
                part.append(kendall_tau(modelled, simulated))
    return tuple(float(np.mean(part)) if part else float("nan") for part in found)  # type: ignore[return-value]


def models() -> list[str]:
    """Of the zoo. Errors: CaseError where there is none."""
    folder = os.environ.get(ZOO_VARIABLE)
    if folder is None:
        raise CaseError(f"networks are in the zoo: set {ZOO_VARIABLE}")
    return sorted(path.stem for path in (Path(folder) / "models").glob("*.onnx"))


@contextmanager
def _folder(given: Path | None) -> Generator[Path]:
    if given is not None:
        yield given
        return
    with TemporaryDirectory() as name:
        yield Path(name)


def run(names: Sequence[str], npus: Sequence[str], trials: int, records: Path | None, seed: int) -> None:
    print(
        f"{'network':18} {'npu':8} {'analytic':>9} {'compile':>9} {'tuned':>9} "
        f"{'compile/a.':>10} {'tuned/a.':>8} {'tuned/c.':>8}  tau  near trials seconds"
    )
    ratios: list[float] = []
    with _folder(records) as folder:
        for name in names:
            try:
                graph = quantized(name)
            except (CaseError, BitloomError) as error:
                print(f"{name:18} left out: {error}")
                continue
            for npu in npus:
                target = target_from(f"npu/{npu}")
                assert target is not None
                r = measure(graph, replace(target, tuned=None), trials, folder, seed)
                ratios.append(r.tuned / r.analytic)
                print(
                    f"{name:18} {npu:8} {r.analytic:>9} {r.compiled:>9} {r.tuned:>9} "
                    f"{r.compiled / r.analytic:>10.3f} {r.tuned / r.analytic:>8.3f} "
                    f"{r.tuned / r.compiled:>8.3f} {r.tau:4.2f}  {r.tau_near:4.2f} {r.trials:>6} "
                    f"{r.seconds:>7.0f}",
                    flush=True,
                )
    if ratios:
        enough = sum(ratio <= 0.9 for ratio in ratios)
        print(f"{enough} of {len(ratios)} rows take at least 10 % fewer cycles than the analytic choice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help="models of the zoo; all if left out")
    parser.add_argument("--npu", choices=preset_names(), action="append", help="npu-256 if left out")
    parser.add_argument("--trials", type=int, default=400, help="of each network on each NPU")
    parser.add_argument("--records", type=Path, help="a folder of records that stays")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        run(
            options.models or models(),
            options.npu or ["npu-256"],
            options.trials,
            options.records,
            options.seed,
        )
    except CaseError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
