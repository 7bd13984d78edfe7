"""Libraries for an OpenCL device beside those for this CPU, by turns, and what a create costs.

Each round times both once. The first create compiles all kernels, later ones take them from a file; drivers
that keep compiled kernels of their own (PoCL) are given a new folder for them. From the repository's root:

    python -m benchmarks.mali squeezenet1_1 mbv2_100_224_deq --runner opencl
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bitloom
from benchmarks.case import Case
from benchmarks.cases import load_case
from bitloom.device import DeviceModel

MODELS = ("squeezenet1_1", "mbv2_100_224_deq")
ROUNDS, RUNS, CREATES = 7, 5, 5


def compiled(case: Case, target: str, folder: Path) -> Path:
    return bitloom.compile(
        case.model,
        calibration=list(case.calibration),
        target=target,
        output=folder / target.replace("/", "_"),
    ).path


@contextmanager
def fresh_folders() -> Iterator[None]:
    """Nothing compiled is at hand: neither ours nor PoCL's."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BITLOOM_OPENCL_CACHE"] = f"{folder}/ours"
        os.environ["POCL_CACHE_DIR"] = f"{folder}/pocl"
        yield


def creates(path: Path, runner: str) -> list[float]:
    """Seconds of each create, the first of which compiles."""
    found: list[float] = []
    for _ in range(1 + CREATES):
        start = time.perf_counter()
        model = bitloom.load(path, runner=runner)
        found.append(time.perf_counter() - start)
        model.close()
    return found


def by_turns(paths: dict[str, Path], case: Case, runner: str, threads: int) -> dict[str, list[float]]:
    """Median seconds of each round's runs, for each contender."""
    models = {
        "OpenCL": bitloom.load(paths["OpenCL"], threads, runner),
        "CPU": bitloom.load(paths["CPU"], threads),
    }
    sample = {case.input_name: case.calibration[0]}
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            found[name].append(float(statistics.median(model.time(sample, RUNS, 1))))
    opencl = models["OpenCL"]
    if isinstance(opencl, DeviceModel):
        print(f"  device: {opencl.device}")
    for model in models.values():
        model.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", default="mali/generic@host")
    parser.add_argument("--runner", default="opencl")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    for name in options.models:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder, fresh_folders():
            case = load_case(name, Path(folder))
            targets = {"OpenCL": options.target, "CPU": "host"}
            paths = {who: compiled(case, target, Path(folder)) for who, target in targets.items()}
            cold, *warm = creates(paths["OpenCL"], options.runner)
            best = min(warm)
            print(
                f"  create: {cold:.2f} s, from the file {best * 1e3:.0f} ms ({best / cold:.2%})", flush=True
            )
            times = by_turns(paths, case, options.runner, options.threads)
        for who, seconds in times.items():
            print(f"  {who:<7} {statistics.median(seconds) * 1e3:8.2f} ms, best {min(seconds) * 1e3:8.2f} ms")
        ratio = statistics.median(a / b for a, b in zip(times["OpenCL"], times["CPU"], strict=True))
        print(f"  OpenCL takes {ratio:.1f} times as long as the CPU's library (median of rounds)", flush=True)


if __name__ == "__main__":
    main()
