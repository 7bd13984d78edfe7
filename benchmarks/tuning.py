"""How soon searches find the best known schedule: measured once, then replayed over seeds.

    python -m benchmarks.tuning collect FOLDER [--kernels 4] [--choices 240]
    python -m benchmarks.tuning replay FOLDER [--seeds 5] [--trials 64] [--plot FILE.png]
    python -m benchmarks.tuning rate [--trials 96]

`collect` measures many choices of the kernels of a network that take most of its time: the analytic model's
lists, draws by chance, and neighbours of the best. `replay` lets both searches walk what was measured,
without a device: each row is the share of the best known cost that was reached after 8, 16, … trials, median
over seeds (1.00 is the best known schedule). `rate` counts trials per minute on small kernels.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.layers import NETWORKS
from compiler.loops.form import Convolution
from compiler.numerics.element import Array
from schedules.cpu import plan_kernel
from schedules.machines import host_machine
from schedules.tuning.measure import Measurement, Unit
from schedules.tuning.records import Record, append, databases, read
from schedules.tuning.search import EvolutionarySearch, RandomSearch, Search
from schedules.tuning.space import Choice, KernelSpace
from schedules.tuning.transfer import form_of
from targets.measuring.host import HostDevice

_NETWORKS = {"squeezenet1_1": "squeezenet1_1", "mbv2": "mobilenet_v2"}
_ROUND, _BATCH = 8, 16


@dataclass(frozen=True)
class Landscape:
    """A space that ends where nothing was measured. costs: of its choices, infinite for those that failed."""

    space: KernelSpace
    costs: Mapping[Choice, float]

    @property
    def default(self) -> Choice:
        return self.space.default

    def ordered(self) -> Iterator[Choice]:
        return (choice for choice in self.space.ordered() if choice in self.costs)

    def neighbours(self, choice: Choice) -> list[Choice]:
        return [c for c in self.space.neighbours(choice) if c in self.costs]

    def drawn(self, random: Random) -> Choice:
        return random.choice(list(self.costs))

    def features(self, choice: Choice) -> Array:
        return self.space.features(choice)


def main_kernels(network: str, count: int) -> list[Convolution]:
    """The forms that take most multiply-accumulates, and the depthwise ones of most."""
    layers: Counter[Convolution] = NETWORKS[network]()
    ranked = sorted(layers, key=lambda form: -form.macs * layers[form])
    depthwise = [form for form in ranked if form.depthwise][: count // 3]
    return [form for form in ranked if not form.depthwise][: count - len(depthwise)] + depthwise


def collect(folder: Path, kernels: int, choices: int) -> None:
    """Appends to the records in `folder`; what they hold already is not measured again."""
    device = HostDevice()
    try:
        for name, network in _NETWORKS.items():
            for form in main_kernels(network, kernels):
                space = KernelSpace(form, host_machine())
                costs = dict(_known(folder, space))
                random = Random(1)
                wanted = dict.fromkeys(islice(space.ordered(), choices // 3))
                while len(wanted) < choices * 3 // 4:
                    wanted[space.drawn(random)] = None
                _measure(device, folder / f"{name}.jsonl", space, list(wanted), costs)
                best = sorted(costs, key=lambda c: costs[c])[:6]
                near = [c for b in best for c in space.neighbours(b) if c not in costs]
                _measure(device, folder / f"{name}.jsonl", space, near[: choices - len(wanted)], costs)
                share = costs[space.default] / min(costs.values())
                print(f"{name} {plan_kernel(form, space.machine).symbol}: {len(costs)} choices, {share:.3f}")
    finally:
        device.close()


def _measure(
    device: HostDevice, path: Path, space: KernelSpace, choices: list[Choice], costs: dict[Choice, float]
) -> None:
    new = [choice for choice in choices if choice not in costs]
    for first in range(0, len(new), _BATCH):
        part = new[first : first + _BATCH]
        for index, measurement in device.measure([space.plan(c) for c in part]):
            costs[part[index]] = measurement.cost
            append(path, [_record(device, space, part[index], measurement)])


def _record(device: HostDevice, space: KernelSpace, choice: Choice, m: Measurement) -> Record:
    measured = math.isfinite(m.cost)
    return Record(
        fingerprint=device.fingerprint,
        machine=space.machine_name,
        subject=space.subject,
        key=space.key(choice),
        form=space.describe(),
        choice=space.choice_json(choice),
        unit=Unit.SECONDS,
        outcome=m.outcome,
        cost=m.cost if measured else None,
        spread=m.spread if measured else None,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        said=m.said,
    )


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def _known(folder: Path, space: KernelSpace) -> Iterator[tuple[Choice, float]]:
    for path in databases(folder):
        for record in read(path, _warn):
            if record.subject == space.subject and (choice := space.choice_of(record.choice)) is not None:
                yield choice, math.inf if record.cost is None else record.cost


def landscapes(folder: Path) -> Iterator[tuple[str, Landscape]]:
    """Network and landscape of every kernel that `collect` has measured."""
    for path in databases(folder):
        records = {r.subject: r for r in read(path, _warn)}
        for record in records.values():
            space = KernelSpace(form_of(record.form["form"]), host_machine())
            yield path.stem, Landscape(space, dict(_known(folder, space)))


def curve(search: Search[Choice], costs: Mapping[Choice, float], trials: int) -> list[float]:
    """best known / best found, after each round."""
    best, found = math.inf, list[float]()
    lowest = min(costs.values())
    for _ in range(0, trials, _ROUND):
        for choice in search.propose(_ROUND):
            search.learn(choice, costs[choice])
            best = min(best, costs[choice])
        found.append(lowest / best)
    return found


def replay(folder: Path, seeds: int, trials: int, plot: Path | None) -> None:
    curves: dict[tuple[str, str], list[list[float]]] = {}
    reached = Counter[str]()
    total = 0
    header = " ".join(f"{n:5}" for n in range(_ROUND, trials + 1, _ROUND))
    print(f"{'kernel':44} {'choices':>7} {'search':>8} {header}")
    for network, land in landscapes(folder):
        total += 1
        name = plan_kernel(land.space.form, land.space.machine).symbol
        for kind, make in (("xgboost", EvolutionarySearch), ("random", RandomSearch)):
            runs = [curve(make(land, seed), land.costs, trials) for seed in range(seeds)]
            middle = [median(run[i] for run in runs) for i in range(len(runs[0]))]
            curves.setdefault((network, kind), []).extend(runs)
            reached[kind] += middle[-1] >= 0.95
            row = " ".join(f"{share:5.3f}" for share in middle)
            print(f"{network + ' ' + name:44} {len(land.costs):7} {kind:>8} {row}", flush=True)
    for kind in ("xgboost", "random"):
        print(f"{kind}: {reached[kind]} of {total} kernels at 95 % of the best known after {trials} trials")
    if plot is not None:
        _plot(curves, plot)


def _plot(curves: Mapping[tuple[str, str], list[list[float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    networks = sorted({network for network, _ in curves})
    figure, axes = plt.subplots(1, len(networks), figsize=(5 * len(networks), 3.5), squeeze=False)
    for axis, network in zip(axes[0], networks, strict=True):
        for kind in ("xgboost", "random"):
            runs = curves[network, kind]
            trials = [_ROUND * (i + 1) for i in range(len(runs[0]))]
            axis.plot(trials, [median(run[i] for run in runs) for i in range(len(trials))], label=kind)
        axis.set(title=network, xlabel="trials", ylabel="best known / best found")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def rate(trials: int) -> None:
    """Trials per minute, and processor seconds of a trial: a machine with other work is slower."""
    forms = [f for f in NETWORKS["mobilenet_v2"]() if f.macs < 10_000_000][:6]
    spaces = [KernelSpace(form, host_machine()) for form in forms]
    random = Random(0)
    plans = [spaces[i % len(spaces)].plan(spaces[i % len(spaces)].drawn(random)) for i in range(trials)]
    device = HostDevice()
    try:
        list(device.measure(plans[:4]))  # starts the workers
        before, start = os.times(), time.perf_counter()
        measured = sum(math.isfinite(m.cost) for _, m in device.measure(plans))
        seconds = time.perf_counter() - start
    finally:
        device.close()
    after = os.times()
    used = sum(after[:4]) - sum(before[:4])
    print(f"{measured} of {trials} trials in {seconds:.1f} s: {60 * trials / seconds:.0f} a minute")
    print(f"processor time with the workers' own start: {used / trials:.3f} s a trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("folder", type=Path)
    collecting.add_argument("--kernels", type=int, default=4, help="of each network")
    collecting.add_argument("--choices", type=int, default=240, help="of each kernel")
    replaying = commands.add_parser("replay")
    replaying.add_argument("folder", type=Path)
    replaying.add_argument("--seeds", type=int, default=5)
    replaying.add_argument("--trials", type=int, default=64)
    replaying.add_argument("--plot", type=Path)
    rating = commands.add_parser("rate")
    rating.add_argument("--trials", type=int, default=96)
    options = parser.parse_args()
    match options.command:
        case "collect":
            collect(options.folder, options.kernels, options.choices)
        case "replay":
            replay(options.folder, options.seeds, options.trials, options.plot)
        case _:
            rate(options.trials)


if __name__ == "__main__":
    main()
