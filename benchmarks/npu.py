"""How fast the NPU's simulator is: `python -m benchmarks.npu`, on one core.

A program of thousands of instructions, as of a compiled network, from random tiles of convolutions and matrix
products, on each preset: inserting tokens, checking, the whole simulation (checks, results, timing), and
timing alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sim.checker import check
from sim.config import NpuConfig, load_config, preset_names
from sim.programs.random import instructions_of, random_program
from sim.simulate import simulate
from sim.timing import time_program
from sim.tokens import insert_tokens

_T = TypeVar("_T")
TILES_FROM = 200  # random programs, one behind the other


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


def main() -> None:
    print(f"{'':10} instructions    M MAC     cycles  tokens s  check s  whole s  timing s")
    for name in preset_names():
        print(row(load_config(name)))


if __name__ == "__main__":
    main()
