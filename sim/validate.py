"""Compares the simulator with the hardware description: `python -m sim.validate`.

Both are made from one configuration and run the same programs. Compared are all memories, bit for bit, the
cycles of programs of every kind of work, and the order of the schedules of one layer by cycles. Nothing is
fitted: pipeline depths and latencies are parameters of both. The seeds are new to both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.config import NpuConfig, load_config, preset_names
from sim.programs.random import KINDS, RandomProgram, fill_constants, random_program
from sim.programs.schedules import Layer, layer_program, schedules
from sim.rtl_model import EXTERNAL_BYTES, RtlError, RtlRun, build, run_programs
from sim.simulate import simulate

HELD_OUT = 1_000_000
LAYER = Layer(size=16, channels=16, outputs=32)
MEAN_BAR, MAX_BAR, TAU_BAR = 0.05, 0.10, 0.9


@dataclass(frozen=True, slots=True)
class Comparison:
    """One program on both sides. roofline: cycles by the busiest of array, lanes and ports alone, for scale.
    different: names of memories whose contents differ."""

    name: str
    simulated: int
    measured: int
    roofline: float
    different: tuple[str, ...]

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1


def compare(config: NpuConfig, cases: Sequence[RandomProgram], folder: Path) -> list[Comparison]:
    """Errors: RtlError where the description cannot be built or a program does not halt."""
    executable = build(config, folder)
    with tempfile.TemporaryDirectory() as runs:
        found = run_programs(executable, cases, Path(runs))
    return [_comparison(config, case, run) for case, run in zip(cases, found, strict=True)]


def _comparison(config: NpuConfig, case: RandomProgram, measured: RtlRun) -> Comparison:
    external = case.external(config)
    run = simulate(case.program, config, external)
    core = run.cores[0]
    pairs = {
        "SRAM": (external.sram.data, measured.sram),
        "DRAM": (external.dram.data, measured.dram),
        "activation": (core.activation.data, measured.activation),
        "accumulators": (core.accumulators.data, measured.accumulators),
    }
    different = tuple(n for n, (a, b) in pairs.items() if not np.array_equal(a[:EXTERNAL_BYTES], b[: a.size]))
    (work,) = run.timing.work
    mac = config.mac.rows * config.mac.columns
    bounds = [float(work.macs.sum()) / mac, float(work.elements.sum()) / config.vec.lanes]
    bounds += [float(work.port_cycles[work.port == p].sum()) for p in (0, 1)]
    return Comparison(case.name, run.timing.cycles, measured.cycles, max(bounds), different)


def layer_cases(config: NpuConfig, count: int) -> list[RandomProgram]:
    """`count` schedules of one layer, drawn from all that fit."""
    rng = np.random.default_rng(HELD_OUT)
    sram, dram = (rng.integers(0, 256, 1 << 16, np.uint8) for _ in range(2))
    fill_constants(rng, dram)
    every = schedules(LAYER, config)
    chosen = rng.permutation(len(every))[:count]
    return [layer_program(LAYER, every[i], config, sram, dram) for i in sorted(chosen.tolist())]


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings: 1 for the same order, -1 for the opposite one."""
    x, y = (np.sign(np.subtract.outer(np.array(v), np.array(v))) for v in (a, b))
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all bars are met, 1 where one is not, 2 where there is no Verilator."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.validate", description="the simulator beside the RTL"
    )
    parser.add_argument("--npu", nargs="+", default=preset_names(), help="presets or TOML files")
    parser.add_argument("--seeds", type=int, default=40, help="programs of each kind")
    parser.add_argument("--schedules", type=int, default=50, help="schedules of one layer")
    parser.add_argument("--build", type=Path, help="folder for what Verilator makes, kept between runs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            met = [
                _report(load_config(name), options.seeds, options.schedules, options.build or Path(scratch))
                for name in options.npu
            ]
        except RtlError as error:
            print(error, file=sys.stderr)
            return 2
    return 0 if all(met) else 1


def _report(config: NpuConfig, seeds: int, count: int, folder: Path) -> bool:
    """Prints one configuration's table; whether its bars are met."""
    print(f"{config.name}: one core, {seeds} programs of each kind")
    print(f"{'':12} {'mean error':>10} {'largest':>8} {'roofline error':>14} {'memories':>9}")
    everything: list[Comparison] = []
    for kind in sorted(KINDS):
        cases = [random_program(kind, HELD_OUT + seed, config) for seed in range(seeds)]
        found = compare(config, cases, folder)
        everything += found
        _print_row(kind, found)
    _print_row("all", everything)
    ranked = compare(config, layer_cases(config, count), folder)
    _print_row("one layer", ranked)
    tau = kendall_tau([c.simulated for c in ranked], [c.measured for c in ranked])
    spread = max(c.measured for c in ranked) / min(c.measured for c in ranked)
    print(f"order of {len(ranked)} schedules: Kendall tau {tau:.3f}; {spread:.1f} x between them\n")
    errors = np.abs([c.error for c in everything + ranked])
    equal = not any(c.different for c in everything + ranked)
    return bool(errors.mean() <= MEAN_BAR and errors.max() <= MAX_BAR and tau >= TAU_BAR and equal)


def _print_row(name: str, found: Sequence[Comparison]) -> None:
    errors = np.abs([c.error for c in found])
    roofline = np.abs([c.roofline / c.measured - 1 for c in found])
    different = [c.name for c in found if c.different]
    memories = "equal" if not different else f"differ: {', '.join(different[:3])}"
    print(f"{name:12} {errors.mean():10.2%} {errors.max():8.2%} {roofline.mean():14.1%} {memories:>9}")


if __name__ == "__main__":
    sys.exit(main())
