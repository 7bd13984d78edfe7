"""Where a model's time goes: each step of a compiled library by itself, on one thread, in its place in a run.

    python -m benchmarks.layers_profile squeezenet1_1 --top 10
    python -m benchmarks.layers_profile resnet50 --target cpu/avx2 --json

A model is what `benchmarks.host_latency` takes. The time of a step is its median over the runs; GMAC/s counts
multiplications with weights, GB/s the bytes of activations that the layer reads and writes.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import bitloom
from benchmarks.cases import CaseError, load_case
from benchmarks.host_latency import MODELS
from bitloom.layer_times import LayerTime, layer_times


def table(found: Sequence[LayerTime], top: int | None) -> str:
    """All steps in order, or the `top` slowest first."""
    chosen = found if top is None else sorted(found, key=lambda r: -r.microseconds)[:top]
    lines = [
        f"{'step':>4} {'µs':>8} {'share':>6}  {'rate':>14} {'tiles':>6}  {'operator':<12}"
        f" {'input -> output':<40} kernel"
    ]
    lines += [
        f"{r.step:>4} {r.microseconds:>8.1f} {r.share:>6.1%}  {r.rate:>14} {r.tiles:>6}  {r.operator:<12}"
        f" {f'{r.input} -> {r.output}':<40} {r.kernel}"
        for r in chosen
    ]
    total = sum(r.microseconds for r in found)
    rate = sum(r.macs for r in found) / total / 1e3
    return "\n".join([*lines, f"{'all':>4} {total:>8.1f} {1:>6.1%}  {rate:>7.1f} GMAC/s"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--repeat", type=int, default=30, help="timed runs, default 30")
    parser.add_argument("--target", default="host", help="one that runs here, default host")
    parser.add_argument("--top", type=int, help="show the slowest steps only")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    found: dict[str, list[LayerTime]] = {}
    with tempfile.TemporaryDirectory(prefix="bitloom-profile-") as name:
        for model in arguments.models:
            try:
                found[model] = _profile(model, arguments.target, Path(name), arguments.repeat)
            except CaseError as error:
                print(f"layers_profile: {error}", file=sys.stderr)
                sys.exit(2)
    if arguments.json:
        print(json.dumps({model: [asdict(row) for row in each] for model, each in found.items()}, indent=2))
    else:
        print("\n\n".join(f"{model}\n{table(each, arguments.top)}" for model, each in found.items()))


def _profile(name: str, target: str, folder: Path, repeat: int) -> list[LayerTime]:
    case = load_case(name, folder)
    artifact = bitloom.compile(
        case.model, target=target, calibration=list(case.calibration), output=folder / case.name
    )
    with bitloom.load(artifact.path, threads=1) as model:
        return layer_times(model, {case.input_name: case.timed_input}, repeat)


if __name__ == "__main__":
    main()
