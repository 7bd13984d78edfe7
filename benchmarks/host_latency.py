"""Latency on this machine: bitloom beside onnxruntime, OpenVINO and LiteRT, by turns.

Each contender has a process of its own. Every round times each once, in alternating order, while the others
sleep; ratios are taken within a round, so that a machine that slows down or speeds up does so to both sides.
The last line of a block compares with the fastest peer. The column `others` is the number of processors
that other processes kept busy meanwhile: figures with more than about 0.1 there, above all those of two
threads and more, say little. From the repository's root:

    python -m benchmarks.peers install openvino litert     # once; without them, onnxruntime alone
    python -m benchmarks.host_latency squeezenet1_1 resnet50 --threads 1 2
    python -m benchmarks.host_latency squeezenet1_1 --isa avx2
    python -m benchmarks.host_latency path/to/model.onnx --peers-only --json

A model is a path that ends in .onnx, `resnet50` (random weights), or a name in the folder that the
variable BITLOOM_ZOO names. With --isa, ours is compiled for that instruction set, and the peers find
no better one (benchmarks/cpuid.py); one that cannot be limited here is left out.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.case import Case
from benchmarks.cases import SEED, CaseError, load_case
from benchmarks.contenders import Contender, Served, contenders
from benchmarks.cpuid import INSTRUCTION_SETS
from benchmarks.engines import RefusedError

MODELS = ("squeezenet1_1", "mbv2_100_224_deq", "resnet50", "mbv1_025_224", "ic_resnet8", "kws_dscnn")
PACKAGES = ("apache-tvm", "bitloom", "numpy", "onnx", "onnxruntime")

Slot = Callable[[float], float]
"""Seconds that a slot lasts, to the median of its runs in ms."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """slots_ms: one figure per round, the median of that slot's runs.

    others: processors that other processes kept busy while this and its rivals were timed.
    """

    model: str
    threads: int
    others: float
    contender: str
    slots_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 10th and 90th percentile, the latter two by nearest rank."""

    median: float
    p10: float
    p90: float


def spread(samples: Sequence[float]) -> Spread:
    """samples: at least one."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Spread(statistics.median(ordered), ordered[round(0.1 * last)], ordered[round(0.9 * last)])


def ratio(subject: Measurement, peer: Measurement) -> Spread:
    """Time of subject / time of peer, over the rounds that both ran."""
    return spread([mine / its for mine, its in zip(subject.slots_ms, peer.slots_ms, strict=True)])


def main() -> None:
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="bitloom-latency-") as name:
        try:
            blocks = _blocks(arguments, Path(name))
        except CaseError as error:
            print(f"host_latency: {error}", file=sys.stderr)
            sys.exit(2)
    print(_as_json(blocks, arguments) if arguments.json else _as_table(blocks))


def _blocks(arguments: argparse.Namespace, folder: Path) -> list[list[Measurement]]:
    """A block for each model and number of threads. Errors: CaseError."""
    instruction_set = next((each for each in INSTRUCTION_SETS if each.name == arguments.isa), None)
    processors = _allowed_processors(max(arguments.threads))
    cases = [load_case(model, folder) for model in arguments.models]
    found, absent = contenders(instruction_set, folder)
    for each in absent:
        _progress(f"{each.label} is left out: {each.reason}")
    blocks: list[list[Measurement]] = []
    for case in cases:
        _progress(f"{case.name}: preparing")
        _pin(processors)
        entrants = _prepare(found[1:] if arguments.peers_only else found, case, folder)
        for threads in arguments.threads:
            _progress(f"{case.name}: timing, threads {threads}")
            _pin(processors[:threads])
            blocks.append(_time(entrants, case, folder, threads, arguments))
    return blocks


def _prepare(found: Sequence[Contender], case: Case, folder: Path) -> list[tuple[Contender, str]]:
    """Those that take the case, with what they prepared."""
    entrants: list[tuple[Contender, str]] = []
    for contender in found:
        try:
            entrants.append((contender, contender.prepare(case, folder)))
        except RefusedError as refusal:
            _progress(f"{case.name}: {contender.label} is left out: {refusal}")
    return entrants


def _time(
    entrants: Sequence[tuple[Contender, str]],
    case: Case,
    folder: Path,
    threads: int,
    arguments: argparse.Namespace,
) -> list[Measurement]:
    with ExitStack() as stack:
        served = [
            stack.enter_context(contender.open(case, folder, prepared, threads))
            for contender, prepared in entrants
        ]
        measure([each.slot for each in served], 1, 0)  # the first slot also makes their clocks known
        start, busy = time.perf_counter(), _busy_seconds() - _used_seconds(served)
        slots = measure([each.slot for each in served], arguments.rounds, arguments.slot_seconds)
        others = _busy_seconds() - _used_seconds(served) - busy
        share = max(0.0, others) / (time.perf_counter() - start)
    return [
        Measurement(case.name, threads, share, contender.label, times)
        for (contender, _), times in zip(entrants, slots, strict=True)
    ]


def measure(slots: Sequence[Slot], rounds: int, seconds: float) -> list[tuple[float, ...]]:
    """Milliseconds per contender and round; every other round goes backwards."""
    found: list[list[float]] = [[] for _ in slots]
    for number in range(rounds):
        turn = list(zip(slots, found, strict=True))
        for slot, times in turn if number % 2 == 0 else reversed(turn):
            times.append(slot(seconds))
    return [tuple(times) for times in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--threads", type=_positive, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=_positive, default=15)
    parser.add_argument(
        "--slot-seconds", type=float, default=0.2, help="timed part of one slot, at least 3 runs"
    )
    parser.add_argument(
        "--isa",
        choices=[each.name for each in INSTRUCTION_SETS],
        help="the instruction set of all contenders",
    )
    parser.add_argument("--peers-only", action="store_true", help="leave bitloom out")
    parser.add_argument("--json", action="store_true")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _as_table(blocks: Sequence[Sequence[Measurement]]) -> str:
    subject = blocks[0][0].contender
    lines = [
        f"{'model':<20} {'threads':>7} {'others':>6}  {'contender':<18} {'median ms':>9}  {'p10 .. p90':>18}"
        f"   {subject} / this (p10 .. p90)"
    ]
    for block in blocks:
        for row in block:
            ms = spread(row.slots_ms)
            line = (
                f"{row.model:<20} {row.threads:>7} {row.others:>6.2f}  {row.contender:<18} {ms.median:>9.3f}"
                f"  {ms.p10:>7.3f} .. {ms.p90:>7.3f}"
            )
            if row is not block[0]:
                times = ratio(block[0], row)
                line += f"   {times.median:.3f} ({times.p10:.3f} .. {times.p90:.3f})"
            lines.append(line)
        if len(block) > 1:
            peer = fastest(block[1:])
            times = ratio(block[0], peer)
            figures = f"{times.median:.3f} ({times.p10:.3f} .. {times.p90:.3f})"
            place = f"{block[0].model:<20} {block[0].threads:>7}"
            lines.append(f"{place}         {subject} / {peer.contender}, the fastest: {figures}")
    return "\n".join(lines)


def fastest(peers: Sequence[Measurement]) -> Measurement:
    """The peer of least median."""
    return min(peers, key=lambda peer: statistics.median(peer.slots_ms))


def _as_json(blocks: Sequence[Sequence[Measurement]], arguments: argparse.Namespace) -> str:
    def row(measurement: Measurement, subject: Measurement) -> dict[str, object]:
        times, to_subject = spread(measurement.slots_ms), ratio(subject, measurement)
        return {
            "model": measurement.model,
            "threads": measurement.threads,
            "others": measurement.others,
            "contender": measurement.contender,
            "median_ms": times.median,
            "subject": subject.contender,
            "ratio_to_this": {"median": to_subject.median, "p10": to_subject.p10, "p90": to_subject.p90},
            "slots_ms": measurement.slots_ms,
        }

    return json.dumps(
        {
            "processor": _processor(),
            "versions": {"python": platform.python_version(), **_versions()},
            "seed": SEED,
            "instruction_set": arguments.isa,
            "rounds": arguments.rounds,
            "slot_seconds": arguments.slot_seconds,
            "measurements": [row(each, block[0]) for block in blocks for each in block],
        },
        indent=2,
    )


def _versions() -> dict[str, str]:
    """Of those packages that are installed: bitloom may run from its source folder."""
    return {each.name: each.version for each in distributions() if each.name in PACKAGES}


def _processor() -> str:
    """Linux tells the model in /proc/cpuinfo; elsewhere the platform module knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _busy_seconds() -> float:
    """Processor time of all processes since the start of the system; 0 where Linux does not tell it."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
    except FileNotFoundError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _used_seconds(served: Sequence[Served]) -> float:
    """Processor time of this process and of the contenders'."""
    return time.process_time() + sum(each.processor_seconds for each in served)


def _allowed_processors(threads: int) -> list[int]:
    """Where threads can be pinned; empty where the system cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    processors = sorted(os.sched_getaffinity(0))
    if threads > len(processors):
        raise CaseError(f"--threads {threads}: this process may use {len(processors)} processors")
    return processors


def _pin(processors: Sequence[int]) -> None:
    """The calling thread and all threads that it starts from now on."""
    if processors:
        os.sched_setaffinity(0, processors)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
