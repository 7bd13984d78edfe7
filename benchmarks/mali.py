"""Libraries for an OpenCL device, by turns with ncnn's int8 by Vulkan and with the library for this CPU.

Every contender has a process of its own, as in `benchmarks.host_latency`; each round times each once, in
alternating order, and ratios are taken within a round. On a computer without a GPU the devices are drivers
that compile for its CPU: PoCL for OpenCL, Mesa's lavapipe for Vulkan. All may use the same number of threads.

Also what a create costs: the first compiles all kernels, later ones take them from a file; drivers that keep
compiled kernels of their own (PoCL) are given a new folder for them. From the repository's root:

    python -m benchmarks.peers install ncnn         # once; without it, the CPU's library alone
    apt-get install mesa-vulkan-drivers libvulkan1  # Debian's lavapipe
    python -m benchmarks.mali squeezenet1_1 mbv2_100_224_deq --runner opencl --threads 2
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bitloom
from benchmarks.case import Case
from benchmarks.cases import CaseError, load_case
from benchmarks.contenders import Contender
from benchmarks.engines import RefusedError
from benchmarks.host_latency import Measurement, Slot, measure, ratio, spread
from benchmarks.peers import NCNN

MODELS = ("squeezenet1_1", "mbv2_100_224_deq")
CREATES = 5


def contenders(target: str, runner: str, threads: int) -> list[Contender]:
    """Ours on the device first. Devices that are CPUs keep to the number of threads."""
    count = str(threads)
    limits = {"POCL_MAX_PTHREAD_COUNT": count, "LP_NUM_THREADS": count, "OMP_NUM_THREADS": count}
    found = [
        Contender("bitloom OpenCL", "bitloom", {"target": target, "runner": runner}, variables=limits),
        Contender("bitloom CPU", "bitloom", {"target": "host"}),
    ]
    if NCNN.python is None:
        print(f"ncnn is left out: not installed; {NCNN.remedy}", file=sys.stderr)
        return found
    for label, device in (("ncnn int8 Vulkan", "vulkan"), ("ncnn int8 CPU", "cpu")):
        found.append(Contender(label, "ncnn", {"device": device}, NCNN.python, limits))
    return found


@contextmanager
def fresh_folders() -> Generator[None]:
    """Nothing compiled is at hand: neither ours nor PoCL's, which asks for its folder once in a process."""
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


def timed(case: Case, folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """Of those that take the case; prints first what a create of ours costs."""
    entrants: list[tuple[Contender, str]] = []
    for each in contenders(options.target, options.runner, options.threads):
        try:
            entrants.append((each, each.prepare(case, folder)))
        except RefusedError as refusal:
            print(f"{each.label} is left out: {refusal}", file=sys.stderr)
    cold, *warm = creates(Path(entrants[0][1]), options.runner)
    best, middle = min(warm), statistics.median(warm)
    kept = f"from the file {middle * 1e3:.1f} ms, at best {best * 1e3:.1f} ms ({middle / cold:.2%})"
    print(f"{case.name}: create {cold:.2f} s, {kept}", flush=True)
    with ExitStack() as stack:
        labels: list[str] = []
        slots: list[Slot] = []
        for each, prepared in entrants:
            try:
                served = stack.enter_context(each.open(case, folder, prepared, options.threads))
            except RefusedError as refusal:
                print(f"{each.label} is left out: {refusal}", file=sys.stderr)
                continue
            labels.append(each.label)
            slots.append(served.slot)
        found = measure(slots, options.rounds, options.slot_seconds)
    return [Measurement(case.name, options.threads, 0.0, *of) for of in zip(labels, found, strict=True)]


def table(rows: Sequence[Measurement]) -> str:
    lines: list[str] = []
    for row in rows:
        ms = spread(row.slots_ms)
        line = f"  {row.contender:<18} {ms.median:>9.2f} ms ({ms.p10:.2f} .. {ms.p90:.2f})"
        if row is not rows[0]:
            times = ratio(rows[0], row)
            line += f"   {rows[0].contender} / this {times.median:.2f} ({times.p10:.2f} .. {times.p90:.2f})"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", default="mali/generic@host")
    parser.add_argument("--runner", default="opencl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slot-seconds", type=float, default=0.5, help="timed part of one slot")
    options = parser.parse_args()
    with fresh_folders():
        for name in options.models:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    rows = timed(load_case(name, Path(folder)), Path(folder), options)
                except CaseError as error:
                    print(f"mali: {error}", file=sys.stderr)
                    sys.exit(2)
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
