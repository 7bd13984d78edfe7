"""How fast the NPU's compiler and simulator are: `python -m benchmarks.npu [MODEL]`, on one core.

A program of thousands of instructions, as of a compiled network, from random tiles of convolutions and matrix
products, on each preset: inserting tokens, checking, the whole simulation (checks, results, timing), and
timing alone. Where BITLOOM_ZOO names a folder of models, then commands as a user gives them, for a network of
the zoo: `compile` without a cache, `simulate` with results and with `--timing-only`, each from the start of
its process to the end, and how much of the latter is the timing itself. In brackets the time that the core
worked for it: where others use the machine, it says more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.cases import ZOO_VARIABLE, load_from_zoo
from sim.checker import check
from sim.config import NpuConfig, load_config, preset_names
from sim.programs.random import instructions_of, random_program
from sim.simulate import simulate
from sim.timing import time_program
from sim.tokens import insert_tokens
from targets.streams.model import read_model
from targets.streams.running import time_model

_T = TypeVar("_T")
TILES_FROM = 200  # random programs, one behind the other
CALIBRATION = 4  # samples: times do not depend on how good the ranges are


def _timed(action: Callable[[], _T]) -> tuple[_T, float]:
    begin = time.perf_counter()
    result = action()
    return result, time.perf_counter() - begin


def row(config: NpuConfig) -> str:
    body = [
        i
        for seed in range(TILES_FROM // 2)
        for k in ("conv", "gemm")
        for i in instructions_of(k, seed, config)
    ]
    made, inserting = _timed(lambda: insert_tokens([(0, i) for i in body], config).program)
    external = random_program("conv", 0, config).external(config)
    _, checking = _timed(lambda: check(made, config))
    run, whole = _timed(lambda: simulate(made, config, external))
    _, timing = _timed(lambda: time_program(made, config))
    macs = sum(int(w.macs.sum()) for w in run.timing.work) / 1e6
    counts = f"{config.name:10} {len(made):12} {macs:8.1f} {run.timing.cycles:10}"
    return f"{counts} {inserting:9.2f} {checking:8.2f} {whole:9.2f} {timing:7.2f}"


def _command(*arguments: str) -> str:
    """Seconds that `bitloom` takes, from its start to its end, and those that the core worked for it."""
    code = "import sys; from bitloom.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    before = os.times()
    wall = _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))[1]
    after = os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return f"{wall:.1f} ({worked:.1f})"


def network_row(case: Any, preset: str, folder: Path) -> str:
    """case: of the zoo."""
    samples = [np.asarray(x, np.float32) for x in case.calibration[:CALIBRATION]]
    calibration, sample, out = folder / "calibration.npz", folder / "sample.npz", folder / preset
    for path, arrays in ((calibration, samples), (sample, samples[:1])):
        given: dict[str, Any] = {case.input_name: np.concatenate(arrays)}
        np.savez(path, **given)
    options = ("-c", str(calibration), "-o", str(out), "--no-cache", "--quiet")
    compiling = _command("compile", str(case.model), "--npu", preset, *options)
    simulating = _command("simulate", str(out), "--input", str(sample))
    alone = _command("simulate", str(out), "--timing-only")
    model = read_model(out)
    begin = time.process_time()
    timed, timing = _timed(lambda: time_model(model))
    alone_s = f"{timing:.2f} ({time.process_time() - begin:.2f})"
    instructions = sum(s.instructions for s in timed.totals)
    counts = f"{preset:10} {instructions:12} {timed.cycles:10}"
    return f"{counts} {compiling:>11} {simulating:>11} {alone:>14} {alone_s:>12}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mbv2_100_224_deq", help="a model of the zoo")
    model = parser.parse_args().model
    if hasattr(os, "sched_setaffinity"):  # the commands inherit it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'':10} instructions    M MAC     cycles  tokens s  check s  whole s  timing s")
    for name in preset_names():
        print(row(load_config(name)))
    if ZOO_VARIABLE in os.environ:
        case = load_from_zoo(model)
        print(
            f"\n{model}\n{'':10} instructions     cycles   compile s  simulate s  timing-only s     timing s"
        )
        with tempfile.TemporaryDirectory() as folder:
            for name in preset_names():
                print(network_row(case, name, Path(folder)))


if __name__ == "__main__":
    main()
